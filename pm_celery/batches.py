"""Marks by which the death of a worker in the middle of a batch is noticed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from pm_celery import clock, signals
from pm_celery.conf import get_settings
from pm_celery.models import Batch
from pm_celery.statements import statements

__all__ = ["LeftOver", "arrived", "begin", "end", "forget"]


_FRESH = timedelta(milliseconds=200)


@dataclass(frozen=True, slots=True)
class LeftOver:
    """Batches whose workers died, and the messages that they held."""

    batch_ids: list[int] = field(default_factory=list)
    message_ids: set[int] = field(default_factory=set)


def begin(partition: int, message_ids: Sequence[int]) -> int:
    """Commit the mark that a batch of these messages begins; its own transaction ends it."""
    alias = get_settings().database
    return statements(alias).begin_batch(
        alias, partition, json.dumps(list(message_ids)), clock.now()
    )


def end(batch_id: int | None) -> None:
    """Remove the mark. Inside the batch's transaction this also locks it: who is at work is not dead."""
    if batch_id is not None:
        Batch.objects.using(get_settings().database).filter(pk=batch_id).delete()


def arrived(partition: int) -> LeftOver:
    """Note that a partition's wake-up is here; the marks that nobody holds there.

    Committed before the engine looks, so that what is published later is either seen or announced.
    A batch that is just about to begin looks left over too, for an instant: fresh marks do not count, and
    a batch that is slower than that loses a little time, not its messages.
    """
    alias = get_settings().database
    left = LeftOver()
    for batch in statements(alias).arrive(alias, partition, clock.now() - _FRESH):
        left.batch_ids.append(batch.id)
        message_ids = json.loads(batch.message_ids)
        left.message_ids.update(message_ids)
        signals.worker_lost.send_robust(
            sender=Batch, partition=partition, messages=len(message_ids)
        )
    return left


def forget(left: LeftOver) -> None:
    """Remove marks whose messages have been looked at one by one.

    If we die before, they are looked at one by one again.
    """
    if left.batch_ids:
        Batch.objects.using(get_settings().database).filter(pk__in=left.batch_ids).delete()
