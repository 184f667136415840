"""The verb of pruning by hand."""

from __future__ import annotations

from pm_celery import retention
from pm_celery.conf import get_settings
from pm_celery.durations import Duration
from pm_celery.operations.interventions import intervene
from pm_celery.retention import Progress, Pruned

__all__ = ["prune"]


def prune(
    older_than: Duration | None = None,
    *,
    process: str = "",
    status: str = "",
    dry_run: bool = False,
    progress: Progress | None = None,
    by: str = "",
    reason: str = "",
) -> Pruned:
    """Remove what ended longer ago than that (default: what the settings say), of one process or status or
    of all. In batches that commit by themselves: what is removed stays so if it is stopped.

    progress: is told how many rows were looked at, and how many instances removed.
    """
    pruned = retention.remove(
        older_than, process=process, status=status, dry_run=dry_run, progress=progress
    )
    if not dry_run and (pruned.total or pruned.loose):
        subject = f"{pruned.total} instances and {pruned.loose} other rows"
        details = {
            "older_than": str(older_than or "settings"),
            "process": process,
            "status": status,
        }
        alias = get_settings().database
        intervene(alias, "prune", subject, by=by, reason=reason, process=process, details=details)
    return pruned
