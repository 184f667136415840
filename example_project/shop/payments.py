"""Money that came in."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from django.utils import timezone

from pm_celery import Envelope, publish, publish_many
from shop.events import PaymentTaken, SettlementLineReceived
from shop.models import Order, Payment


@dataclass(frozen=True)
class SettlementLine:
    """One line of the provider's settlement file; ``id`` is the provider's."""

    id: str
    reference: str
    amount: Decimal


def record_payment(order: Order) -> None:
    """Write the payment down and tell the processes. The caller holds the order's lock."""
    order.status = Order.Status.PAID
    order.save(update_fields=["status"])
    payment = Payment.objects.create(
        order=order,
        reference=order.payment_reference,
        amount=order.total,
        taken_at=timezone.now(),
    )
    publish(PaymentTaken(order_id=order.id, reference=payment.reference, amount=payment.amount))


def import_settlement(lines: Iterable[SettlementLine]) -> None:
    """Publish the lines in bulk. A line's id is its event's: a file imported twice counts once."""
    publish_many(
        Envelope(
            SettlementLineReceived(reference=line.reference, amount=line.amount),
            event_id=f"settlement:{line.id}",
        )
        for line in lines
    )
