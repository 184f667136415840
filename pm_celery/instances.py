"""The operator's verbs for process instances. Each locks, does it in one transaction, or refuses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.db import transaction

from pm_celery import clock, inbox, signals
from pm_celery.conf import get_settings
from pm_celery.exceptions import Refused
from pm_celery.failures import record_status
from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand, Timer
from pm_celery.recording import skip_parked
from pm_celery.rows import NewMessage
from pm_celery.wakeups import wake_on_commit

__all__ = [
    "announce",
    "cancel",
    "fire_timeout",
    "give_up",
    "locked",
    "resume",
    "timeout_message",
]


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
        raise Refused("there is no such instance")
    wake_on_commit([found.partition])
    return found


def cancel(instance_id: int, *, by: str = "") -> None:
    """End an instance as cancelled: its timers go, its delayed commands are cancelled, its open letters
    discarded, and what arrives later is skipped. Raises ``Refused`` if it has ended."""
    alias = get_settings().database
    with transaction.atomic(using=alias):
        instance = locked(instance_id)
        if instance.ended_at is not None:
            raise Refused(f"already {instance.status}")
        now = clock.now()
        record_status(
            alias, instance, status="cancelled", kind="cancelled", name=by, now=now, ended=True
        )
        Timer.objects.using(alias).filter(instance_id=instance.pk).delete()
        OutboxCommand.objects.using(alias).filter(
            instance_id=instance.pk, status="pending", dispatches=0
        ).update(status="cancelled", settled_at=now, reason="the instance was cancelled")
        letters = DeadLetter.objects.using(alias).open().filter(instance_id=instance.pk)
        letters = letters.filter(message_id__isnull=False)
        InboxMessage.objects.using(alias).filter(
            pk__in=list(letters.values_list("message_id", flat=True)), status="dead"
        ).update(status="discarded", handled_at=now)
        letters.update(status="discarded", settled_at=now, settled_by=by[:255])
        skip_parked(alias, instance.process, instance.key, "cancelled", now)
        announce(alias, "cancel", by, instance)


def fire_timeout(instance_id: int, *, by: str = "") -> None:
    """Let an instance time out now instead of later. Raises ``Refused`` where it cannot."""
    alias = get_settings().database
    with transaction.atomic(using=alias):
        instance = locked(instance_id)
        if instance.ended_at is not None:
            raise Refused(f"already {instance.status}")
        if instance.timeout_at is None:
            raise Refused("it has no timeout, or it has fired already")
        now = clock.now()
        inbox.put([timeout_message(instance, now, now)])
        instance.timeout_at = None
        instance.save(using=alias, update_fields=["timeout_at"])
        announce(alias, "fire timeout", by, instance)


def timeout_message(instance: Instance, due_at: datetime, now: datetime) -> NewMessage:
    """The inbox row of an instance's timeout: its id lets it be put in once, whoever tries."""
    return NewMessage(
        message_id=f"timeout:{instance.pk}",
        kind="timeout",
        name="timeout",
        version=1,
        payload="null",
        process=instance.process,
        key=instance.key,
        partition=instance.partition,
        due_at=min(due_at, clock.at_once()),
        correlation_id=instance.correlation_id,
        causation_id="",
        depth=0,
        occurred_at=due_at,
        published_at=now,
    )


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


def announce(alias: str, verb: str, by: str, subject: object) -> None:
    """Tell the world what an operator did, once it is committed."""
    transaction.on_commit(
        lambda: signals.operated.send_robust(
            sender=Instance, verb=verb, by=by or "unknown", subject=str(subject)
        ),
        using=alias,
        robust=True,
    )
