"""The order as pm_celery has it: with commands, and without any, to measure the engine alone."""

from __future__ import annotations

import time
from dataclasses import field
from uuid import UUID

from pm_celery import ProcessManager, command, command_handler, event, handle, on_timer
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


@event
class ParcelPosted:
    parcel_id: UUID
    sequence: int


@event
class ParcelMoved:
    parcel_id: UUID
    sequence: int


@event
class ParcelArrived:
    parcel_id: UUID
    sequence: int


class Parcel(ProcessManager):
    """Any number of events, two timers, and a state that does not grow with them."""

    moves: int = 0
    in_order: bool = True
    reminders: int = 0

    @handle(ParcelPosted, start=True, correlate="parcel_id")
    def posted(self, event: ParcelPosted) -> None:
        self._note(event.sequence)

    @handle(ParcelMoved, correlate="parcel_id")
    def moved(self, event: ParcelMoved) -> None:
        self._note(event.sequence)

    @handle(ParcelArrived, correlate="parcel_id", end=True)
    def arrived(self, event: ParcelArrived) -> None:
        self._note(event.sequence)

    @on_timer("reminder")
    def remind(self) -> None:
        self.reminders += 1

    @on_timer("escalation")
    def escalate(self) -> None:
        self.reminders += 1

    def _note(self, sequence: int) -> None:
        self.in_order = self.in_order and sequence == self.moves + 1
        self.moves = sequence


@event
class SlowPlaced:
    order_id: UUID


class SlowOrder(ProcessManager):
    """One event, whose handler waits, as for a service."""

    @handle(SlowPlaced, start=True, correlate="order_id", end=True)
    def order_placed(self, event: SlowPlaced) -> None:
        time.sleep(0.005)
