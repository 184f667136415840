"""What a test reads of rows: messages as the objects that they were, with what became of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from celery.canvas import Signature
from kombu.utils import json as kombu_json

from pm_celery import registry
from pm_celery.rows import CommandRow, InboxRow
from pm_celery.testing.memory.instance import Memory
from pm_celery.testing.memory.rows import Letter, SentCommand

__all__ = [
    "DeadLetter",
    "Noted",
    "Sent",
    "Transition",
    "command_of",
    "dead_letter_of",
    "message_of",
    "noted",
    "sent_of",
    "transitions_of",
]


class Noted(NamedTuple):
    """A message, and why it stands as it does; equal to a pair of the two.

    message: the event; of a timer, timeout or notice its name.
    """

    message: Any
    reason: str


@dataclass(frozen=True)
class Transition:
    """One step of the instance.

    message: the event that it followed; of anything else its name.
    handler: the method that ran, "" for none.
    state: after it, as JSON reads it.
    commands: what it issued. timers: what it set, and None for what it cancelled.
    """

    number: int
    kind: str
    message: Any
    handler: str
    status: str
    state: Mapping[str, Any]
    commands: tuple[Any, ...]
    timers: Mapping[str, datetime | None]
    attempt: int
    at: datetime


@dataclass(frozen=True)
class Sent:
    """A command, and what became of it: pending (delayed), dispatched, done, dead, cancelled, discarded.

    due_at: of a pending one, when it is dispatched.
    """

    command: Any
    status: str
    due_at: datetime
    attempts: int
    reason: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class DeadLetter:
    """What failed for good.

    message: the event or command; of anything else its name.
    place: handler, command, signature, unmatched, correlate or publish.
    status: open, retried or discarded.
    failure_handler_error: what ``@on_failure`` raised in turn, "" if it did not.
    """

    number: int
    message: Any
    place: str
    handler: str
    exception: str
    error: str
    attempts: int
    status: str
    failure_handler_error: str


def message_of(row: InboxRow) -> Any:
    """The event of a row; of another message its name."""
    return _decoded(row.name, row.payload) if row.kind == "event" else row.name


def command_of(row: CommandRow) -> Any:
    """The command, or the Celery signature, that a row holds."""
    if row.kind == "command":
        return _decoded(row.name, row.payload)
    stored = kombu_json.loads(row.payload)
    return Signature(
        stored["task"],
        args=tuple(stored.get("args", ())),
        kwargs=stored.get("kwargs", {}),
        options=stored.get("options", {}),
        immutable=stored.get("immutable", False),
    )


def _decoded(name: str, payload: str) -> Any:
    declared = registry.messages.get(name)
    return name if declared is None else declared.decode(payload)


def noted(memory: Memory, statuses: Iterable[str]) -> list[Noted]:
    """The messages of the inbox that stand so, in order."""
    return [
        Noted(message_of(found.row), found.reason)
        for found in memory.inbox.values()
        if found.row.status in statuses
    ]


def sent_of(sent: SentCommand) -> Sent:
    row = sent.row
    options = json.loads(row.options)
    return Sent(command_of(row), row.status, row.due_at, sent.attempts, row.reason, options)


def dead_letter_of(letter: Letter) -> DeadLetter:
    message: Any = letter.name
    if letter.place != "signature" and registry.messages.get(letter.name) is not None:
        message = _decoded(letter.name, letter.payload)
    return DeadLetter(
        number=letter.number,
        message=message,
        place=letter.place,
        handler=letter.handler,
        exception=letter.exception,
        error=letter.error,
        attempts=letter.attempts,
        status=letter.status,
        failure_handler_error=letter.failure_handler_error,
    )


def transitions_of(memory: Memory) -> list[Transition]:
    found = []
    for row, at in zip(memory.transitions, memory.moments, strict=True):
        message: Any = row.name
        if row.kind == "event" and row.inbox_id is not None:
            message = message_of(memory.inbox[row.inbox_id].row)
        issued = [memory.outbox[command_id].row for command_id, _ in json.loads(row.commands)]
        timers = {
            name: None if moment is None else datetime.fromisoformat(moment)
            for name, moment in json.loads(row.timers).items()
        }
        found.append(
            Transition(
                number=row.number,
                kind=row.kind,
                message=message,
                handler=row.handler,
                status=row.status,
                state=json.loads(row.state),
                commands=tuple(map(command_of, issued)),
                timers=timers,
                attempt=row.attempt,
                at=at,
            )
        )
    return found
