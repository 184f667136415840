"""Writing dead letters, at every place where something can fail for good."""

from __future__ import annotations

import traceback

from django.db import transaction

from pm_celery import clock, signals
from pm_celery.exceptions import PmCeleryError
from pm_celery.models import DeadLetter, InboxMessage
from pm_celery.models.dead_letters import Place
from pm_celery.rows import InboxRow, NewMessage

__all__ = ["announce_death", "described", "open_letter"]

LONGEST_TRACEBACK = 20_000
_OURS = ("pm_celery.", "pydantic")


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
) -> DeadLetter:
    """Write a dead letter for a message, in the caller's transaction."""
    letter = DeadLetter.objects.using(alias).create(
        message_id=message_pk,
        instance_id=instance_id,
        place=place,
        process=row.process,
        key=row.key,
        name=row.name,
        message_ref=row.message_id,
        handler=handler,
        payload=row.payload,
        attempts=attempts,
        died_at=clock.now(),
        **described(error),
    )
    announce_death(alias, letter, error)
    return letter


def described(error: BaseException) -> dict[str, str]:
    """An exception as a dead letter stores it: class, text, traceback; nothing a database refuses."""
    trace = (
        "" if isinstance(error, PmCeleryError) and error.__traceback__ is None else _trace(error)
    )
    return {
        "exception": _printable(type(error).__name__)[:255],
        "error": _printable(str(error))[:LONGEST_TRACEBACK],
        "traceback": trace,
    }


def _trace(error: BaseException) -> str:
    # The user's code, not ours, is what failed: begin where it begins.
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith(_OURS):
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))
    if len(text) > LONGEST_TRACEBACK:
        half = LONGEST_TRACEBACK // 2
        text = f"{text[:half]}\n… {len(text) - LONGEST_TRACEBACK} characters left out …\n{text[-half:]}"
    return _printable(text)


def _printable(text: str) -> str:
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def announce_death(alias: str, letter: DeadLetter, error: BaseException) -> None:
    """Tell the world about a dead letter once it is committed."""

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
        )

    transaction.on_commit(announce, using=alias, robust=True)
