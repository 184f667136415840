"""Writing dead letters, at every place where something can fail for good."""

from __future__ import annotations

from django.db import transaction

from pm_celery import clock, redaction, signals
from pm_celery.models import DeadLetter, InboxMessage
from pm_celery.models.dead_letters import Place
from pm_celery.rows import InboxRow, NewMessage
from pm_celery.wording import Hide, name_of, nothing_hidden, text_of, trace_of

__all__ = ["announce_death", "described", "open_letter", "reason_of", "summary"]


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
    letter = DeadLetter.objects.using(alias).create(
        message_id=message_pk,
        instance_id=instance_id,
        place=place,
        process=row.process,
        key=row.key,
        name=row.name,
        message_ref=row.message_id,
        handler=handler,
        payload=redaction.payload_shown(row.name, row.process, row.payload, kind=row.kind),
        attempts=attempts,
        died_at=clock.now(),
        **described(error, hide),
    )
    announce_death(alias, letter, error)
    return letter


def described(error: BaseException, hide: Hide = nothing_hidden) -> dict[str, str]:
    """An exception as a dead letter stores it: class, text, traceback; nothing a database refuses."""
    return {
        "exception": name_of(error),
        "error": text_of(error, hide),
        "traceback": trace_of(error, hide),
    }


def reason_of(error: BaseException, hide: Hide = nothing_hidden) -> str:
    """An exception as a row's reason, and as a log line, tells it."""
    return summary(name_of(error), text_of(error, hide))


def summary(exception: str, error: str) -> str:
    """The same, of an exception that is described already."""
    return f"{exception}: {error[:1000]}"


def announce_death(
    alias: str, letter: DeadLetter, error: BaseException, error_text: str = ""
) -> None:
    """Tell the world about a dead letter once it is committed; its error's text is the letter's."""
    text = error_text or summary(letter.exception, letter.error)

    def announce() -> None:
        signals.died.send_robust(
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

    transaction.on_commit(announce, using=alias, robust=True)
