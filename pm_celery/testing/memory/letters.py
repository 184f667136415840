"""Dead letters, and what the user's code raised."""

from __future__ import annotations

from pm_celery import redaction
from pm_celery.rows import CommandRow, InboxRow
from pm_celery.testing.memory.instance import Memory
from pm_celery.testing.memory.rows import Letter, Place
from pm_celery.wording import Hide, name_of, text_of

__all__ = ["hider", "note_error", "open_letter"]


def note_error(memory: Memory, error: Exception, where: str) -> None:
    """Keep what the user's code raised; raise it, unless the test has planned or allowed it."""
    memory.errors.append(error)
    if memory.plan.is_of(error) or isinstance(error, memory.raises):
        return
    error.add_note(
        f"pm_celery.testing: {where}. The engine would try again, and then write a dead letter. A test "
        f"of that says raises={type(error).__name__}, or lets it fail with failing(…)."
    )
    raise error


def open_letter(
    memory: Memory,
    place: Place,
    row: InboxRow | CommandRow,
    error: BaseException,
    *,
    attempts: int,
    handler: str = "",
) -> Letter:
    """Write a dead letter for a message or a command."""
    hide = hider(memory, row)
    letter = Letter(
        number=len(memory.letters) + 1,
        place=place,
        name=row.name,
        message_id=row.message_id if isinstance(row, InboxRow) else row.command_id,
        payload=row.payload,
        exception=name_of(error),
        error=text_of(error, hide),
        attempts=attempts,
        handler=handler,
    )
    memory.letters.append(letter)
    return letter


def hider(memory: Memory, row: InboxRow | CommandRow) -> Hide:
    """What takes the values out of an error's text that are not to be shown."""
    if isinstance(row, CommandRow):
        return redaction.hider(row.name, row.process, row.payload)
    state = memory.instance.state if memory.instance else ""
    return redaction.hider(row.name, row.process, row.payload, kind=row.kind, state=state)
