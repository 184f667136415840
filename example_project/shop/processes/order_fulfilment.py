"""An order's way from placement to delivery, or back."""

from uuid import UUID

from django.conf import settings

from pm_celery import (
    Failure,
    ProcessManager,
    Retry,
    handle,
    on_command_failed,
    on_failure,
    on_timeout,
    on_timer,
)
from shop.commands import (
    BookShipment,
    CancelOrder,
    FlagForReview,
    ReleaseStock,
    RemindOfPayment,
    ReserveStock,
    TakePayment,
)
from shop.events import (
    OrderCancelled,
    OrderDelivered,
    OrderPlaced,
    OrderShipped,
    PaymentDeclined,
    PaymentTaken,
    StockRanOut,
    StockReserved,
)
from shop.models import Carrier


class OrderFulfilment(ProcessManager):
    """Reserves the stock, takes the payment, ships; and takes back what it did where a step fails.

    It coordinates and leaves the doing to command handlers: what reserving or charging means, it
    does not know. Out of stock and declined are ordinary outcomes, so they are events. An exception
    is for what nobody planned.
    """

    order_id: UUID | None = None
    delivery: str = ""
    tracking: str = ""

    class Meta:
        # All these events name their order, and the first one sets the state's field from it.
        correlate = {"order_id": "order_id"}
        completed_by = [OrderDelivered, OrderCancelled]
        timeout = settings.SHOP_ORDER_TIMEOUT
        # A contract that is not signed now will not be a second later.
        retry = Retry("exponential", max_retries=3, terminal=(Carrier.DoesNotExist,))

    @handle(OrderPlaced, start=True)
    def placed(self, event: OrderPlaced) -> None:
        self.delivery = event.delivery
        self.send(ReserveStock(order_id=self.order_id))

    @handle(StockReserved)
    def reserved(self, event: StockReserved) -> None:
        self.send(TakePayment(order_id=self.order_id))
        self.set_timer("payment_reminder", settings.SHOP_PAYMENT_REMINDER)

    @handle(PaymentTaken)
    def paid(self, event: PaymentTaken) -> None:
        self.cancel_timer("payment_reminder")
        carrier = Carrier.objects.get(code=self.delivery, is_signed=True)
        self.send(BookShipment(order_id=self.order_id, contract=carrier.contract))

    @handle(OrderShipped)
    def shipped(self, event: OrderShipped) -> None:
        self.tracking = event.tracking

    # What may come in between. The instance ends when OrderCancelled arrives: see Meta.

    @handle(StockRanOut)
    def out_of_stock(self, event: StockRanOut) -> None:
        self.send(CancelOrder(order_id=self.order_id, reason="out of stock"))

    @handle(PaymentDeclined)
    def declined(self, event: PaymentDeclined) -> None:
        self.cancel_timer("payment_reminder")
        self.send(ReleaseStock(order_id=self.order_id))
        self.send(CancelOrder(order_id=self.order_id, reason=event.reason))

    @on_timer("payment_reminder")
    def remind(self) -> None:
        self.send(RemindOfPayment(order_id=self.order_id))

    @on_timeout
    def timed_out(self) -> None:
        self.send(ReleaseStock(order_id=self.order_id))
        self.send(CancelOrder(order_id=self.order_id, reason="it took too long"))

    # What nobody planned. Both leave the rest to a person, who retries or discards the dead letter.

    @on_command_failed(BookShipment)
    def carrier_out_of_reach(self, failure: Failure) -> None:
        self.send(FlagForReview(order_id=self.order_id, reason=failure.error))

    @on_failure
    def failed(self, failure: Failure) -> None:
        reason = f"{failure.name}: {failure.error}"
        # Not the state's field: where placing the order has failed, the state is as it was before.
        self.send(FlagForReview(order_id=UUID(self.key), reason=reason))
