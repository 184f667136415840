"""A storm: the timers of all instances are due at one moment, and fresh events arrive meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from statistics import median
from uuid import UUID

from django.db import transaction

from pm_celery import clock, publish, publish_many
from pm_celery.models import Timer, Transition
from tests.benchmarks.checking import expect
from tests.benchmarks.filler import Filling, fill
from tests.benchmarks.growing.common import address, any_open, check_parcels, check_settled
from tests.benchmarks.growing.figures import Figure, Sizes
from tests.benchmarks.results import CheckFailed
from tests.benchmarks.shop import processes
from tests.benchmarks.stage import Stage
from tests.benchmarks.traffic import order_ids
from tests.benchmarks.workers import Workers, wait_until

__all__ = ["run"]

_TIMERS = 100_000
_PERIOD = 0.2
_POLL = 0.01
_FILLED_PER_SECOND = 8_000
_LONGEST = 300.0
_FILLED_MOVES = 3


def run(stage: Stage, sizes: Sizes) -> Iterator[Figure]:
    timers = sizes(_TIMERS)
    plain = _plain(stage, timers)
    yield Figure("storm", f"{timers:,} plain events, there before", plain, "events/s")
    seconds, waits = _storm(stage, timers)
    rate = timers / seconds
    yield Figure("storm", f"{timers:,} timers due at once, until all are handled", seconds, "s")
    yield Figure("storm", "timers handled", rate, "events/s")
    yield Figure("storm", "timers beside plain events", rate / plain, "x")
    yield Figure("storm", f"{len(waits)} fresh events meanwhile, p50", median(waits), "s")
    yield Figure("storm", "fresh events meanwhile, max", max(waits), "s", at_most=1)


def _plain(stage: Stage, events: int) -> float:
    """Events a second of a backlog, one event for each of as many instances as in the storm."""
    stage.reset()
    keys = fill(address(stage), Filling(events, ended=False, timers=()), quiet=True)
    publish_many(processes.ParcelMoved(key, _FILLED_MOVES + 1) for key in keys)
    stage.hold_backlog()
    with stage.workers(beat=True) as workers:
        began = time.perf_counter()
        stage.release_backlog()
        wait_until(lambda: not any_open(), "the plain events are handled", workers)
        seconds = time.perf_counter() - began
    check_settled()
    check_parcels(keys, _FILLED_MOVES + 1)
    return events / seconds


def _storm(stage: Stage, timers: int) -> tuple[float, list[float]]:
    """Seconds from the moment until all timers are handled, and those that each fresh event took."""
    stage.reset()
    with stage.workers(beat=True) as workers:
        moment = clock.now() + timedelta(seconds=5 + timers / _FILLED_PER_SECOND)
        filling = Filling(timers, ended=False, timers=("reminder",), due_at=moment)
        keys = fill(address(stage), filling, quiet=True)
        if clock.now() >= moment:
            raise CheckFailed("The timers were due before all of them were there.")
        time.sleep((moment - clock.now()).total_seconds())
        fresh = _Fresh()
        seconds = _follow(fresh, workers)
        wait_until(fresh.is_done, "the fresh events are handled", workers)
    expect("timers that are left", 0, Timer.objects.count())
    check_settled()
    check_parcels(keys, _FILLED_MOVES, reminders=1)
    check_parcels(fresh.published, 1)
    return seconds, fresh.waits


def _follow(fresh: _Fresh, workers: Workers) -> float:
    began = time.monotonic()
    looked = 0.0
    while True:
        fresh.turn()
        now = time.monotonic()
        if now - looked > _PERIOD:
            looked = now
            workers.check()
            if not _any_timer() and not any_open():
                return time.monotonic() - began
        if now - began > _LONGEST:
            raise CheckFailed(f"The storm is not over after {_LONGEST:.0f} s.{workers.logs()}")
        time.sleep(_POLL)


def _any_timer() -> bool:
    rows = Timer.objects.filter(fired_at=None).order_by("due_at")
    return bool(rows.values_list("pk")[:1])


class _Fresh:
    """Events of new instances, published at fixed moments, and looked for until they are handled."""

    def __init__(self) -> None:
        self._keys: Iterator[UUID] = iter(order_ids("fresh", int(_LONGEST / _PERIOD) + 1))
        self._next = time.monotonic()
        self._open: dict[str, float] = {}
        self.published: list[UUID] = []
        self.waits: list[float] = []

    def turn(self) -> None:
        """Publish if it is time, then look."""
        if time.monotonic() >= self._next:
            self._next += _PERIOD
            self._publish(next(self._keys))
        self.is_done()

    def is_done(self) -> bool:
        """Whether all have their transitions; notes when each was first seen."""
        for key in _recorded(list(self._open)):
            self.waits.append(time.monotonic() - self._open.pop(key))
        return not self._open

    def _publish(self, key: UUID) -> None:
        self._open[str(key)] = time.monotonic()
        self.published.append(key)
        with transaction.atomic():
            publish(processes.ParcelPosted(key, 1))


def _recorded(keys: Sequence[str]) -> list[str]:
    if not keys:
        return []
    rows = Transition.objects.filter(
        instance__process=processes.Parcel.definition.name, instance__key__in=keys
    )
    return list(rows.values_list("instance__key", flat=True))
