"""A small process that many tests drive: an order, from placement to delivery."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID, uuid4

from pm_celery import (
    Failure,
    ProcessManager,
    Retry,
    command,
    command_handler,
    event,
    handle,
    on_command_failed,
    on_failure,
    on_timeout,
    on_timer,
    publish,
)
from tests.testapp.models import Effect


@event
class Placed:
    order_id: UUID
    total: Decimal = Decimal("9.90")


@event
class Paid:
    order_id: UUID


@event
class Shipped:
    order_id: UUID


@event
class Reserved:
    order_id: UUID


@command
class Reserve:
    order_id: UUID


@command
class Ship:
    order_id: UUID
    works: bool = True


@command
class Cancel:
    order_id: UUID


class Broken(Exception):
    """What a test lets a handler raise."""


class Plan:
    """What handlers are to do wrong, set by tests and reset after each."""

    raise_in: dict[str, BaseException | None] = {}
    ran: list[str] = []

    @classmethod
    def visit(cls, name: str) -> None:
        cls.ran.append(name)
        error = cls.raise_in.get(name)
        if error is not None:
            raise error


class Order(ProcessManager):
    """Drives an order from placement to delivery."""

    order_id: UUID | None = None
    total: Decimal = Decimal(0)
    reminded: int = 0
    problem: str = ""

    class Meta:
        timeout = "7d"
        retry = Retry("fixed", delay="1s", max_retries=3, jitter=False, terminal=(KeyError,))

    @handle(Placed, start=True, correlate="order_id")
    def placed(self, event: Placed) -> None:
        Plan.visit("placed")
        self.order_id, self.total = event.order_id, event.total
        self.send(Reserve(order_id=event.order_id))
        self.set_timer("reminder", "24h")

    @handle(Paid, correlate="order_id")
    def paid(self, event: Paid) -> None:
        Effect.objects.create(name=f"paid {event.order_id}")
        Plan.visit("paid")
        self.cancel_timer("reminder")
        self.send(Ship(order_id=event.order_id))

    @handle(Reserved, correlate="order_id")
    def reserved(self, event: Reserved) -> None:
        Plan.visit("reserved")

    @handle(Shipped, correlate="order_id", end=True)
    def shipped(self, event: Shipped) -> None:
        Plan.visit("shipped")

    @on_timer("reminder")
    def remind(self) -> None:
        Plan.visit("remind")
        self.reminded += 1

    @on_timeout
    def timed_out(self) -> None:
        Plan.visit("timed_out")
        self.send(Cancel(order_id=self.order_id or uuid4()))

    @on_command_failed(Ship)
    def not_shipped(self, failure: Failure) -> None:
        Plan.visit("not_shipped")
        self.problem = f"{failure.exception}: {failure.error}"

    @on_failure
    def failed(self, failure: Failure) -> None:
        Plan.visit("failed")
        self.problem = f"{failure.exception}: {failure.error}"
        self.send(Cancel(order_id=self.order_id or uuid4()))


@command_handler(Reserve)
def reserve(command: Reserve) -> None:
    Plan.visit("reserve")
    Effect.objects.create(name=f"reserved {command.order_id}")
    publish(Reserved(order_id=command.order_id))


@command_handler(Ship, retry=Retry("fixed", delay="1s", max_retries=1, jitter=False))
def ship(command: Ship) -> None:
    Plan.visit("ship")
    Effect.objects.create(name=f"shipped {command.order_id}")


@command_handler(Cancel)
def cancel(command: Cancel) -> None:
    Plan.visit("cancel")
    Effect.objects.create(name=f"cancelled {command.order_id}")
