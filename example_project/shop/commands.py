"""What the processes ask for: imperative, each with exactly one handler in ``command_handlers``."""

from typing import Literal
from uuid import UUID

from pm_celery import command

# Orders


@command
class ReserveStock:
    order_id: UUID


@command
class ReleaseStock:
    order_id: UUID


@command
class TakePayment:
    order_id: UUID


@command
class RemindOfPayment:
    order_id: UUID


@command
class RefundPayment:
    order_id: UUID


@command
class BookShipment:
    order_id: UUID
    contract: str


@command
class DeliverParcel:
    order_id: UUID


@command
class CancelOrder:
    order_id: UUID
    reason: str


@command
class FlagForReview:
    order_id: UUID
    reason: str


# Money


@command
class MarkSettled:
    reference: str


@command
class ReportDiscrepancy:
    reference: str
    problem: str


# Customers


@command
class SendOnboardingMail:
    customer_id: UUID
    mail: Literal["welcome", "tip", "survey"]
