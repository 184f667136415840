"""Driving the engine by hand, without a broker: the testing kit's ways, and what only this suite needs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections

from pm_celery import clock, wakeups
from pm_celery.testing import driving
from pm_celery.testing.driving import advance_all, drain, run_commands

__all__ = ["Time", "Worker", "advance_all", "count_on_workers", "drain", "run_commands"]


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


class Time(driving.Time):
    """Virtual time for the rest of the test, in which messages go to the suite's broker."""

    def go_on_to_noon(self) -> None:
        """Let it be noon of the next day, in UTC: for tests that are about days."""
        now = clock.now()
        noon = now.replace(hour=12, minute=0, second=0, microsecond=0) + timedelta(days=1)
        self.elapse(noon - now)
