"""Backlog: everything is there before the clock starts; how quickly is it worked off?"""

from __future__ import annotations

import os

from tests.benchmarks import floor
from tests.benchmarks.cpu import Meter
from tests.benchmarks.results import Result, metered
from tests.benchmarks.stage import Stage
from tests.benchmarks.traffic import EVENTS_PER_ORDER, interleaved, order_ids
from tests.benchmarks.variants import (
    Bare,
    ByHand,
    Engine,
    Floor,
    PmCelery,
    SeveralCommands,
    Variant,
)
from tests.benchmarks.workers import wait_until

__all__ = ["VARIANTS", "run"]

VARIANTS = (Floor, Bare, ByHand, Engine, PmCelery, SeveralCommands)

# They would be done in a blink with as many orders as the others.
_QUICK = (Floor, Engine)
_QUICK_TIMES = 10
_BLOCK = 100


def run(stage: Stage, variant: Variant, orders: int, number: int) -> Result:
    """One variant, from a warm and idle worker to the last row written or command done."""
    wanted = orders * _QUICK_TIMES if isinstance(variant, _QUICK) else orders
    ids = order_ids(f"backlog {number}", wanted)
    effects = stage.reset()
    variant.put_backlog(interleaved(ids, _BLOCK))
    if isinstance(variant, Floor):
        meter = _drain(stage)
    else:
        stage.hold_backlog()
        with (
            stage.workers(pm_celery=variant.pm_celery) as workers,
            Meter(stage.groups(workers=workers.pids)) as meter,
        ):
            stage.release_backlog()
            wait_until(lambda: variant.is_done(wanted, effects), "the backlog is done", workers)
    # Once the workers have ended, nothing can happen a second time any more.
    variant.check(ids, effects)
    return metered("backlog", variant.name, number, wanted * EVENTS_PER_ORDER, meter)


def _drain(stage: Stage) -> Meter:
    assert stage.postgres is not None
    address = stage.postgres.url(os.environ["PM_BENCH_NAME"])
    with Meter(stage.groups(workers=[os.getpid()])) as meter:
        floor.drain(address)
    return meter
