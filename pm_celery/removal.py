"""Removing instances with all that belongs to them, and rows that belong to none: one transaction each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from django.db import connections, transaction

from pm_celery import clock
from pm_celery.export import Documents, documents
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

__all__ = ["remove_commands", "remove_instances", "remove_messages", "remove_rows", "spared"]


def spared(alias: str, ids: Sequence[int]) -> set[int]:
    """Those of these instances that are not to be removed yet: they have an open letter, or a command that
    is not settled."""
    letters = DeadLetter.objects.using(alias).filter(instance_id__in=ids, status="open")
    commands = OutboxCommand.objects.using(alias).filter(instance_id__in=ids, status__in=UNSETTLED)
    found = {row for row in letters.values_list("instance_id", flat=True) if row}
    return found | {row for row in commands.values_list("instance_id", flat=True) if row}


def remove_instances(
    alias: str, ids: Sequence[int], keep: Callable[[Documents], object] | None = None
) -> Counter[tuple[str, str]]:
    """Remove those of these ended instances that may be; how many, by process and status.

    keep: is given them as dicts first. If it raises, or we die before the commit, none of them is
    removed, and the next prune gives them to it again.
    """
    skip = connections[alias].features.has_select_for_update_skip_locked
    with transaction.atomic(using=alias):
        locked = list(
            Instance.objects.using(alias)
            .select_for_update(skip_locked=skip)
            .filter(pk__in=ids, ended_at__isnull=False)
            .order_by("pk")
        )
        # A worker that meets our locks passes over them.
        wake_on_commit({instance.partition for instance in locked})
        # Asked once they are locked: who retries a letter locks its instance first, or has not settled it.
        left = spared(alias, [instance.pk for instance in locked])
        ended = [instance for instance in locked if instance.pk not in left]
        if keep is not None and ended:
            keep(documents(ended))
        _delete_all_of(alias, [instance.pk for instance in ended])
        tallies = Tallies()
        for instance in ended:
            tallies.move(instance.process, instance.status, "")
        write(alias, tallies, clock.now())
    return Counter((instance.process, instance.status) for instance in ended)


def _delete_all_of(alias: str, ids: Sequence[int]) -> None:
    """Children first: no foreign key of the database does it for us."""
    steps = Transition.objects.using(alias).filter(instance_id__in=ids)
    handled = list(steps.values_list("inbox_id", flat=True))
    letters = DeadLetter.objects.using(alias).filter(instance_id__in=ids)
    notices = [f"failure:{pk}" for pk in letters.values_list("pk", flat=True)]
    messages = InboxMessage.objects.using(alias)
    commands = OutboxCommand.objects.using(alias).filter(instance_id__in=ids)
    # Those that made no transition belong to no instance once theirs is gone.
    gone = [
        *messages.filter(message_id__in=notices).values_list("pk", flat=True),
        *(pk for pk in handled if pk),
    ]
    attempts = FailedAttempt.objects.using(alias)
    attempts.filter(command_id__in=list(commands.values_list("pk", flat=True))).delete()
    _delete_messages(alias, gone)
    for model in (DeadLetter, Intervention, Transition, Timer, OutboxCommand):
        model._default_manager.using(alias).filter(instance_id__in=ids).delete()
    Instance.objects.using(alias).filter(pk__in=ids).delete()


def _delete_messages(alias: str, ids: Sequence[int]) -> None:
    FailedAttempt.objects.using(alias).filter(message_id__in=ids).delete()
    InboxMessage.objects.using(alias).filter(pk__in=ids).delete()


def remove_messages(alias: str, ids: Sequence[int]) -> None:
    """Remove settled messages that belong to no instance, with their failed attempts."""
    with transaction.atomic(using=alias):
        _delete_messages(alias, ids)


def remove_commands(alias: str, ids: Sequence[int]) -> None:
    """Remove settled commands of policies, with their failed attempts."""
    with transaction.atomic(using=alias):
        FailedAttempt.objects.using(alias).filter(command_id__in=ids).delete()
        OutboxCommand.objects.using(alias).filter(pk__in=ids).delete()


def remove_rows(model: Any, alias: str, ids: Sequence[int]) -> None:
    """Remove rows on which no others hang."""
    model._default_manager.using(alias).filter(pk__in=ids).delete()
