"""The order as pm_celery has it: with commands, and without any, to measure the engine alone."""

from __future__ import annotations

from dataclasses import field
from uuid import UUID

from pm_celery import ProcessManager, command, command_handler, event, handle
from tests.benchmarks.shop import effects


@event
class OrderPlaced:
    order_id: UUID
    sequence: int


@event
class OrderPaid:
    order_id: UUID
    sequence: int
    amount: int


@event
class OrderDelivered:
    order_id: UUID
    sequence: int


@command
class ReserveStock:
    order_id: UUID


@command
class ShipOrder:
    order_id: UUID


class OrderProcess(ProcessManager):
    """Three events, two commands."""

    order_id: UUID | None = None
    paid: int = 0
    seen: list[int] = field(default_factory=list)

    @handle(OrderPlaced, start=True, correlate="order_id")
    def order_placed(self, event: OrderPlaced) -> None:
        self.order_id = event.order_id
        self.seen.append(event.sequence)
        self.send(ReserveStock(event.order_id))

    @handle(OrderPaid, correlate="order_id")
    def order_paid(self, event: OrderPaid) -> None:
        self.paid = event.amount
        self.seen.append(event.sequence)
        self.send(ShipOrder(event.order_id))

    @handle(OrderDelivered, correlate="order_id", end=True)
    def order_delivered(self, event: OrderDelivered) -> None:
        self.seen.append(event.sequence)


@command_handler(ReserveStock)
def reserve_stock(command: ReserveStock) -> None:
    effects.note("ReserveStock", command.order_id)


@command_handler(ShipOrder)
def ship_order(command: ShipOrder) -> None:
    effects.note("ShipOrder", command.order_id)


@event
class SilentPlaced:
    order_id: UUID
    sequence: int


@event
class SilentPaid:
    order_id: UUID
    sequence: int
    amount: int


@event
class SilentDelivered:
    order_id: UUID
    sequence: int


class SilentOrder(ProcessManager):
    """Three events, no command."""

    order_id: UUID | None = None
    paid: int = 0
    seen: list[int] = field(default_factory=list)

    @handle(SilentPlaced, start=True, correlate="order_id")
    def order_placed(self, event: SilentPlaced) -> None:
        self.order_id = event.order_id
        self.seen.append(event.sequence)

    @handle(SilentPaid, correlate="order_id")
    def order_paid(self, event: SilentPaid) -> None:
        self.paid = event.amount
        self.seen.append(event.sequence)

    @handle(SilentDelivered, correlate="order_id", end=True)
    def order_delivered(self, event: SilentDelivered) -> None:
        self.seen.append(event.sequence)
