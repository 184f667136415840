"""Verbs for whole processes: pause, resume."""

from __future__ import annotations

from django.db import transaction
from django.utils.translation import gettext_lazy as _

from pm_celery import clock, pauses, registry
from pm_celery.conf import get_settings
from pm_celery.exceptions import Refused
from pm_celery.models import InboxMessage, Pause
from pm_celery.operations.interventions import intervene

__all__ = ["pause", "resume"]

# What one call releases at most; the tick goes on.
_MOST_PORTIONS = 20


def pause(process: str, *, by: str = "", reason: str = "") -> None:
    """Handle nothing more of a process, or of a policy, until it is resumed: its events, timers, timeouts
    and retries wait, in order. Raises ``Refused``.

    Batches that have begun are finished, and commands that were issued still run.
    """
    alias = get_settings().database
    if registry.listeners.get(process) is None and not _is_known(alias, process):
        raise Refused(_("there is no process %(name)s"), name=repr(process))
    with transaction.atomic(using=alias):
        pause = Pause(process=process, paused_at=clock.now(), paused_by=by[:255], reason=reason)
        rows = Pause.objects.using(alias)
        rows.bulk_create([pause], ignore_conflicts=True)
        # Of two who do it at once the second one waits at the insert, and finds the other's row.
        if not rows.filter(process=process, paused_at=pause.paused_at, resumed_at=None).exists():
            if rows.filter(process=process, resumed_at__isnull=False).exists():
                raise Refused(
                    _("it is being resumed: wait until all that was held back is released")
                )
            raise Refused(_("it is paused already"))
        intervene(alias, "pause", process, by=by, reason=reason, process=process)


def _is_known(alias: str, process: str) -> bool:
    """Whether there is something of a process that this release does not declare."""
    return InboxMessage.objects.using(alias).of_instances().filter(process=process).exists()


def resume(process: str, *, by: str = "", reason: str = "") -> int:
    """Handle a paused process again, in order; how many held messages were released. Raises ``Refused``.

    Of very many the tick releases the rest.
    """
    alias = get_settings().database
    with transaction.atomic(using=alias):
        found = Pause.objects.using(alias).select_for_update().filter(process=process).first()
        if found is None:
            raise Refused(_("it is not paused"))
        if found.resumed_at is not None:
            raise Refused(_("it is being resumed already"))
        found.resumed_at = clock.now()
        found.save(using=alias, update_fields=["resumed_at"])
        intervene(alias, "resume", process, by=by, reason=reason, process=process)
    total = 0
    for _portion in range(_MOST_PORTIONS):
        released = pauses.release(process)
        total += released
        if not released:
            break
    return total
