"""Handlers that wait: what more processes of a worker gain."""

from __future__ import annotations

import time
from collections.abc import Iterator

from pm_celery import publish_many
from pm_celery.models import Instance, Transition
from tests.benchmarks.checking import expect
from tests.benchmarks.growing.common import any_open, check_settled
from tests.benchmarks.growing.figures import Figure, Sizes
from tests.benchmarks.shop import processes
from tests.benchmarks.stage import Stage
from tests.benchmarks.traffic import order_ids
from tests.benchmarks.workers import wait_until

__all__ = ["run"]

_EVENTS = 4000


def run(stage: Stage, sizes: Sizes) -> Iterator[Figure]:
    rates = {}
    for processes_ in (1, 4):
        rates[processes_] = _rate(stage, sizes(_EVENTS), processes_)
        title = f"handlers that wait 5 ms, --concurrency {processes_}"
        yield Figure("waits", title, rates[processes_], "events/s")
    yield Figure("waits", "four processes beside one", rates[4] / rates[1], "x", 3)


def _rate(stage: Stage, events: int, concurrency: int) -> float:
    stage.reset()
    orders = order_ids("waits", events)
    publish_many(processes.SlowPlaced(order) for order in orders)
    stage.hold_backlog()
    with stage.workers(concurrency=concurrency) as workers:
        began = time.perf_counter()
        stage.release_backlog()
        wait_until(lambda: not any_open(), "the slow events are handled", workers)
        seconds = time.perf_counter() - began
    check_settled()
    ended = Instance.objects.filter(status="completed", number=1)
    expect("orders that ended", events, ended.count())
    expect("transitions", events, Transition.objects.count())
    return events / seconds
