"""A long instance: what an event costs when ten thousand have gone before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from uuid import UUID

from django.db import transaction

from pm_celery import publish, publish_many
from pm_celery.engine import advance
from pm_celery.keys import partition_of
from pm_celery.statements.prepared import LONGEST_SECONDS
from tests.benchmarks.growing.common import check_parcels, check_settled, drain
from tests.benchmarks.growing.figures import Figure, Sizes
from tests.benchmarks.shop import processes
from tests.benchmarks.stage import Stage
from tests.benchmarks.traffic import order_ids

__all__ = ["run"]

_EVENTS = 10_000
_EARLY = range(10, 61)
_NEIGHBOURS = 50


def run(stage: Stage, sizes: Sizes) -> Iterator[Figure]:
    events = sizes(_EVENTS)
    stage.reset()
    # Another instance first, so that nothing is slow because it is the first time.
    warm, parcel = order_ids("long", 2)
    for sequence in range(1, _EARLY.stop):
        _one(warm, sequence)
    early = [_one(parcel, sequence) for sequence in range(1, _EARLY.stop)][_EARLY.start - 1 :]
    publish_many(_event(parcel, sequence) for sequence in range(_EARLY.stop, events + 1))
    drain()
    late = [_one(parcel, sequence) for sequence in range(events + 1, events + _NEIGHBOURS + 1)]
    # Plans that were made while the table was next to empty are in use until they are this old.
    time.sleep(LONGEST_SECONDS)
    later = events + _NEIGHBOURS
    for sequence in range(_EARLY.stop, _EARLY.stop + 10):
        _one(warm, sequence)
    renewed = [_one(parcel, sequence) for sequence in range(later + 1, later + _NEIGHBOURS + 1)]
    check_settled()
    check_parcels([parcel], later + _NEIGHBOURS)
    yield Figure("long", "events 10 to 60 of an instance, p50", median(early), "ms")
    yield Figure("long", f"events from {events + 1:,} on, at once, p50", median(late), "ms")
    yield Figure("long", "at once beside early", median(late) / median(early), "x")
    yield Figure("long", f"events from {later + 1:,} on, p50", median(renewed), "ms")
    yield Figure("long", "late beside early", median(renewed) / median(early), "x")


def _event(parcel: UUID, sequence: int) -> object:
    kind = processes.ParcelPosted if sequence == 1 else processes.ParcelMoved
    return kind(parcel, sequence)


def _one(parcel: UUID, sequence: int) -> float:
    """Milliseconds to publish and handle one event."""
    partition = partition_of(processes.Parcel.definition.name, str(parcel))
    began = time.perf_counter()
    with transaction.atomic():
        publish(_event(parcel, sequence))
    advance(partition)
    return 1000 * (time.perf_counter() - began)
