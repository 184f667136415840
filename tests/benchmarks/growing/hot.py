"""A hot key: every second event is for one instance; what that costs the others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from statistics import quantiles
from uuid import UUID

from django.db import transaction

from pm_celery import publish
from pm_celery.models import InboxMessage, Transition
from tests.benchmarks.checking import expect
from tests.benchmarks.growing.common import any_open, check_parcels, check_settled
from tests.benchmarks.growing.figures import Figure, Sizes
from tests.benchmarks.shop import processes
from tests.benchmarks.stage import Stage
from tests.benchmarks.traffic import order_ids
from tests.benchmarks.workers import wait_until

__all__ = ["run"]

_PER_SECOND = 200
_SECONDS = 15
_QUICK_SECONDS = 3


def run(stage: Stage, sizes: Sizes) -> Iterator[Figure]:
    pairs = _PER_SECOND * (_QUICK_SECONDS if sizes.quick else _SECONDS) // 2
    found = {}
    for title, hot in (("no hot key", False), ("half of all to one key", True)):
        rate, percentiles = _run(stage, pairs, hot)
        found[hot] = percentiles
        yield Figure("hot", f"published, {title}", rate, "events/s")
        yield Figure("hot", f"other instances, {title}, p50", percentiles[49], "ms")
        yield Figure("hot", f"other instances, {title}, p99", percentiles[98], "ms")
    for position, name in ((49, "p50"), (98, "p99")):
        ratio = found[True][position] / found[False][position]
        yield Figure("hot", f"other instances, hot beside not, {name}", ratio, "x")


def _run(stage: Stage, pairs: int, hot: bool) -> tuple[float, list[float]]:
    """The rate that was reached, and percentiles of the others' milliseconds."""
    others = order_ids("others", pairs)
    rest = order_ids("hot", 1) if hot else order_ids("cold", pairs)
    events = [
        event
        for position, other in enumerate(others)
        for event in (_event(other, 1), _rest(rest, position))
    ]
    stage.reset()
    with stage.workers(beat=True) as workers:
        seconds = _publish(events)
        wait_until(lambda: not any_open(), "all is handled", workers)
    check_settled()
    check_parcels(others, 1)
    check_parcels(rest, pairs // len(rest))
    return len(events) / seconds, quantiles(_waits(others), n=100, method="inclusive")


def _rest(keys: Sequence[UUID], position: int) -> object:
    if len(keys) == 1:
        return _event(keys[0], position + 1)
    return _event(keys[position], 1)


def _event(parcel: UUID, sequence: int) -> object:
    kind = processes.ParcelPosted if sequence == 1 else processes.ParcelMoved
    return kind(parcel, sequence)


def _publish(events: Sequence[object]) -> float:
    """Publish at fixed moments: who is late is not waited for. How long it took."""
    began = time.monotonic()
    for position, event in enumerate(events):
        time.sleep(max(0.0, began + position / _PER_SECOND - time.monotonic()))
        with transaction.atomic():
            publish(event)
    return time.monotonic() - began


def _waits(parcels: Sequence[UUID]) -> list[float]:
    """Milliseconds from publishing to recording, both by the database's clock."""
    inbox = InboxMessage.objects.filter(key__in=map(str, parcels))
    published = dict(inbox.values_list("pk", "published_at"))
    steps = Transition.objects.filter(inbox_id__in=published).values_list("inbox_id", "recorded_at")
    found = [1000 * (recorded - published[pk]).total_seconds() for pk, recorded in steps]
    expect("events with a transition", len(parcels), len(found))
    return found
