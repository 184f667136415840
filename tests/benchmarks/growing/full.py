"""Full tables beside empty ones: two databases of one server, in turns, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from statistics import median
from typing import TypeVar
from uuid import UUID

from django.core.management import call_command
from django.db import connection, transaction

from pm_celery import clock, publish, ticks
from pm_celery.engine import advance
from pm_celery.keys import partition_of
from pm_celery.models import Instance, Timer
from tests.benchmarks.checking import expect
from tests.benchmarks.filler import Filling, fill
from tests.benchmarks.growing.common import address, check_orders, check_parcels, drain
from tests.benchmarks.growing.figures import Figure, Sizes
from tests.benchmarks.shop import processes
from tests.benchmarks.stage import Stage
from tests.benchmarks.traffic import EVENTS_PER_ORDER, interleaved, order_ids
from tests.benchmarks.variants import Engine

__all__ = ["run"]

Found = TypeVar("Found")

_FULL = "filled"
_ROUNDS = 3
_ORDERS = 10_000
_BLOCK = 100
_SINGLE = 200
_DUE = 1000
_TICKS = 200
_LOOKS = 21
_FAR = timedelta(days=3650)


def run(stage: Stage, sizes: Sizes) -> Iterator[Figure]:
    assert stage.postgres is not None
    stage.reset()
    stage.postgres.create_database(_FULL)
    with _database(_FULL):
        call_command("migrate", run_syncdb=True, verbosity=0)
        fill(address(stage, _FULL), Filling(sizes.instances))
    yield from _backlogs(stage, sizes(_ORDERS))
    yield from _latencies(stage, sizes(_SINGLE))
    with _database(_FULL):
        yield from _ticks(sizes.instances)


def _backlogs(stage: Stage, orders: int) -> Iterator[Figure]:
    empty, full = [], []
    for number in range(_ROUNDS):
        stage.reset()
        turns: list[Callable[[], None]] = [
            lambda number=number: empty.append(_backlog(f"empty {number}", orders)),
            lambda number=number: full.append(_on_full(_backlog, f"full {number}", orders)),
        ]
        for turn in turns if number % 2 == 0 else reversed(turns):
            turn()
    yield Figure("full", "engine, empty tables", median(empty), "events/s")
    yield Figure("full", "engine, full tables", median(full), "events/s")
    yield Figure("full", "engine, full beside empty", median(full) / median(empty), "x", 0.8)


def _backlog(seed: str, orders: int) -> float:
    """Events handled in a second."""
    ids = order_ids(seed, orders)
    Engine().put_backlog(interleaved(ids, _BLOCK))
    began = time.perf_counter()
    drain()
    seconds = time.perf_counter() - began
    check_orders(ids)
    return orders * EVENTS_PER_ORDER / seconds


def _latencies(stage: Stage, each: int) -> Iterator[Figure]:
    empty: list[float] = []
    full: list[float] = []
    stage.reset()
    for number in range(_ROUNDS):
        empty += _singles(f"single {number}", each)
        full += _on_full(_singles, f"single {number}", each)
    yield Figure("full", "one event alone, empty tables, p50", median(empty), "ms")
    yield Figure("full", "one event alone, full tables, p50", median(full), "ms")
    ratio = median(full) / median(empty)
    yield Figure("full", "one event alone, full beside empty", ratio, "x", at_most=1.2)


def _singles(seed: str, events: int) -> list[float]:
    """Milliseconds for each event that is published and handled alone."""
    parcels = order_ids(seed, events)
    found = [_single(parcel) for parcel in parcels]
    check_parcels(parcels, 1)
    return found


def _single(parcel: UUID) -> float:
    partition = partition_of(processes.Parcel.definition.name, str(parcel))
    began = time.perf_counter()
    with transaction.atomic():
        publish(processes.ParcelPosted(parcel, 1))
    advance(partition)
    return 1000 * (time.perf_counter() - began)


def _ticks(instances: int) -> Iterator[Figure]:
    title = f"a tick with nothing due, {instances:,} instances, p50"
    yield Figure("full", title, _timed(_TICKS, _idle_tick), "ms", at_most=5)
    due = min(_DUE, instances // 2)
    rows = Timer.objects.filter(pk__in=_spread(due))
    rows.update(due_at=clock.now() - timedelta(hours=1))
    found = _timed(_LOOKS, lambda: expect("due timers", due, _look()))
    title = f"finding {due:,} due timers, p50"
    yield Figure("full", title, found, "ms", at_most=20)
    rows.update(due_at=clock.now() + _FAR)


def _idle_tick() -> None:
    expect("a tick with nothing due", ticks.Ticked(0, 0, 0), ticks.tick())


def _look() -> int:
    """The tick's query."""
    with transaction.atomic():
        rows = Timer.objects.select_for_update(skip_locked=True).due(clock.now())
        return len(list(rows[:_DUE]))


def _spread(number: int) -> list[int]:
    """Ids of timers, from all over the table."""
    first, last = Timer.objects.order_by("pk")[0].pk, Timer.objects.order_by("-pk")[0].pk
    return [first + position * (last - first) // number for position in range(number)]


def _timed(times: int, work: Callable[[], object]) -> float:
    """The median of so many, in milliseconds."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(1000 * (time.perf_counter() - began))
    return median(found)


def _on_full(work: Callable[[str, int], Found], seed: str, number: int) -> Found:
    with _database(_FULL):
        # Connecting is no part of what is measured.
        Instance.objects.first()
        return work(seed, number)


@contextmanager
def _database(name: str) -> Iterator[None]:
    """Let Django's connection be one to another database of the server."""
    before = connection.settings_dict["NAME"]
    connection.close()
    connection.settings_dict["NAME"] = name
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["NAME"] = before
        connection.ensure_connection()
