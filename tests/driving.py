"""Driving the engine by hand, without a broker: what workers and Beat do, one thing after another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections

from pm_celery import clock, engine, execution, ticks, wakeups
from pm_celery.conf import get_settings
from pm_celery.durations import parse_duration
from pm_celery.keys import PARTITIONS
from pm_celery.models import InboxMessage, OutboxCommand, Timer

MOST_ROUNDS = 200


def advance_all() -> None:
    """Advance every partition until nothing is due there, as woken workers do."""
    for partition in range(PARTITIONS):
        while engine.advance(partition):
            pass


def run_commands() -> int:
    """Run every dispatched command, as workers do that receive its task; how many."""
    alias = get_settings().database
    dispatched = OutboxCommand.objects.using(alias).filter(status="dispatched", kind="command")
    ids = [str(command.command_id) for command in dispatched.order_by("id")]
    for command_id in ids:
        # Celery shows what a task raised; the row tells as well.
        with suppress(Exception):
            execution.run(command_id)
    return len(ids)


def drain() -> None:
    """Tick, advance and run commands until nothing is due."""
    alias = get_settings().database
    for _ in range(MOST_ROUNDS):
        ticks.tick()
        advance_all()
        ran = run_commands()
        now = clock.now()
        due = any(
            InboxMessage.objects.using(alias).due(partition, now).exists()
            for partition in range(PARTITIONS)
        )
        due = due or Timer.objects.using(alias).due(now).exists()
        if not ran and not due and not OutboxCommand.objects.using(alias).due(now).exists():
            return
    raise AssertionError(f"still something due after {MOST_ROUNDS} rounds")


class Worker(threading.Thread):
    """A worker in a thread, with a connection of its own; ``finish`` raises what it raised."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.work = work
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:  # noqa: BLE001 -- raised again in finish()
            self.error = error
        finally:
            connections.close_all()

    def finish(self) -> None:
        self.join(timeout=60)
        assert not self.is_alive(), "the worker hangs"
        if self.error is not None:
            raise self.error


def count_on_workers(patch: pytest.MonkeyPatch, settings: Any) -> None:
    """Let publishers count on a worker that is there, however long a busy machine takes."""
    settings.PM_CELERY = {"ADVANCE_SECONDS": 60, "BATCH_SECONDS": 60}
    # Twice that must stay below WAKE_LEASE.
    patch.setattr(wakeups, "AT_WORK", timedelta(seconds=2))
    patch.setattr(wakeups, "_SLOW_SECONDS_EACH", 0.1)
    patch.setattr(wakeups, "_slow_until", 0.0)


class Time(ExitStack):
    """Virtual time: ``time.elapse("7d")`` moves the package's clock, for the rest of the test."""

    def elapse(self, duration: str | timedelta) -> None:
        """Let the clock go on, and handle what is due then."""
        self.enter_context(clock.travel(parse_duration(duration)))
        drain()

    def go_on_to_noon(self) -> None:
        """Let it be noon of the next day, in UTC: for tests that are about days."""
        now = clock.now()
        noon = now.replace(hour=12, minute=0, second=0, microsecond=0) + timedelta(days=1)
        self.elapse(noon - now)
