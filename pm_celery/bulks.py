"""The message that lets a worker go on with a bulk action, and how the tick finds that one was lost."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import Q

from pm_celery import clock
from pm_celery.broker import post_office
from pm_celery.conf import get_settings
from pm_celery.models import BulkAction

__all__ = ["BULK_TASK", "QUIET", "send", "send_stranded"]

BULK_TASK = "pm_celery.bulk"
#: Whoever works on one says so with every letter: after this long, nobody does.
QUIET = timedelta(seconds=10)
_AT_ONCE = 20


def send(bulk_id: int) -> None:
    """Send a worker to a bulk action; if the broker refuses, a later tick does."""
    with post_office() as post:
        post.send(BULK_TASK, [bulk_id], what=f"bulk action {bulk_id}")


def send_stranded() -> int:
    """Send a worker to each bulk action that nobody works on, although it has not ended; how many.

    The message of one got lost, or its worker died. Operators start them, so the table is short.
    """
    now = clock.now()
    quiet = now - QUIET
    stranded = BulkAction.objects.using(get_settings().database).filter(
        Q(worked_at__lt=quiet) | Q(worked_at=None, asked_at__lt=quiet), ended_at=None
    )
    sent = 0
    for bulk_id in list(stranded.order_by("id").values_list("pk", flat=True)[:_AT_ONCE]):
        # Of two ticks one changes it. If we die before the message is sent, it is quiet once more.
        if stranded.filter(pk=bulk_id).update(worked_at=now):
            send(bulk_id)
            sent += 1
    return sent
