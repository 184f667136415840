"""What workers and Beat do, done by hand, one thing after another: for tests, on real rows.

Everything here works inside Django's ``TestCase`` too, whose transaction is never committed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import Any

from celery import current_app
from django.db import connections
from django.db.models import F
from kombu.utils import json as kombu_json

from pm_celery import clock, engine, execution, outbox, ticks, wakeups
from pm_celery.conf import get_settings
from pm_celery.durations import Duration, parse_duration
from pm_celery.keys import PARTITIONS
from pm_celery.models import BulkAction, OutboxCommand
from pm_celery.operations import bulk as bulk_actions
from pm_celery.testing.upcoming import handled_since, is_anything_due, upcoming

__all__ = ["MOST_ROUNDS", "NotSettled", "Time", "advance_all", "drain", "run_commands"]

MOST_ROUNDS = 200
# Moments at which something was due, in one `elapse`.
MOST_MOMENTS = 2000
_MOST_NAMED = 10

logger = logging.getLogger("pm_celery")


class NotSettled(AssertionError):
    """There was still something to do after as many rounds as a test takes; the text tells what."""


def drain(*, most_rounds: int = MOST_ROUNDS) -> None:
    """Tick, handle messages and run commands, until nothing is due.

    A handler that raises does here what it does in production: it is run again after its backoff, which
    :meth:`Time.elapse` passes, and becomes a dead letter at last. Raises :class:`NotSettled`.
    """
    began = clock.now()
    for _ in range(most_rounds):
        if not _work_once():
            return
    raise NotSettled(_still_due(most_rounds, began))


def _work_once() -> bool:
    with _committing():
        ticks.tick()
    advance_all()
    ran = run_commands() + _run_signatures() + _work_on_bulk_actions()
    return bool(ran) or is_anything_due()


def advance_all() -> None:
    """Handle messages until none is due, as workers do that were woken."""
    while partitions := wakeups.partitions_with_work(range(PARTITIONS)):
        for partition in partitions:
            # Nobody else is at work, whatever mark virtual time may have made look like a worker's.
            with _committing():
                while engine.advance(partition, counts_on_others=False):
                    pass
        if partitions == wakeups.partitions_with_work(range(PARTITIONS)):
            # What is left is held by another connection: of a test's own worker.
            return


def run_commands() -> int:
    """Run every dispatched command once, as workers do that receive its task; how many ran."""
    ran = 0
    for command in _dispatched("command"):
        try:
            with _committing():
                ran += execution.run(str(command.command_id)) != execution.UNKNOWN_HERE
        except Exception:
            # What a command raises that is given up is for Celery to see; the row tells as well.
            command.refresh_from_db(using=get_settings().database, fields=["status"])
            if command.status != "dead":
                raise
            ran += 1
    return ran


def _run_signatures() -> int:
    """Run every dispatched signature of a task that is registered here; how many ran."""
    ran = 0
    for command in _dispatched("signature").filter(attempts__lt=F("dispatches")):
        stored = kombu_json.loads(command.payload)
        task: Any = current_app.tasks.get(stored["task"])
        if task is None:
            continue
        command_id = str(command.command_id)
        with _committing():
            # Celery's signals around it tell what became of it, here as in a worker.
            task.apply(
                stored.get("args", ()),
                stored.get("kwargs", {}),
                task_id=command_id,
                headers={outbox.HEADER: command_id},
                throw=False,
            )
        ran += 1
    return ran


def _dispatched(kind: str) -> Any:
    rows = OutboxCommand.objects.using(get_settings().database)
    return rows.filter(status="dispatched", kind=kind).order_by("id")


def _work_on_bulk_actions() -> int:
    asked = BulkAction.objects.using(get_settings().database).filter(ended_at=None).order_by("pk")
    found = list(asked.values_list("pk", flat=True))
    for bulk_id in found:
        with _committing():
            bulk_actions.work(bulk_id)
    return len(found)


@contextmanager
def _committing() -> Iterator[None]:
    """Run what waits for the commit of what is done inside, where a test's transaction is never committed.

    What the test itself left there before stays: its own code is not committed either.
    """
    open_ = [
        (connection, len(connection.run_on_commit))
        for connection in connections.all(initialized_only=True)
        if connection.in_atomic_block
    ]
    yield
    for connection, before in open_:
        while len(connection.run_on_commit) > before:
            waiting: Any = connection.run_on_commit.pop(before)
            _, callback, is_robust = waiting
            try:
                callback()
            except Exception:
                if not is_robust:
                    raise
                logger.exception("a callback after the commit raised")


def _still_due(rounds: int, began: datetime) -> str:
    lines = [f"After {rounds} rounds of work there is still something to do."]
    now = clock.now()
    due = [found for found in upcoming(_MOST_NAMED) if found.due_at <= now]
    lines += _listed("Due now", [str(found) for found in due])
    lines += _listed("Handled meanwhile", handled_since(began))
    lines.append(
        "Does something bring itself about again: a timer that its own handler sets to a moment that has "
        "passed, or an event that a handler's command publishes once more?"
    )
    return "\n".join(lines)


def _listed(title: str, lines: list[str]) -> list[str]:
    return [f"{title}:", *(f"  {line}" for line in lines)] if lines else []


class Time(ExitStack):
    """Virtual time: the package's clock goes on, and nobody sleeps. At its end it is what it was."""

    def elapse(self, duration: Duration) -> None:
        """Let time go by, with workers and Beat at work: from moment to moment at which something is due
        (timers, timeouts, backoffs, delayed commands), each handled at its own moment.

        Raises :class:`NotSettled` where there are too many such moments.
        """
        by = parse_duration(duration)
        drain()
        until = clock.now() + by
        passed: Counter[str] = Counter()
        for _ in range(MOST_MOMENTS):
            coming = upcoming(1, after=clock.now())
            if not coming or coming[0].due_at > until:
                break
            passed[coming[0].what] += 1
            self.go_on(coming[0].due_at - clock.now())
            drain()
        else:
            raise NotSettled(_too_many_moments(passed, until))
        self.go_on(until - clock.now())
        drain()

    def outage(self, duration: Duration) -> None:
        """Let time go by while no worker and no Beat runs; then handle what has become due, late."""
        self.go_on(parse_duration(duration))
        drain()

    def go_on(self, by: timedelta) -> None:
        """Let time go by, and do nothing."""
        if by > timedelta(0):
            self.enter_context(clock.travel(by))


def _too_many_moments(passed: Counter[str], until: datetime) -> str:
    lines = [
        f"After {MOST_MOMENTS} moments at which something was due it is {clock.now():%Y-%m-%d %H:%M:%S} UTC, "
        f"and not yet {until:%Y-%m-%d %H:%M:%S}."
    ]
    often = [f"{what}: {times} times" for what, times in passed.most_common(5)]
    lines += _listed("Most often came", often)
    lines.append("Let less time elapse at once, or a timer be set for longer.")
    return "\n".join(lines)
