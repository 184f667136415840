"""Verbs for process instances."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.db import transaction
from django.utils.translation import gettext_lazy as _

from pm_celery import clock, inbox
from pm_celery.conf import get_settings
from pm_celery.exceptions import Refused
from pm_celery.failures import record_status
from pm_celery.letters import settle_open
from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand, Timer
from pm_celery.models.instances import InstanceStatus
from pm_celery.operations.interventions import intervene
from pm_celery.recording import skip_parked
from pm_celery.timers import timeout_message
from pm_celery.wakeups import wake_on_commit

__all__ = ["cancel", "complete", "fire_timeout", "give_up", "locked", "resume", "retry"]


def locked(instance_id: int) -> Instance:
    """The instance under its row lock, inside the caller's transaction. Raises ``Refused``.

    A worker that meets the lock passes over it, so one is woken when it is released.
    """
    found = (
        Instance.objects.using(get_settings().database)
        .select_for_update()
        .filter(pk=instance_id)
        .first()
    )
    if found is None:
        raise Refused(_("there is no such instance"))
    wake_on_commit([found.partition])
    return found


def _refuse_ended(instance: Instance) -> None:
    if instance.ended_at is not None:
        raise Refused(_("already %(status)s"), status=InstanceStatus(instance.status).label)


def cancel(instance_id: int, *, by: str = "", reason: str = "") -> None:
    """End an instance as cancelled: its timers go, its delayed commands are cancelled, its open letters
    discarded, and what arrives later is skipped. Raises ``Refused`` if it has ended."""
    _end(instance_id, "cancelled", "cancel", by, reason)


def complete(instance_id: int, *, by: str = "", reason: str = "") -> None:
    """End an instance as completed, because an operator knows that it is; all else as for `cancel`."""
    _end(instance_id, "completed", "complete", by, reason)


def _end(instance_id: int, status: str, verb: str, by: str, reason: str) -> None:
    alias = get_settings().database
    with transaction.atomic(using=alias):
        instance = locked(instance_id)
        _refuse_ended(instance)
        now = clock.now()
        record_status(alias, instance, status=status, kind=status, name=by, now=now, ended=True)
        Timer.objects.using(alias).filter(instance_id=instance.pk).delete()
        OutboxCommand.objects.using(alias).filter(
            instance_id=instance.pk, status="pending", dispatches=0
        ).update(status="cancelled", settled_at=now, reason=f"the instance was {status}")
        settle_open(alias, instance, by, now)
        skip_parked(alias, instance.process, instance.key, status, now)
        intervene(alias, verb, instance, by=by, reason=reason, instance=instance)


def fire_timeout(instance_id: int, *, by: str = "", reason: str = "") -> None:
    """Let an instance time out now instead of later. Raises ``Refused`` where it cannot."""
    alias = get_settings().database
    with transaction.atomic(using=alias):
        instance = locked(instance_id)
        _refuse_ended(instance)
        if instance.timeout_at is None:
            raise Refused(_("it has no timeout, or it has fired already"))
        now = clock.now()
        inbox.put([timeout_message(instance, now, now)])
        instance.timeout_at = None
        instance.save(using=alias, update_fields=["timeout_at"])
        intervene(alias, "fire timeout", instance, by=by, reason=reason, instance=instance)


def retry(instance_id: int, *, by: str = "", reason: str = "") -> int:
    """Retry the dead letter because of which an instance has failed; the letter's number.

    Raises ``Refused`` where there is none, and where there are several, of which nobody can say which one is
    meant. Letters of its commands do not count: those did not fail the instance.
    """
    from pm_celery.operations import dead_letters  # it imports this module

    alias = get_settings().database
    with transaction.atomic(using=alias):
        instance = locked(instance_id)
        _refuse_ended(instance)
        if instance.status != "failed":
            raise Refused(_("it has not failed"))
        letters = DeadLetter.objects.using(alias).open().filter(instance_id=instance.pk)
        found = list(letters.filter(command_id=None).values_list("pk", flat=True)[:2])
        if not found:
            raise Refused(_("it has no open dead letter"))
        if len(found) > 1:
            raise Refused(_("it has several open dead letters: retry or discard each by itself"))
        dead_letters.retry(found[0], by=by, reason=reason)
    return found[0]


def resume(
    alias: str, instance: Instance, by: str, now: datetime, *, statuses: Sequence[str] = ("parked",)
) -> None:
    """Start a failed, locked instance again: what it parked is due now, in order."""
    record_status(alias, instance, status="started", kind="resumed", name=by, now=now)
    rows = InboxMessage.objects.using(alias).of_instance(instance.process, instance.key)
    # A failure handler that was not called yet would hear of what is settled now.
    rows.filter(kind="failure", status="pending").update(
        status="skipped", reason="the instance was resumed before", handled_at=now
    )
    rows.filter(status__in=statuses).update(status="pending", due_at=clock.at_once(), reason="")


def give_up(alias: str, instance: Instance, by: str, now: datetime) -> None:
    """Leave a failed, locked instance failed for good: what it parked is skipped."""
    record_status(alias, instance, status="failed", kind="given_up", name=by, now=now, ended=True)
    Timer.objects.using(alias).filter(instance_id=instance.pk).delete()
    skip_parked(alias, instance.process, instance.key, "failed", now)
