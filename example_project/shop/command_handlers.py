"""What commands do. Each handler runs in a Celery task, in one database transaction.

What it writes, what it publishes and the mark that it ran commit together, so a command that is
delivered twice takes effect once. Calls to third parties are not part of any transaction: they get
the command's id as their idempotency key.
"""

from uuid import UUID

from django.conf import settings
from django.db.models import F
from django.utils import timezone

from pm_celery import Message, Retry, command_handler, publish
from shop import providers
from shop.commands import (
    BookShipment,
    CancelOrder,
    DeliverParcel,
    FlagForReview,
    MarkSettled,
    RefundPayment,
    ReleaseStock,
    RemindOfPayment,
    ReportDiscrepancy,
    ReserveStock,
    SendOnboardingMail,
    TakePayment,
)
from shop.events import (
    OnboardingMailSent,
    OrderCancelled,
    OrderDelivered,
    OrderShipped,
    PaymentDeclined,
    StockRanOut,
    StockReserved,
)
from shop.models import (
    Carrier,
    Customer,
    Discrepancy,
    Mail,
    Order,
    Payment,
    Product,
    Reservation,
    Shipment,
)
from shop.payments import record_payment


def locked_order(order_id: UUID) -> Order:
    """The commands of one order, and its customer, take turns."""
    return Order.objects.select_for_update().get(pk=order_id)


# Stock


@command_handler(ReserveStock)
def reserve_stock(command: ReserveStock) -> None:
    order = locked_order(command.order_id)
    if Reservation.objects.filter(order=order).exists():
        return  # released already
    in_stock = Product.objects.filter(pk=order.product_id, stock__gte=order.quantity)
    if not in_stock.update(stock=F("stock") - order.quantity):
        publish(StockRanOut(order_id=order.id))
        return
    Reservation.objects.create(order=order, product=order.product, quantity=order.quantity)
    order.status = Order.Status.RESERVED
    order.save(update_fields=["status"])
    publish(StockReserved(order_id=order.id))


@command_handler(ReleaseStock)
def release_stock(command: ReleaseStock) -> None:
    order = locked_order(command.order_id)
    reservation, _ = Reservation.objects.get_or_create(
        order=order, defaults={"product": order.product, "quantity": 0}
    )
    Product.objects.filter(pk=order.product_id).update(stock=F("stock") + reservation.quantity)
    reservation.quantity = 0
    reservation.save(update_fields=["quantity"])


# Money


@command_handler(TakePayment, retry=Retry("exponential", max_retries=8))
def take_payment(command: TakePayment, message: Message) -> None:
    order = locked_order(command.order_id)
    if order.status != Order.Status.RESERVED:
        return  # cancelled in the meantime
    try:
        answer = providers.charge(
            order.card, order.total, order.payment_reference, idempotency_key=message.id
        )
    except providers.CardDeclined as refusal:
        publish(PaymentDeclined(order_id=order.id, reason=str(refusal)))
        return
    if answer == "taken":
        record_payment(order)
    else:
        order.status = Order.Status.UNCONFIRMED
        order.save(update_fields=["status"])


@command_handler(RemindOfPayment)
def remind_of_payment(command: RemindOfPayment) -> None:
    order = locked_order(command.order_id)
    if order.status == Order.Status.UNCONFIRMED:
        send_mail(order.customer, "reminder", f"Order {order}: please confirm your payment", order)


@command_handler(RefundPayment)
def refund_payment(command: RefundPayment, message: Message) -> None:
    order = locked_order(command.order_id)
    payment = Payment.objects.filter(order=order, refunded_at=None).first()
    if payment is None:
        return  # nothing was taken
    providers.refund(payment.reference, idempotency_key=message.id)
    payment.refunded_at = timezone.now()
    payment.save(update_fields=["refunded_at"])


@command_handler(MarkSettled)
def mark_settled(command: MarkSettled) -> None:
    Payment.objects.filter(reference=command.reference).update(settled_at=timezone.now())


@command_handler(ReportDiscrepancy)
def report_discrepancy(command: ReportDiscrepancy) -> None:
    Discrepancy.objects.update_or_create(
        reference=command.reference,
        defaults={"problem": command.problem[:200], "reported_at": timezone.now()},
    )


# Parcels


@command_handler(
    BookShipment,
    retry=Retry("exponential", max_retries=3, delay=settings.SHOP_CARRIER_RETRY),
    time_limit=60,
)
def book_shipment(command: BookShipment, message: Message) -> None:
    order = locked_order(command.order_id)
    if order.status != Order.Status.PAID:
        return  # cancelled in the meantime
    carrier = Carrier.objects.get(contract=command.contract)
    tracking = providers.book(
        carrier, order.id, idempotency_key=message.id, attempt=message.attempt
    )
    Shipment.objects.create(
        order=order, carrier=carrier, tracking=tracking, shipped_at=timezone.now()
    )
    order.status = Order.Status.SHIPPED
    order.review_reason = ""
    order.save(update_fields=["status", "review_reason"])
    publish(OrderShipped(order_id=order.id, tracking=tracking))


@command_handler(DeliverParcel)
def deliver_parcel(command: DeliverParcel) -> None:
    order = locked_order(command.order_id)
    if order.status != Order.Status.SHIPPED:
        return  # sent back
    Shipment.objects.filter(order=order).update(delivered_at=timezone.now())
    order.status = Order.Status.DELIVERED
    order.save(update_fields=["status"])
    publish(OrderDelivered(order_id=order.id))


# Orders as a whole


@command_handler(CancelOrder)
def cancel_order(command: CancelOrder) -> None:
    order = locked_order(command.order_id)
    if order.status in (Order.Status.DELIVERED, Order.Status.CANCELLED):
        return
    order.status = Order.Status.CANCELLED
    order.cancelled_because = command.reason
    order.save(update_fields=["status", "cancelled_because"])
    publish(OrderCancelled(order_id=order.id, reason=command.reason))
    send_mail(order.customer, "cancelled", f"Order {order} is cancelled: {command.reason}", order)


@command_handler(FlagForReview)
def flag_for_review(command: FlagForReview) -> None:
    order = locked_order(command.order_id)
    if order.status in (Order.Status.SHIPPED, Order.Status.DELIVERED, Order.Status.CANCELLED):
        return  # somebody was quicker
    order.review_reason = command.reason
    order.save(update_fields=["review_reason"])


# Mail

ONBOARDING_SUBJECTS = {
    "welcome": "Welcome to the tea house",
    "tip": "A tip: let green tea steep for two minutes",
    "survey": "How do you like it so far?",
}


@command_handler(SendOnboardingMail)
def send_onboarding_mail(command: SendOnboardingMail) -> None:
    customer = Customer.objects.select_for_update().get(pk=command.customer_id)
    if customer.left_at:
        return  # left while this was on its way
    send_mail(customer, command.mail, ONBOARDING_SUBJECTS[command.mail])
    publish(OnboardingMailSent(customer_id=customer.id, mail=command.mail))


def send_mail(customer: Customer, sort: str, subject: str, order: Order | None = None) -> None:
    Mail.objects.create(
        customer=customer, order=order, sort=sort, subject=subject, sent_at=timezone.now()
    )
