"""What several parts need: draining in this process, and checks of some orders or parcels among many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from uuid import UUID

from django.db.models import Count

from pm_celery.engine import advance
from pm_celery.keys import PARTITIONS
from pm_celery.models import DeadLetter, InboxMessage, Instance, Transition
from tests.benchmarks.checking import expect
from tests.benchmarks.stage import Stage
from tests.benchmarks.traffic import EVENTS_PER_ORDER

__all__ = ["address", "any_open", "check_orders", "check_parcels", "check_settled", "drain"]


def address(stage: Stage, name: str | None = None) -> str:
    """The URL of the stage's database, or of another one on its server."""
    assert stage.postgres is not None
    return stage.postgres.url(name or os.environ["PM_BENCH_NAME"])


def drain() -> None:
    """Handle all that is due, partition by partition, in this process."""
    for partition in range(PARTITIONS):
        while advance(partition):
            pass


def any_open() -> bool:
    """Whether a message is to be handled; cheap to ask."""
    rows = InboxMessage.objects.open().order_by("partition", "due_at", "id")
    return bool(rows.values_list("pk")[:1])


def check_settled() -> None:
    """Nothing is open, and nothing died."""
    expect("open inbox rows", 0, InboxMessage.objects.of_instances().count())
    expect("dead letters", 0, DeadLetter.objects.count())


def check_orders(orders: Sequence[UUID]) -> None:
    """Each of these silent orders went through its events once and in order."""
    check_settled()
    ended = Instance.objects.filter(key__in=map(str, orders), status="completed")
    in_order = ended.filter(state__contains='"seen":[1,2,3]')
    ids = list(in_order.values_list("pk", flat=True))
    expect("orders that ended with every event in order", len(orders), len(ids))
    steps = Transition.objects.filter(instance__in=ids).values_list("number")
    expected = {(number, len(orders)) for number in range(1, EVENTS_PER_ORDER + 1)}
    expect("transitions by number", expected, set(steps.annotate(count=Count("pk"))))


def check_parcels(parcels: Sequence[UUID], moves: int, *, reminders: int = 0) -> None:
    """Each of these parcels has so many events, in order, and so many timers that fired."""
    state = f'{{"moves":{moves},"in_order":true,"reminders":{reminders}}}'
    rows = Instance.objects.filter(key__in=map(str, parcels), state=state, number=moves + reminders)
    ids = list(rows.values_list("pk", flat=True))
    expect(f"parcels with the state {state}", len(parcels), len(ids))
    found = Transition.objects.filter(instance__in=ids).count()
    expect("transitions", len(parcels) * (moves + reminders), found)
