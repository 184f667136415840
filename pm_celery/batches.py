"""Marks by which the death of a worker in the middle of a batch is noticed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta

from django.db import connections, transaction

from pm_celery import clock, signals
from pm_celery.conf import get_settings
from pm_celery.models import Batch, InboxMessage
from pm_celery.rows import SUSPECT
from pm_celery.statements import statements

__all__ = ["FRESH", "begin", "end", "suspect_messages_of"]

# A batch that is just about to begin looks left over too, for an instant: younger marks do not count, and a
# batch that is slower than that loses a little time, not its messages.
FRESH = timedelta(milliseconds=200)


def begin(message_ids: Sequence[int]) -> int:
    """Commit the mark that a batch of these messages begins; its own transaction ends it."""
    alias = get_settings().database
    return statements(alias).begin_batch(alias, json.dumps(list(message_ids)), clock.now())


def end(batch_id: int | None) -> None:
    """Remove the mark. Inside the batch's transaction this also locks it: who is at work is not dead."""
    if batch_id is not None:
        Batch.objects.using(get_settings().database).filter(pk=batch_id).delete()


def suspect_messages_of(batch_ids: Sequence[int]) -> set[int]:
    """The messages of batches that were left over because their workers died. Each is noted as suspect, to
    be run alone by whoever claims it next, and the marks are removed.

    Both in one transaction: if we die before its commit, the marks are found left over again.
    """
    if not batch_ids:
        return set()
    alias = get_settings().database
    skip = connections[alias].features.has_select_for_update_skip_locked
    with transaction.atomic(using=alias, durable=True):
        # Skipped is the mark of a batch that has begun after all, or that another worker looks after.
        left = dict(
            Batch.objects.using(alias)
            .select_for_update(skip_locked=skip)
            .filter(pk__in=batch_ids)
            .values_list("pk", "message_ids")
        )
        batches = [json.loads(message_ids) for message_ids in left.values()]
        suspects = {message_id for batch in batches for message_id in batch}
        # Skipped is what somebody records just now, and so survived.
        rows = InboxMessage.objects.using(alias).open().filter(pk__in=suspects, attempts=0)
        locked = rows.select_for_update(skip_locked=skip).values_list("pk", flat=True)
        InboxMessage.objects.using(alias).filter(pk__in=list(locked)).update(reason=SUSPECT)
        Batch.objects.using(alias).filter(pk__in=left).delete()
    for batch in batches:
        signals.worker_lost.send_robust(sender=Batch, messages=len(batch))
    return suspects
