"""What happens in the shop: past tense, never changed afterwards.

A declared class is a frozen dataclass. Its wire name is ``shop.<class name>``; its fields are
validated when it is published.
"""

from decimal import Decimal
from uuid import UUID

from pm_celery import event

# Orders


@event
class OrderPlaced:
    order_id: UUID
    delivery: str


@event
class StockReserved:
    order_id: UUID


@event
class StockRanOut:
    order_id: UUID


@event
class OrderShipped:
    order_id: UUID
    tracking: str


@event
class OrderDelivered:
    order_id: UUID


@event
class OrderCancelled:
    order_id: UUID
    reason: str


# Money


@event
class PaymentTaken:
    order_id: UUID
    reference: str
    amount: Decimal


@event
class PaymentDeclined:
    order_id: UUID
    reason: str


@event
class SettlementLineReceived:
    """The payment provider says that it passed a payment on to our bank."""

    reference: str
    amount: Decimal


# Customers


@event
class CustomerJoined:
    customer_id: UUID


@event
class OnboardingMailSent:
    customer_id: UUID
    mail: str


@event
class CustomerLeft:
    customer_id: UUID
