"""Publish cost: what publishing adds to a web request's transaction. No worker runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from statistics import median
from uuid import UUID

from django.db import transaction
from django.test import override_settings

from pm_celery import clock, wakeups
from pm_celery.models import InboxMessage, Wakeup
from tests.benchmarks import checking
from tests.benchmarks.names import ALONE, AWAKE, DELAY, NOTIFYING, WAKING
from tests.benchmarks.results import Result
from tests.benchmarks.shop.models import Purchase
from tests.benchmarks.stage import Stage
from tests.benchmarks.traffic import order_ids
from tests.benchmarks.variants import ByHand, PmCelery
from tests.benchmarks.workers import QUEUE

__all__ = ["run"]

_TRANSACTIONS = 1000
_BLOCK = 50


def run(stage: Stage, orders: int, number: int) -> list[Result]:
    """All four in turns, in blocks, so that what disturbs one disturbs all."""
    wanted = min(_TRANSACTIONS, max(_BLOCK, orders))
    stage.reset()
    by_hand, pm_celery = ByHand(), PmCelery()
    kinds: dict[str, tuple[Callable[[UUID], None], Callable[[], None]]] = {
        ALONE: (lambda _: None, lambda: None),
        DELAY: (lambda order: by_hand.publish(order, 1), lambda: None),
        WAKING: (lambda order: pm_celery.publish(order, 1), _forget_wakeups),
        AWAKE: (lambda order: pm_celery.publish(order, 1), _all_awake),
    }
    if stage.postgres:
        kinds[NOTIFYING] = (lambda order: pm_celery.publish(order, 1), _forget_wakeups)
    walls: dict[str, list[float]] = {name: [] for name in kinds}
    cpus: dict[str, list[float]] = {name: [] for name in kinds}
    for name in kinds:  # imports and connections, outside of all figures
        _time_block(order_ids("warm-up", 2), *kinds[name], [], [])
    stage.reset()
    for block in range(wanted // _BLOCK):
        for name, (publish, prepare) in kinds.items():
            ids = order_ids(f"cost {number} {block} {name}", _BLOCK)
            with override_settings(PM_CELERY={"LISTEN": name == NOTIFYING}):
                _time_block(ids, publish, prepare, walls[name], cpus[name])
    _check(stage, wanted // _BLOCK * _BLOCK, list(kinds))
    base = median(walls[ALONE])
    return [_result(name, number, walls[name], cpus[name], base) for name in kinds]


def _time_block(
    orders: Sequence[UUID],
    publish: Callable[[UUID], None],
    prepare: Callable[[], None],
    walls: list[float],
    cpus: list[float],
) -> None:
    for order in orders:
        prepare()
        cpu, wall = time.process_time(), time.perf_counter()
        with transaction.atomic():
            Purchase.objects.create(order_id=order, step=1)
            publish(order)
        walls.append(1000 * (time.perf_counter() - wall))
        cpus.append(1000 * (time.process_time() - cpu))


def _forget_wakeups() -> None:
    Wakeup.objects.all().delete()


def _all_awake() -> None:
    Wakeup.objects.all().delete()
    [lane] = wakeups.common_lanes([0])
    Wakeup.objects.create(lane=lane, outstanding_until=clock.now() + timedelta(hours=1))


def _check(stage: Stage, each: int, kinds: Sequence[str]) -> None:
    checking.check_purchases(len(kinds) * each)
    published = (len(kinds) - 2) * each
    checking.expect("inbox rows", published, InboxMessage.objects.open().count())
    # The tasks of delay, and one wake-up for each publish that found none outstanding.
    checking.expect("messages in the queue", 2 * each, stage.queued(QUEUE))


def _result(
    name: str, number: int, walls: Sequence[float], cpus: Sequence[float], base: float
) -> Result:
    figures = {"p50": median(walls), "added": median(walls) - base}
    cpu = {"publisher": sum(cpus) / len(cpus)}
    return Result("publish_cost", name, number, len(walls), sum(walls) / 1000, cpu, figures)
