"""The world in which operations run: workers, Beat, operators, a clock that stands, and a broker whose
messages are obeyed, lost or doubled as the operations say."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.apps import apps
from django.db import connection, transaction
from django.db.models import Q
from django.test import override_settings

from pm_celery import Envelope, clock, engine, execution, publish_many, ticks, wakeups
from pm_celery.broker import Post
from pm_celery.exceptions import Refused
from pm_celery.models import (
    DeadLetter,
    InboxMessage,
    Instance,
    OutboxCommand,
    Timer,
    Wakeup,
)
from pm_celery.operations import dead_letters, instances, pauses, timers
from pm_celery.transience import repeated
from tests.interleavings.operations import Operation
from tests.interleavings.subject import PROCESS, Broken, plan
from tests.interleavings.together import Pair
from tests.testapp.models import Effect

_BEGINNING = datetime(2030, 1, 1, tzinfo=UTC)
_A_MOMENT = timedelta(milliseconds=1)
_WRITTEN = [*apps.get_app_config("pm_celery").get_models(), Effect]
_MOST_AT_REST = 40
#: More rounds than any seed has needed by far.
MOST_ROUNDS = 80


class Unsettled(AssertionError):
    """There is no end of what is due."""


class RolledBack(Exception):
    """What the caller of ``publish`` raises in its own transaction."""


def forget_rows() -> None:
    tables = [model._meta.db_table for model in _WRITTEN]
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("; ".join(f"DELETE FROM {table}" for table in tables))
            return
        for table in tables:
            cursor.execute(f"DELETE FROM {table}")


class World:
    """One seed's world. ``apply`` runs one operation, ``settle`` lets everything come to rest."""

    def __init__(self, events: dict[str, Callable[..., Any]], pair: Pair) -> None:
        self.events = events
        self.pair = pair
        self.now = _BEGINNING
        self.mail: list[tuple[str, Any]] = []
        #: Event id to word and key, of what is committed; and the moment since when it surely is.
        self.published: dict[str, tuple[str, str]] = {}
        self.committed: dict[str, int] = {}
        #: Of operations that ran together: the first and last moment, and the youngest message before.
        self.spans: list[tuple[int, int, int]] = []
        self.cancelled_timers: set[str] = set()
        #: Those that an operator has fired, or set to another moment.
        self.moved_timers: set[str] = set()
        self.rounds = 0

    # -- operations -----------------------------------------------------------------------------

    def apply(self, operation: Operation) -> None:
        name, *rest = operation
        self.now += _A_MOMENT
        getattr(self, f"_{name}")(*rest)

    def _publish(self, events: list[list[Any]], commits: bool) -> None:
        def note() -> None:
            for id_, word, key, _ in events:
                self.published[id_] = (word, key)
                self.committed.setdefault(id_, plan.next_moment())

        with suppress(RolledBack), transaction.atomic():
            # Before publish does, so that nobody can have seen the events before they are noted.
            transaction.on_commit(note)
            publish_many(
                Envelope(self.events[word](key=key, do=do), event_id=id_)
                for id_, word, key, do in events
            )
            if not commits:
                raise RolledBack

    _again = _publish

    def _advance(self, lane: int) -> None:
        repeated("default", partial(engine.advance, lane), times=3)

    def _obey(self, message: tuple[str, Any]) -> None:
        kind, what = message
        if kind == "advance":
            self._advance(what)
        else:
            with suppress(Broken):
                (execution.run_each if isinstance(what, list) else execution.run)(what)

    def _deliver(self, n: int) -> None:
        if self.mail:
            self._obey(self.mail.pop(n % len(self.mail)))

    def _double(self, n: int) -> None:
        if self.mail:
            self._obey(self.mail[n % len(self.mail)])

    def _lose(self, n: int) -> None:
        if self.mail:
            del self.mail[n % len(self.mail)]

    def _run(self, n: int) -> None:
        commands = OutboxCommand.objects.filter(status="dispatched").order_by("id")
        ids = list(commands.values_list("command_id", flat=True))
        if ids:
            self._obey(("run", str(ids[n % len(ids)])))

    def _tick(self) -> None:
        ticks.tick()

    def _poison(self, what: str, times: int) -> None:
        plan.fails[what] = times

    def _heal(self) -> None:
        plan.fails.clear()

    def _letter(self, n: int) -> int:
        open_ = list(DeadLetter.objects.open().order_by("id").values_list("pk", flat=True))
        return int(open_[n % len(open_)]) if open_ else 0

    def _retry(self, n: int) -> None:
        with suppress(Refused):
            dead_letters.retry(self._letter(n), by="fuzz")

    def _discard(self, n: int, resume: bool) -> None:
        with suppress(Refused):
            dead_letters.discard(self._letter(n), resume=resume, by="fuzz")

    def _instance(self, key: str) -> int:
        found = Instance.objects.filter(process=PROCESS, key=key)
        return found.values_list("pk", flat=True).first() or 0

    def _cancel(self, key: str) -> None:
        with suppress(Refused):
            instances.cancel(self._instance(key), by="fuzz")

    def _time_out(self, key: str) -> None:
        with suppress(Refused):
            instances.fire_timeout(self._instance(key), by="fuzz")

    def _complete(self, key: str) -> None:
        with suppress(Refused):
            instances.complete(self._instance(key), by="fuzz")

    def _pause(self) -> None:
        with suppress(Refused):
            pauses.pause(PROCESS, by="fuzz")

    def _resume(self) -> None:
        with suppress(Refused):
            pauses.resume(PROCESS, by="fuzz")

    def _timer(self, n: int) -> Timer | None:
        set_ = list(Timer.objects.order_by("id"))
        return set_[n % len(set_)] if set_ else None

    def _cancel_timer(self, n: int) -> None:
        if timer := self._timer(n):
            # One that is set again meanwhile has the same row, but another message id.
            with suppress(Refused):
                with transaction.atomic():
                    timers.cancel(timer.pk, by="fuzz")
                self.cancelled_timers.add(timer.message_id)

    def _fire_timer(self, n: int) -> None:
        if timer := self._timer(n):
            self.moved_timers.add(timer.message_id)
            with suppress(Refused):
                timers.fire(timer.pk, by="fuzz")

    def _move_timer(self, n: int) -> None:
        if timer := self._timer(n):
            self.moved_timers.add(timer.message_id)
            with suppress(Refused):
                timers.move(timer.pk, self.now + timedelta(seconds=n), by="fuzz")

    def _jump(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def _rest(self) -> None:
        # Not all: a worker whose time is over wakes itself, as often as somebody else stands in its way.
        for _ in range(_MOST_AT_REST):
            self.now += _A_MOMENT
            self._deliver(0)

    def _together(self, first: Operation, turns: list[int], second: list[Operation]) -> None:
        def follow() -> None:
            for operation in second:
                self.apply(operation)

        self.together(partial(self.apply, first), turns, follow)

    def together(
        self, first: Callable[[], object], turns: Sequence[int], second: Callable[[], object]
    ) -> int | None:
        """Run both at once, in turns; after how many steps of the first one the second one came."""
        began = plan.next_moment()
        youngest = InboxMessage.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        try:
            return self.pair.run(first, turns, second)
        finally:
            self.spans.append((began, plan.next_moment(), youngest))

    def forgotten(self) -> list[str]:
        """What is due though every message was obeyed: nobody would look at it before the next tick."""
        if self.mail:
            return []
        due = InboxMessage.objects.open().filter(due_at__lte=self.now).order_by("id")
        return [f"{row.kind} {row.message_id} of {row.process} {row.key}" for row in due]

    # -- at rest --------------------------------------------------------------------------------

    def obey_all(self) -> None:
        """Obey every message, without a tick, until none is left."""
        for _ in range(50 * MOST_ROUNDS):
            if not self.mail:
                return
            self.now += _A_MOMENT
            self._deliver(0)
        raise Unsettled("there is no end of messages")

    def settle(self, *, to_the_end: bool) -> None:
        """Tick, obey, and let time pass, until nothing is due any more; to the end: over timeouts too."""
        self._resume()
        for self.rounds in range(1, MOST_ROUNDS):
            self._tick()
            self.obey_all()
            moment = self._next_moment(to_the_end)
            if moment is None:
                return
            self.now = max(moment, self.now) + _A_MOMENT
        raise Unsettled(f"still something due after {MOST_ROUNDS} rounds")

    def _next_moment(self, to_the_end: bool) -> datetime | None:
        # What waits for a start event that has failed waits for an operator, and is looked at each minute.
        waits = Q(reason="its start event failed")
        first = [
            InboxMessage.objects.open().exclude(waits).order_by("due_at").values_list("due_at"),
            OutboxCommand.objects.unsettled().order_by("due_at").values_list("due_at"),
            Timer.objects.filter(fired_at=None).order_by("due_at").values_list("due_at"),
        ]
        if to_the_end:
            timeouts = Instance.objects.filter(timeout_at__isnull=False)
            first.append(timeouts.order_by("timeout_at").values_list("timeout_at"))
        found = [row[0] for rows in first if (row := rows.first())]
        if not found:
            return None
        if min(found) > self.now:
            return min(found)
        # Due, and nobody was woken: a wake-up that got lost is outstanding until its lease ends.
        until = Wakeup.objects.filter(outstanding_until__gt=self.now)
        leases = until.order_by("outstanding_until").values_list("outstanding_until", flat=True)
        return leases.first() or self.now


@contextmanager
def world(
    options: dict[str, Any], events: dict[str, Callable[..., Any]], pair: Pair
) -> Iterator[World]:
    """A world of its own: settings, clock, chance, broker and pace are the seed's."""
    made = World(events, pair)

    def send(self: Post, task: str, args: Sequence[Any], *rest: Any, **others: Any) -> bool:
        made.mail.append(("advance" if task == "pm_celery.advance" else "run", args[0]))
        return True

    given = {name: value for name, value in options.items() if name.isupper()}
    counted_on = timedelta(0) if options["slow"] else wakeups.AT_WORK
    plan.forget()
    pair.refused.clear()
    pair.statements = 0
    random.seed(repr(sorted(options.items())))
    with (
        override_settings(PM_CELERY=given),
        pair.watched(),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(clock, "now", lambda: made.now)
        patch.setattr(Post, "send", send)
        patch.setattr(wakeups, "note_pace", lambda *_: None)
        patch.setattr(wakeups, "counted_on_for", lambda: counted_on)
        patch.setattr(wakeups, "_turns", itertools.count())
        yield made
