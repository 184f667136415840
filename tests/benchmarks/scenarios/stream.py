"""Stream: two publishers, one event to a transaction, and two workers, all at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from tests.benchmarks import checking
from tests.benchmarks.cpu import Meter
from tests.benchmarks.publisher import Publisher
from tests.benchmarks.results import Result
from tests.benchmarks.shop.effects import Effects
from tests.benchmarks.stage import Stage
from tests.benchmarks.traffic import EVENTS_PER_ORDER, order_ids
from tests.benchmarks.variants import ByHand, Listening, PmCelery, SeveralCommands, Variant
from tests.benchmarks.workers import Workers, wait_until

__all__ = ["VARIANTS", "run"]

VARIANTS = (ByHand, PmCelery, SeveralCommands, Listening)

_PUBLISHERS = 2
_WORKERS = 2
_SAMPLE_SECONDS = 0.1


def run(stage: Stage, variant: Variant, orders: int, number: int) -> Result:
    """From the first publish to the last command done."""
    seeds = [f"stream {number} {publisher}" for publisher in range(_PUBLISHERS)]
    each = max(1, orders // _PUBLISHERS)
    ids = [order for seed in seeds for order in order_ids(seed, each)]
    effects = stage.reset()
    with (
        stage.workers(_WORKERS, pm_celery=variant.pm_celery, beat=variant.beat) as workers,
        ExitStack() as stack,
    ):
        publishers = [Publisher(variant, seed, each) for seed in seeds]
        for publisher in publishers:
            stack.callback(publisher.stop)
        result = _measure(stage, variant, ids, effects, number, workers, publishers)
    variant.check(ids, effects)
    checking.check_purchases(result.events)
    return result


def _measure(
    stage: Stage,
    variant: Variant,
    ids: Sequence[object],
    effects: Effects,
    number: int,
    workers: Workers,
    publishers: Sequence[Publisher],
) -> Result:
    for publisher in publishers:
        publisher.wait_until_ready()
    waiting = _Highest(variant.waiting)

    def is_done() -> bool:
        waiting.look()
        return (
            all(publisher.is_done() for publisher in publishers)
            # All is published, so nothing can be to come when nothing is open.
            and variant.is_done(len(ids), effects)
        )

    with Meter(stage.groups(workers=workers.pids)) as meter:
        for publisher in publishers:
            publisher.begin()
        wait_until(is_done, "the stream is handled", workers)
        ended = time.time()
    published = [publisher.result() for publisher in publishers]
    first, last = min(p.first for p in published), max(p.last for p in published)
    events = len(ids) * EVENTS_PER_ORDER
    cpu = {"publisher": sum(p.cpu for p in published), **meter.cpu}
    return Result(
        "stream",
        variant.name,
        number,
        events,
        ended - first,
        {name: 1000 * seconds / events for name, seconds in cpu.items()},
        {
            "published_per_second": events / (last - first),
            "waiting_at_most": waiting.highest,
            "drained_in": max(0.0, ended - last),
            "retries": effects.retries(),
            "other_cores": max(0.0, meter.others - cpu["publisher"] / meter.seconds),
        },
    )


class _Highest:
    """The highest of the samples of something, taken when it is looked at, but not too often."""

    def __init__(self, sample: Callable[[], int]) -> None:
        self._sample = sample
        self._next = 0.0
        self.highest = 0

    def look(self) -> None:
        if time.monotonic() >= self._next:
            self.highest = max(self.highest, self._sample())
            self._next = time.monotonic() + _SAMPLE_SECONDS
