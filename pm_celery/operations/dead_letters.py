"""Verbs for dead letters: retry, discard, annotate. A letter is settled once, by one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from pm_celery import clock, redaction, registry
from pm_celery.conf import get_settings
from pm_celery.definitions import ProcessDefinition
from pm_celery.exceptions import Refused, UnusableKey
from pm_celery.keys import partition_of
from pm_celery.letters import note_settled
from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand, Timer
from pm_celery.models.dead_letters import LetterStatus, Place
from pm_celery.operations import instances
from pm_celery.operations.interventions import intervene
from pm_celery.publishing import route_stored
from pm_celery.wakeups import wake_on_commit
from pm_celery.wording import name_of, text_of

__all__ = ["ALREADY_SETTLED", "annotate", "discard", "locked", "retry", "write_down"]

#: Also a key in what a bulk action stores, and so the same in every language.
ALREADY_SETTLED = gettext_noop("already settled")
LONGEST_NOTE = 10_000
# Whole sentences: one that a bulk action has stored is found among the translations by all of its words.
_ENDED = {
    "completed": _("the instance is completed"),
    "timed_out": _("the instance has timed out"),
    "failed": _("the instance has failed for good"),
    "cancelled": _("the instance is cancelled"),
}


def retry(letter_id: int, *, by: str = "", reason: str = "") -> None:
    """Run the letter's message or command again, with all its attempts.

    A failed instance is started again, and what it parked follows the message, in order. Raises
    ``Refused``, and does nothing, where that cannot be.
    """
    alias = get_settings().database
    with transaction.atomic(using=alias):
        letter, instance = locked(alias, letter_id)
        if letter.place == Place.PUBLISH:
            raise Refused(
                _("its id was used before and the first event stands: publish it with a new id")
            )
        if letter.command_id is not None:
            _retry_command(alias, letter)
        else:
            _retry_message(alias, letter, instance, by)
        _settle(alias, letter, LetterStatus.RETRIED, "retry dead letter", by, reason)


def discard(letter_id: int, *, resume: bool = True, by: str = "", reason: str = "") -> None:
    """Give the letter's message or command up.

    resume: a failed instance is started again without it, and handles what it parked; else it is left
    failed for good, and what it parked is skipped. Raises ``Refused``.
    """
    alias = get_settings().database
    with transaction.atomic(using=alias):
        letter, instance = locked(alias, letter_id, may_be_gone=True)
        now = clock.now()
        if letter.command_id is not None:
            OutboxCommand.objects.using(alias).filter(
                pk=letter.command_id or 0, status="dead"
            ).update(status="discarded", settled_at=now)
        elif letter.place != Place.PUBLISH:
            InboxMessage.objects.using(alias).filter(
                pk=letter.message_id or 0, status="dead"
            ).update(status="discarded", handled_at=now)
            if instance is not None and letter.message and letter.message.kind == "timer":
                given_up = Timer.objects.using(alias).filter(instance_id=instance.pk)
                given_up.filter(name=letter.name, fired_at__isnull=False).delete()
            if instance is not None and instance.status == "failed" and instance.ended_at is None:
                if resume:
                    # No start event will come for what waited for this one.
                    left = ("parked", "waiting")
                    instances.resume(alias, instance, by, now, statuses=left)
                else:
                    instances.give_up(alias, instance, by, now)
        _settle(alias, letter, LetterStatus.DISCARDED, "discard dead letter", by, reason)


def annotate(letter_id: int, note: str, *, by: str = "", reason: str = "") -> None:
    """Write a note on a letter, settled or not, in place of the one that it had. Raises ``Refused``."""
    if "\x00" in note:
        raise Refused(_("the note holds the character U+0000, which databases refuse"))
    if len(note) > LONGEST_NOTE:
        raise Refused(_("the note is longer than %(most)s characters"), most=LONGEST_NOTE)
    alias = get_settings().database
    with transaction.atomic(using=alias):
        letter = DeadLetter.objects.using(alias).select_for_update().filter(pk=letter_id).first()
        if letter is None:
            raise Refused(_("there is no such letter"))
        details = {"letter": letter.pk, "before": letter.note}
        letter.note = note
        letter.save(using=alias, update_fields=["note"])
        write_down(alias, letter, "annotate dead letter", by, reason, details)


def locked(
    alias: str, letter_id: int, *, may_be_gone: bool = False
) -> tuple[DeadLetter, Instance | None]:
    """The letter and its instance, locked: the instance first, as the engine does. Raises ``Refused``.

    may_be_gone: an instance that somebody has deleted is none, and no reason to refuse.
    """
    seen = DeadLetter.objects.using(alias).filter(pk=letter_id).first()
    if seen is None:
        raise Refused(_("there is no such letter"))
    instance = None
    if seen.instance_id and not seen.command_id:
        its_own = Instance.objects.using(alias).filter(pk=seen.instance_id)
        if not may_be_gone or its_own.exists():
            instance = instances.locked(seen.instance_id)
    letter = DeadLetter.objects.using(alias).select_for_update().filter(pk=letter_id).first()
    if letter is None or letter.status != LetterStatus.OPEN:
        raise Refused(_(ALREADY_SETTLED))
    return letter, instance


def _settle(alias: str, letter: DeadLetter, status: str, verb: str, by: str, reason: str) -> None:
    letter.status, letter.settled_at, letter.settled_by = status, clock.now(), by[:255]
    letter.save(using=alias, update_fields=["status", "settled_at", "settled_by"])
    note_settled(alias, [letter], letter.settled_at)
    write_down(alias, letter, verb, by, reason, {"letter": letter.pk})


def write_down(
    alias: str, letter: DeadLetter, verb: str, by: str, reason: str, details: Mapping[str, Any]
) -> None:
    """Write an intervention on a letter into its instance's timeline."""
    intervene(
        alias,
        verb,
        f"{letter.pk} ({letter})",
        by=by,
        reason=reason,
        instance=Instance.objects.using(alias).filter(pk=letter.instance_id or 0).first(),
        letter=letter,
        process=letter.process,
        key=letter.key,
        details=details,
    )


def _retry_command(alias: str, letter: DeadLetter) -> None:
    now = clock.now()
    changed = (
        OutboxCommand.objects.using(alias)
        .filter(pk=letter.command_id or 0, status="dead")
        .update(status="pending", due_at=now, attempts=0, dispatches=1, expires_at=None, reason="")
    )
    if not changed:
        raise Refused(_("the command is no longer dead"))


def _retry_message(alias: str, letter: DeadLetter, instance: Instance | None, by: str) -> None:
    now = clock.now()
    row = (
        InboxMessage.objects.using(alias)
        .select_for_update()
        .filter(pk=letter.message_id or 0, status="dead")
        .first()
    )
    if row is None:
        raise Refused(_("the message is no longer dead"))
    if instance is not None and instance.ended_at is not None:
        raise Refused(_ENDED[instance.status])
    if letter.place == Place.CORRELATE:
        _route_again(alias, row)
        return
    row.status, row.due_at, row.attempts, row.reason = "pending", now, 0, ""
    row.save(using=alias, update_fields=["status", "due_at", "attempts", "reason"])
    if instance is not None and instance.status == "failed":
        instances.resume(alias, instance, by, now)
    wake_on_commit([row.partition])


def _route_again(alias: str, row: InboxMessage) -> None:
    """Ask the correlate once more: a new release may have mended it. Raises ``Refused``."""
    declared = registry.messages.get(row.name)
    if declared is None or declared.kind != "event":
        raise Refused(_("this release does not know the event %(name)s"), name=row.name)
    now = clock.now()
    try:
        if not row.process:
            hearers = route_stored(declared, row)
            row.status, row.reason = "handled", f"put into {hearers} inboxes"
            row.handled_at = now
            row.save(using=alias, update_fields=["status", "reason", "handled_at"])
            return
        listener = registry.listeners.get(row.process)
        if not isinstance(listener, ProcessDefinition) or declared not in listener.event_handlers:
            raise UnusableKey(f"{row.process} no longer handles {row.name}")
        key = listener.key_of(declared, declared.decode(row.payload, row.version))
    except Exception as error:
        hide = redaction.hider(row.name, row.process, row.payload, kind=row.kind)
        raise Refused(f"{name_of(error)}: {text_of(error, hide)}") from error
    if key is None:
        row.status, row.reason, row.handled_at = "skipped", "the correlate says: not mine", now
    else:
        row.key, row.partition = key, partition_of(row.process, key)
        row.status, row.due_at, row.attempts, row.reason = "pending", now, 0, ""
        wake_on_commit([row.partition])
    row.save(using=alias)
