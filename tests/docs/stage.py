"""The order that the pages speak of: for their invisible code."""

from __future__ import annotations

from pm_celery import ProcessManager, Retry, event, handle, publish
from tests.driving import drain

KEY = "4711"


def order_4711(*, fails: bool = False) -> None:
    """An order that was placed, paid and packed, or failed at its payment; its process is OrderFulfilment."""

    @event(name="shop.OrderPlaced")
    class OrderPlaced:
        order_id: str

    @event(name="shop.OrderPaid")
    class OrderPaid:
        order_id: str

    @event(name="shop.OrderDelivered")
    class OrderDelivered:
        order_id: str

    class OrderFulfilment(ProcessManager):
        steps: int = 0

        class Meta:
            name = "shop.OrderFulfilment"
            correlate = "order_id"
            retry = Retry("none")

        @handle(OrderPlaced, start=True)
        def placed(self, event: OrderPlaced) -> None:
            self.steps += 1

        @handle(OrderPaid)
        def paid(self, event: OrderPaid) -> None:
            self.steps += 1
            if fails:
                raise ConnectionError("the payment provider does not answer")

        @handle(OrderDelivered, end=True)
        def delivered(self, event: OrderDelivered) -> None:
            self.steps += 1

    for happened in (OrderPlaced, OrderPaid, OrderPaid):
        publish(happened(KEY))
    drain()
