"""Paused processes: what comes for them is held back until somebody resumes them.

A message that is due is held by setting its moment to one that never comes (`NEVER`): it costs the engine one
statement, once. Nothing is stranded, because of two locks: who holds back keeps a shared lock on the pause
that it obeys until its commit; who resumes changes that row first, and so releases after all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from django.db import connections, transaction

from pm_celery import clock
from pm_celery.conf import get_settings
from pm_celery.keys import PARTITIONS
from pm_celery.models import InboxMessage, Pause
from pm_celery.rows import NEVER, Claimed
from pm_celery.wakeups import wake_on_commit

__all__ = ["hold_back", "release", "release_resumed"]

_AT_ONCE = 1000


def hold_back(rows: Sequence[Claimed]) -> list[Claimed]:
    """Hold back those that are of a paused process; the others."""
    alias = get_settings().database
    processes = {row.process for row in rows if row.process}
    # If we die before the commit, they are due still, and claimed again.
    with transaction.atomic(using=alias, durable=True):
        paused = _paused(alias, processes)
        held = [row.id for row in rows if row.process in paused]
        InboxMessage.objects.using(alias).open().filter(
            pk__in=held, due_at__lte=clock.now()
        ).update(due_at=NEVER)
    return [row for row in rows if row.process not in paused]


def _paused(alias: str, processes: Collection[str]) -> set[str]:
    """Which of these are paused, under a shared lock: batches do not wait for each other."""
    rows = Pause.objects.using(alias).filter(process__in=processes, resumed_at=None)
    query, values = rows.values_list("process").query.get_compiler(using=alias).as_sql()
    lock = {"postgresql": " FOR SHARE", "mysql": " LOCK IN SHARE MODE"}
    with connections[alias].cursor() as cursor:
        cursor.execute(query + lock.get(connections[alias].vendor, ""), values)
        return {row[0] for row in cursor.fetchall()}


def release_resumed() -> int:
    """Go on releasing what was held back for processes that are being resumed; how many messages.

    The tick does it, in case that whoever resumed one died, or had no time for all of it.
    """
    resumed = Pause.objects.using(get_settings().database).exclude(resumed_at=None)
    return sum(release(process) for process in resumed.values_list("process", flat=True))


def release(process: str, *, limit: int = _AT_ONCE) -> int:
    """Let so many messages of a process that is being resumed be handled; how many it found. With the last
    ones the pause is over."""
    alias = get_settings().database
    with transaction.atomic(using=alias):
        # Several may do this at once: the second one waits here, and finds what is left.
        resumed = Pause.objects.using(alias).select_for_update().filter(process=process)
        if not resumed.exclude(resumed_at=None).exists():
            return 0
        held = InboxMessage.objects.using(alias).open().filter(due_at=NEVER, process=process)
        found = list(
            held.filter(partition__in=range(PARTITIONS)).values_list("pk", "partition")[:limit]
        )
        held.filter(pk__in=[pk for pk, _ in found]).update(due_at=clock.at_once())
        if len(found) < limit:
            resumed.delete()
        wake_on_commit({partition for _, partition in found})
    return len(found)
