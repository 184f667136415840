"""Pruning: what has ended and settled long ago is removed, in batches."""

from __future__ import annotations

from datetime import datetime

from django.db import connections, transaction
from django.db.models import Exists, OuterRef

from pm_celery import clock
from pm_celery.conf import get_settings
from pm_celery.durations import Duration, parse_duration
from pm_celery.models import (
    DeadLetter,
    FailedAttempt,
    InboxMessage,
    Instance,
    Intervention,
    OutboxCommand,
    Timer,
    Transition,
)
from pm_celery.models.outbox import UNSETTLED
from pm_celery.tallies import Tallies, write
from pm_celery.wakeups import wake_on_commit

__all__ = ["prune"]


def prune(older_than: Duration | None = None, *, batch: int = 500) -> int:
    """Remove ended instances with all that belongs to them, and what belongs to no instance, once it
    was settled longer ago than ``older_than`` (default ``PM_CELERY["RETENTION"]``); how many instances.

    Never an instance with an open dead letter or an unsettled command. An event whose row is gone would
    be handled again if it were published again with its id.
    """
    settings = get_settings()
    age = settings.retention if older_than is None else parse_duration(older_than)
    if age is None:
        return 0
    before = clock.now() - age
    total = 0
    while removed := _prune_instances(settings.database, before, batch):
        total += removed
    while _prune_loose_rows(settings.database, before, batch):
        pass
    return total


def _prune_instances(alias: str, before: datetime, batch: int) -> int:
    skip = connections[alias].features.has_select_for_update_skip_locked
    open_letters = DeadLetter.objects.filter(instance_id=OuterRef("pk"), status="open")
    unsettled = OutboxCommand.objects.filter(instance_id=OuterRef("pk"), status__in=UNSETTLED)
    with transaction.atomic(using=alias):
        ended = list(
            Instance.objects.using(alias)
            .select_for_update(skip_locked=skip)
            .ended_before(before)
            .exclude(Exists(open_letters))
            .exclude(Exists(unsettled))[:batch]
        )
        ids = [instance.pk for instance in ended]
        # A worker that meets our locks passes over them.
        wake_on_commit({instance.partition for instance in ended})
        # A letter that was opened between our query and its lock: leave its instance alone.
        spared = set(
            DeadLetter.objects.using(alias)
            .open()
            .filter(instance_id__in=ids)
            .values_list("instance_id", flat=True)
        )
        ended = [instance for instance in ended if instance.pk not in spared]
        ids = [instance.pk for instance in ended]
        # Children first: no foreign key of the database does it for us.
        steps = Transition.objects.using(alias).filter(instance_id__in=ids)
        handled = list(steps.values_list("inbox_id", flat=True))
        letters = DeadLetter.objects.using(alias).filter(instance_id__in=ids)
        notices = [f"failure:{pk}" for pk in letters.values_list("pk", flat=True)]
        messages = InboxMessage.objects.using(alias)
        commands = OutboxCommand.objects.using(alias).filter(instance_id__in=ids)
        # Those that made no transition are loose rows once their instance is gone.
        gone = [
            *messages.filter(message_id__in=notices).values_list("pk", flat=True),
            *(pk for pk in handled if pk),
        ]
        attempts = FailedAttempt.objects.using(alias)
        attempts.filter(message_id__in=gone).delete()
        attempts.filter(command_id__in=list(commands.values_list("pk", flat=True))).delete()
        messages.filter(pk__in=gone).delete()
        for model in (DeadLetter, Intervention, Transition, Timer, OutboxCommand):
            model._default_manager.using(alias).filter(instance_id__in=ids).delete()
        Instance.objects.using(alias).filter(pk__in=ids).delete()
        tallies = Tallies()
        for instance in ended:
            tallies.move(instance.process, instance.status, "")
        write(alias, tallies, clock.now())
    return len(ids)


def _prune_loose_rows(alias: str, before: datetime, batch: int) -> int:
    """Settled rows without an instance: of policies, unmatched, skipped, routed on; their letters."""
    living = Instance.objects.filter(process=OuterRef("process"), key=OuterRef("key"))
    messages = (
        InboxMessage.objects.using(alias)
        .filter(handled_at__lt=before)
        .exclude(Exists(living))
        .order_by("handled_at")
        .values_list("pk", flat=True)[:batch]
    )
    commands = (
        OutboxCommand.objects.using(alias)
        .filter(settled_at__lt=before, instance__isnull=True)
        .order_by("settled_at")
        .values_list("pk", flat=True)[:batch]
    )
    letters = (
        DeadLetter.objects.using(alias)
        .filter(settled_at__lt=before, instance__isnull=True)
        .order_by("pk")
        .values_list("pk", flat=True)[:batch]
    )
    removed = 0
    old_messages, old_commands = list(messages), list(commands)
    attempts = FailedAttempt.objects.using(alias)
    attempts.filter(message_id__in=old_messages).delete()
    attempts.filter(command_id__in=old_commands).delete()
    for model, found in (
        (InboxMessage, old_messages),
        (OutboxCommand, old_commands),
        (DeadLetter, list(letters)),
    ):
        removed += model._default_manager.using(alias).filter(pk__in=found).delete()[0]
    return removed
