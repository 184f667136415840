"""Writing dead letters, at every place where something can fail for good."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.db import transaction

from pm_celery import clock, redaction, signals, tracing
from pm_celery.models import (
    DeadLetter,
    FailedAttempt,
    InboxMessage,
    Instance,
    LetterGroup,
    OutboxCommand,
)
from pm_celery.models.dead_letters import Place
from pm_celery.rows import InboxRow, NewMessage
from pm_celery.tallies import DIED, OPEN, RUN_FAILED, Tallies
from pm_celery.tallies import write as write_tallies
from pm_celery.wording import Hide, described, name_of, nothing_hidden, summary, text_of

__all__ = [
    "announce_death",
    "note_failed_attempt",
    "note_settled",
    "open_letter",
    "settle_open",
    "write",
]


def open_letter(
    alias: str,
    row: NewMessage | InboxRow | InboxMessage,
    error: BaseException,
    *,
    place: Place,
    attempts: int,
    message_pk: int | None,
    instance_id: int | None = None,
    handler: str = "",
    state: str = "",
) -> DeadLetter:
    """Write a dead letter for a message, in the caller's transaction.

    state: that of its instance, which its error may quote.
    """
    hide = redaction.hider(row.name, row.process, row.payload, kind=row.kind, state=state)
    letter = DeadLetter(
        message_id=message_pk,
        instance_id=instance_id,
        place=place,
        process=row.process,
        key=row.key,
        name=row.name,
        message_ref=row.message_id,
        handler=handler,
        payload=redaction.payload_shown(
            row.name, row.process, row.payload, kind=row.kind, version=row.version
        ),
        attempts=attempts,
        **described(error, hide),
    )
    return write(alias, letter, error, row.trace)


def write(alias: str, letter: DeadLetter, error: BaseException, trace: str) -> DeadLetter:
    """Write a letter that says all but when and of which group it is, in the caller's transaction.

    trace: of what died.
    """
    letter.died_at = clock.now()
    group = LetterGroup.of(letter)
    letter.group_id = group.pk
    LetterGroup.objects.using(alias).bulk_create([group], ignore_conflicts=True)
    letter.save(using=alias, force_insert=True)
    tallies = Tallies()
    tallies.add(letter.process, DIED, detail=group.pk)
    tallies.add(letter.process, OPEN, detail=group.pk)
    write_tallies(alias, tallies, letter.died_at)
    announce_death(alias, letter, error)
    if tracing.is_on():
        # No partial: see wakeups.
        transaction.on_commit(lambda: tracing.note_death(letter, trace), using=alias, robust=True)
    return letter


def note_settled(alias: str, letters: Sequence[DeadLetter], now: datetime) -> None:
    """Take letters that are settled from the tally of open ones, in the caller's transaction."""
    tallies = Tallies()
    for letter in letters:
        tallies.add(letter.process, OPEN, -1, detail=letter.group_id)
    write_tallies(alias, tallies, now)


def settle_open(alias: str, instance: Instance, by: str, now: datetime) -> None:
    """Discard the open letters of a locked instance that an operator has ended, and their messages."""
    letters = DeadLetter.objects.using(alias).open()
    found = list(letters.filter(instance_id=instance.pk, message_id__isnull=False))
    InboxMessage.objects.using(alias).filter(
        pk__in=[letter.message_id for letter in found], status="dead"
    ).update(status="discarded", handled_at=now)
    DeadLetter.objects.using(alias).filter(pk__in=[letter.pk for letter in found]).update(
        status="discarded", settled_at=now, settled_by=by[:255]
    )
    note_settled(alias, found, now)


def note_failed_attempt(
    alias: str,
    row: InboxRow | OutboxCommand,
    error: BaseException,
    number: int,
    *,
    message_pk: int | None = None,
    command_pk: int | None = None,
    handler: str = "",
    hide: Hide = nothing_hidden,
) -> None:
    """Write down that a run failed, for whoever asks later what was tried and when; in the caller's
    transaction."""
    now = clock.now()
    FailedAttempt.objects.using(alias).create(
        message_id=message_pk,
        command_id=command_pk,
        number=number,
        failed_at=now,
        handler=handler,
        exception=name_of(error),
        error=text_of(error, hide)[:1000],
    )
    tallies = Tallies()
    tallies.add(row.process, RUN_FAILED)
    write_tallies(alias, tallies, now)


def announce_death(
    alias: str, letter: DeadLetter, error: BaseException, error_text: str = ""
) -> None:
    """Tell the world about a dead letter once it is committed; its error's text is the letter's."""
    text = error_text or summary(letter.exception, letter.error)

    signals.died.send_on_commit(
        alias,
        sender=DeadLetter,
        letter_id=letter.pk,
        place=letter.place,
        process=letter.process,
        key=letter.key,
        name=letter.name,
        message_id=letter.message_ref,
        error=error,
        error_text=text,
    )
