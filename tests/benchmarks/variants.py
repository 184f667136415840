"""The variants: the same orders by pm_celery, by hand, as bare tasks, and by plain psycopg."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

import redis
from django.conf import settings
from django.db import transaction

from pm_celery import publish, publish_many
from pm_celery.conf import Settings
from pm_celery.models import InboxMessage, OutboxCommand
from tests.benchmarks import checking, names
from tests.benchmarks.shop import bare, by_hand, processes
from tests.benchmarks.shop.effects import Effects
from tests.benchmarks.shop.models import OrderTransition, Purchase
from tests.benchmarks.traffic import AMOUNT, EVENTS_PER_ORDER
from tests.benchmarks.workers import QUEUE

__all__ = [
    "VARIANTS",
    "Bare",
    "ByHand",
    "Engine",
    "Floor",
    "Listening",
    "PmCelery",
    "SeveralCommands",
    "Variant",
]

Event = tuple[UUID, int]
_COMMANDS_PER_ORDER = len(checking.COMMANDS)


class Variant(ABC):
    """One way to do the work: how events get in, when all is done, and what must be true then."""

    name: ClassVar[str]
    #: Whether Beat runs beside the workers where events arrive one by one.
    beat: ClassVar[bool] = False
    #: The setting PM_CELERY of workers and publishers.
    pm_celery: ClassVar[dict[str, Any]] = {}
    #: The effects that each order leaves.
    commands: ClassVar[Sequence[str]] = checking.COMMANDS

    @classmethod
    def missing(cls, database: str) -> str:
        """Why it cannot run here, or ""."""
        return ""

    @abstractmethod
    def put_backlog(self, events: Iterable[Event]) -> None:
        """Put events where the workers will find them, as quickly as that goes."""

    @abstractmethod
    def publish(self, order: UUID, sequence: int) -> None:
        """Publish one event, inside the caller's transaction."""

    def transact(self, order: UUID, sequence: int) -> float:
        """A web request's transaction, with a row of its own; the moment at which it published."""
        with transaction.atomic():
            Purchase.objects.create(order_id=order, step=sequence)
            called = time.time()
            self.publish(order, sequence)
        return called

    @abstractmethod
    def is_done(self, orders: int, effects: Effects) -> bool:
        """Whether all events of so many orders are handled, and their commands done; cheap to ask."""

    @abstractmethod
    def waiting(self) -> int:
        """How many events and commands wait to be handled."""

    @abstractmethod
    def check(self, orders: Sequence[UUID], effects: Effects) -> None:
        """Raise ``CheckFailed`` unless everything happened once and in order."""


class _Tasks(Variant):
    """Variants whose events are Celery messages."""

    @abstractmethod
    def _delay(self, order: UUID, sequence: int) -> None:
        """Send one event's task."""

    def put_backlog(self, events: Iterable[Event]) -> None:
        for order, sequence in events:
            self._delay(order, sequence)

    def publish(self, order: UUID, sequence: int) -> None:
        transaction.on_commit(partial(self._delay, order, sequence))

    def waiting(self) -> int:
        """In the queue, and in the hands of workers."""
        with redis.Redis.from_url(settings.CELERY_BROKER_URL) as client:
            return int(client.llen(QUEUE)) + int(client.hlen("unacked"))


class Bare(_Tasks):
    name = names.BARE
    commands = tuple(f"event-{number}" for number in range(1, EVENTS_PER_ORDER + 1))

    def _delay(self, order: UUID, sequence: int) -> None:
        bare.receive.delay(str(order), sequence)

    def is_done(self, orders: int, effects: Effects) -> bool:
        return effects.count() >= orders * EVENTS_PER_ORDER

    def check(self, orders: Sequence[UUID], effects: Effects) -> None:
        checking.check_effects(orders, effects, self.commands)


class ByHand(_Tasks):
    name = names.BY_HAND

    def _delay(self, order: UUID, sequence: int) -> None:
        match sequence:
            case 1:
                by_hand.order_placed.delay(str(order), sequence)
            case 2:
                by_hand.order_paid.delay(str(order), sequence, AMOUNT)
            case _:
                by_hand.order_delivered.delay(str(order), sequence)

    def is_done(self, orders: int, effects: Effects) -> bool:
        # The rows, which take longer to count, only once all effects are there.
        return (
            effects.count() >= orders * _COMMANDS_PER_ORDER
            and OrderTransition.objects.count() >= orders * EVENTS_PER_ORDER
        )

    def check(self, orders: Sequence[UUID], effects: Effects) -> None:
        checking.check_by_hand(len(orders))
        checking.check_effects(orders, effects, self.commands)


class PmCelery(Variant):
    name = names.PM_CELERY
    beat = True
    events: ClassVar[Sequence[type]] = (
        processes.OrderPlaced,
        processes.OrderPaid,
        processes.OrderDelivered,
    )

    def event(self, order: UUID, sequence: int) -> object:
        """The event of that number."""
        amount = {"amount": AMOUNT} if sequence == 2 else {}
        return self.events[sequence - 1](order_id=order, sequence=sequence, **amount)

    def put_backlog(self, events: Iterable[Event]) -> None:
        publish_many(self.event(order, sequence) for order, sequence in events)

    def publish(self, order: UUID, sequence: int) -> None:
        publish(self.event(order, sequence))

    def is_done(self, orders: int, effects: Effects) -> bool:
        # Commands are inserted by the transaction that settles their event: once no event is open,
        # no command is to come.
        return not _any_open() and not _any_unsettled()

    def waiting(self) -> int:
        return InboxMessage.objects.open().count() + OutboxCommand.objects.unsettled().count()

    def check(self, orders: Sequence[UUID], effects: Effects) -> None:
        checking.check_process(len(orders), [f"shop.{event.__name__}" for event in self.events])
        if self.commands:
            checking.check_commands(len(orders))
        checking.check_effects(orders, effects, self.commands)


class SeveralCommands(PmCelery):
    name = names.SEVERAL
    pm_celery: ClassVar[dict[str, Any]] = {"COMMANDS_PER_MESSAGE": 50}

    @classmethod
    def missing(cls, database: str) -> str:
        known = {field.name.upper() for field in dataclasses.fields(Settings)}
        unknown = cls.pm_celery.keys() - known
        return f"this pm_celery has no setting {', '.join(sorted(unknown))}" if unknown else ""


class Listening(PmCelery):
    name = names.LISTENING
    pm_celery: ClassVar[dict[str, Any]] = {"LISTEN": True}

    @classmethod
    def missing(cls, database: str) -> str:
        return "" if database == "postgres" else "only PostgreSQL has NOTIFY"


class Engine(PmCelery):
    name = names.ENGINE
    commands = ()
    events = (processes.SilentPlaced, processes.SilentPaid, processes.SilentDelivered)


class Floor(Engine):
    """Its backlog is the engine's; nobody publishes to it one by one."""

    name = names.FLOOR

    @classmethod
    def missing(cls, database: str) -> str:
        return "" if database == "postgres" else "it is written for PostgreSQL"


def _any_open() -> bool:
    # In the order of pm_inbox_due, and so through it.
    rows = InboxMessage.objects.open().order_by("partition", "due_at", "id")
    return bool(rows.values_list("pk")[:1])


def _any_unsettled() -> bool:
    rows = OutboxCommand.objects.unsettled().order_by("due_at", "id")
    return bool(rows.values_list("pk")[:1])


VARIANTS: dict[str, Callable[[], Variant]] = {
    kind.name: kind for kind in (Floor, Bare, ByHand, Engine, PmCelery, SeveralCommands, Listening)
}
