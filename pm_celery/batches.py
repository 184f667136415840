"""Marks by which the death of a worker in the middle of a batch is noticed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from django.db import connections

from pm_celery import clock, signals
from pm_celery.conf import get_settings
from pm_celery.models import Batch
from pm_celery.statements import statements

__all__ = ["LeftOver", "begin", "end", "forget", "left_over"]


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


def left_over(partition: int) -> LeftOver:
    """The marks of a partition that nobody holds, inside the caller's transaction.

    A batch that is just about to begin looks the same for an instant; it then loses a little time, not
    its messages.
    """
    alias = get_settings().database
    skip = connections[alias].features.has_select_for_update_skip_locked
    found = (
        Batch.objects.using(alias).select_for_update(skip_locked=skip).filter(partition=partition)
    )
    left = LeftOver()
    for batch in found:
        left.batch_ids.append(batch.pk)
        left.message_ids.update(json.loads(batch.message_ids))
        signals.worker_lost.send_robust(
            sender=Batch, partition=partition, messages=len(json.loads(batch.message_ids))
        )
    return left


def forget(left: LeftOver) -> None:
    """Remove marks whose messages have been looked at one by one.

    If we die before, they are looked at one by one again.
    """
    if left.batch_ids:
        Batch.objects.using(get_settings().database).filter(pk__in=left.batch_ids).delete()
