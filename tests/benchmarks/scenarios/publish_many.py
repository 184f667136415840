"""Publishing in bulk: one call with many events, in one transaction."""

from __future__ import annotations

import os

from pm_celery import publish_many
from pm_celery.models import InboxMessage
from tests.benchmarks import checking
from tests.benchmarks.cpu import Meter
from tests.benchmarks.results import Result, metered
from tests.benchmarks.stage import Stage
from tests.benchmarks.traffic import EVENTS_PER_ORDER, interleaved, order_ids
from tests.benchmarks.variants import PmCelery

__all__ = ["run"]

_EVENTS = 20_000
_BLOCK = 100


def run(stage: Stage, orders: int, number: int) -> list[Result]:
    """From the call to its commit, wake-ups sent. ``orders`` times ten bounds the events."""
    wanted = min(_EVENTS, 10 * orders)
    variant = PmCelery()
    ids = order_ids(f"many {number}", -(-wanted // EVENTS_PER_ORDER))
    events = [variant.event(*event) for event in interleaved(ids, _BLOCK)][:wanted]
    stage.reset()
    publish_many(events[:1])  # imports and connections, outside of the figure
    stage.reset()
    with Meter(stage.groups(publisher=[os.getpid()])) as meter:
        publish_many(events)
    checking.expect("inbox rows", wanted, InboxMessage.objects.open().count())
    return [metered("publish_many", "pm_celery", number, wanted, meter)]
