"""Marks by which the death of a worker in the middle of a batch is noticed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from pm_celery import clock, signals
from pm_celery.conf import get_settings
from pm_celery.models import Batch
from pm_celery.rows import LeftBatch
from pm_celery.statements import statements

__all__ = ["FRESH", "LeftOver", "begin", "end"]

# A batch that is just about to begin looks left over too, for an instant: younger marks do not count, and a
# batch that is slower than that loses a little time, not its messages.
FRESH = timedelta(milliseconds=200)


@dataclass(frozen=True, slots=True)
class LeftOver:
    """Batches whose workers died, and the messages that they held."""

    batch_ids: set[int] = field(default_factory=set)
    message_ids: set[int] = field(default_factory=set)

    def add(self, found: Sequence[LeftBatch]) -> None:
        """Note marks that a claim found left over."""
        for batch in found:
            if batch.id in self.batch_ids:
                continue
            message_ids = json.loads(batch.message_ids)
            self.batch_ids.add(batch.id)
            self.message_ids.update(message_ids)
            signals.worker_lost.send_robust(sender=Batch, messages=len(message_ids))

    def forget(self) -> None:
        """Remove marks whose messages have been looked at one by one.

        If we die before, they are looked at one by one again.
        """
        if self.batch_ids:
            Batch.objects.using(get_settings().database).filter(pk__in=self.batch_ids).delete()


def begin(lane: int, message_ids: Sequence[int]) -> int:
    """Commit the mark that a batch of these messages begins; its own transaction ends it."""
    alias = get_settings().database
    return statements(alias).begin_batch(alias, lane, json.dumps(list(message_ids)), clock.now())


def end(batch_id: int | None) -> None:
    """Remove the mark. Inside the batch's transaction this also locks it: who is at work is not dead."""
    if batch_id is not None:
        Batch.objects.using(get_settings().database).filter(pk=batch_id).delete()
