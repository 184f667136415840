"""Latency: fifty events a second, whatever becomes of them; from publishing to the command's start."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from statistics import quantiles
from uuid import UUID

from django.test import override_settings

from tests.benchmarks import checking
from tests.benchmarks.cpu import Meter
from tests.benchmarks.results import Result, metered
from tests.benchmarks.shop.effects import Effects
from tests.benchmarks.stage import Stage
from tests.benchmarks.traffic import EVENTS_PER_ORDER, interleaved, order_ids
from tests.benchmarks.variants import Bare, ByHand, Listening, PmCelery, Variant
from tests.benchmarks.workers import wait_until

__all__ = ["VARIANTS", "run"]

VARIANTS = (Bare, ByHand, PmCelery, Listening)

_PER_SECOND = 50
_SECONDS = 12
_QUICK_SECONDS = 3
_DROPPED = 1 / 6
_BLOCK = 25

Called = dict[tuple[UUID, int], float]


def run(stage: Stage, variant: Variant, orders: int, number: int) -> Result:
    """One variant. ``orders`` says no more than whether this is a quick run."""
    seconds = _SECONDS if orders >= _PER_SECOND * _SECONDS else _QUICK_SECONDS
    ids = order_ids(f"latency {number}", _PER_SECOND * seconds // EVENTS_PER_ORDER)
    events = len(ids) * EVENTS_PER_ORDER
    effects = stage.reset()
    with stage.workers(pm_celery=variant.pm_celery, beat=variant.beat) as workers:
        with (
            override_settings(PM_CELERY=variant.pm_celery),
            Meter(stage.groups(publisher=[os.getpid()], workers=workers.pids)) as meter,
        ):
            called = _publish(variant, ids)
        wait_until(lambda: variant.is_done(len(ids), effects), "all is handled", workers)
    variant.check(ids, effects)
    checking.check_purchases(events)
    percentiles = quantiles(
        _latencies(variant, called, effects, seconds * _DROPPED), n=100, method="inclusive"
    )
    figures = {"p50": percentiles[49], "p99": percentiles[98]}
    return metered("latency", variant.name, number, events, meter, figures=figures)


def _publish(variant: Variant, ids: Sequence[UUID]) -> Called:
    """Publish at fixed moments: who is late is not waited for. When each was published."""
    called: Called = {}
    began = time.monotonic()
    for position, (order, sequence) in enumerate(interleaved(ids, _BLOCK)):
        time.sleep(max(0.0, began + position / _PER_SECOND - time.monotonic()))
        called[order, sequence] = variant.transact(order, sequence)
    return called


def _latencies(variant: Variant, called: Called, effects: Effects, dropped: float) -> list[float]:
    """Milliseconds for each event that issues a command, without those of the first seconds."""
    began = min(called.values())
    # The third event issues no command, and the bare task of it is left out likewise.
    numbers = {name: number for number, name in enumerate(variant.commands, 1) if number <= 2}
    found = []
    for command, order, moment in effects.read():
        if command in numbers:
            before = called[order, numbers[command]]
            if before - began >= dropped:
                found.append(1000 * (moment - before))
    return found
