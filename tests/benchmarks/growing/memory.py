"""Memory: the pool's process of a worker, after many events beside after some."""

from __future__ import annotations

from collections.abc import Iterator

import psutil

from tests.benchmarks.checking import expect
from tests.benchmarks.growing.common import any_open, check_orders
from tests.benchmarks.growing.figures import Figure, Sizes
from tests.benchmarks.stage import Stage
from tests.benchmarks.traffic import EVENTS_PER_ORDER, interleaved, order_ids
from tests.benchmarks.variants import Engine
from tests.benchmarks.workers import Workers, wait_until

__all__ = ["run"]

_EVENTS = 10_000
_PARTS = 15
_BLOCK = 100


def run(stage: Stage, sizes: Sizes) -> Iterator[Figure]:
    orders = -(-sizes(_EVENTS) // EVENTS_PER_ORDER)
    parts = [order_ids(f"memory {number}", orders) for number in range(_PARTS)]
    stage.reset()
    found = []
    with stage.workers(concurrency=1) as workers:
        child = _child(workers)
        for part in parts:
            Engine().put_backlog(interleaved(part, _BLOCK))
            wait_until(lambda: not any_open(), "a part is handled", workers)
            found.append(child.memory_info().rss / 2**20)
        expect("the pool's process", child, _child(workers))
    for part in parts:
        check_orders(part)
    events = orders * EVENTS_PER_ORDER
    yield Figure("memory", f"after {events:,} events", found[0], "MiB")
    yield Figure("memory", f"after {events * _PARTS:,} events", found[-1], "MiB")
    yield Figure("memory", "late beside early", found[-1] / found[0], "x", at_most=1.2)


def _child(workers: Workers) -> psutil.Process:
    (worker,) = workers.pids
    (child,) = psutil.Process(worker).children()
    return child
