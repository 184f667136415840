"""Messages come in: events are routed, and each id is put in once; timers and timeouts fire."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import datetime

from pm_celery import notices, registry
from pm_celery.decisions import Cause
from pm_celery.exceptions import DeclarationError, EventIdConflict, Misuse
from pm_celery.keys import partition_of
from pm_celery.messages import MessageType, encoded
from pm_celery.rows import InboxRow, NewMessage
from pm_celery.testing.memory.instance import Memory
from pm_celery.testing.memory.letters import note_error, open_letter
from pm_celery.testing.memory.rows import Received
from pm_celery.wording import text_of

__all__ = ["declared_event", "fire", "publish", "put"]

_OF_A_MESSAGE = [field.name for field in fields(NewMessage) if field.name != "reason"]


def publish(
    memory: Memory,
    event: object,
    *,
    event_id: str = "",
    correlation_id: str = "",
    occurred_at: datetime | None = None,
    cause: Cause | None = None,
) -> None:
    """Put an event into the inbox, if it is this instance's.

    Raises ``Misuse`` for one that the process does not handle, unless a command handler published it.
    """
    known, payload, validated = encoded(event, "event")
    if known not in memory.definition.event_handlers and cause is not None:
        return
    declared_event(memory, known)
    event_id = event_id or f"event-{len(memory.inbox) + len(memory.elsewhere) + 1}"
    message = NewMessage(
        message_id=event_id,
        kind="event",
        name=known.name,
        version=known.version,
        payload=payload,
        process=memory.definition.name,
        key="",
        partition=0,
        due_at=memory.at_once,
        correlation_id=correlation_id or (cause.correlation_id if cause else event_id),
        causation_id=cause.message_id if cause else "",
        depth=cause.depth + 1 if cause else 0,
        occurred_at=occurred_at or memory.now,
        published_at=memory.now,
    )
    try:
        key = memory.definition.key_of(known, validated)
    except Exception as error:  # noqa: BLE001 -- a correlate is user code
        note_error(memory, error, f"it is the correlate for {known.name}")
        message.status, message.reason = "dead", text_of(error)
        row = put(memory, message)
        if row is not None:
            open_letter(memory, "correlate", row, error, attempts=1)
        return
    if key is None:
        memory.elsewhere.append((event, "the correlate says: not mine"))
    elif memory.key not in (None, key):
        memory.elsewhere.append((event, f"its key is {key!r}, and not {memory.key!r}"))
    else:
        memory.key = message.key = key
        message.partition = partition_of(message.process, key)
        put(memory, message)


def declared_event(memory: Memory, known: MessageType) -> None:
    """Raise, with a remedy, for an event of which the process would not hear."""
    if registry.messages.get(known.name) is not known:
        raise DeclarationError(
            f"Two messages are declared as {known.name!r}, and what is stored is found by its name: "
            "give one of them another name, or declare it in a module of another app."
        )
    if known not in memory.definition.event_handlers:
        heard = ", ".join(sorted(event.cls.__name__ for event in memory.definition.events()))
        raise Misuse(f"{memory.definition.where} does not handle {known.name}, but {heard}.")


def put(memory: Memory, message: NewMessage) -> InboxRow | None:
    """Insert a message; None where its id was there before."""
    known = memory.ids.get(message.message_id)
    if known is not None:
        _note_conflict(memory, memory.inbox[known].row, message)
        return None
    values = {name: getattr(message, name) for name in _OF_A_MESSAGE}
    row = InboxRow(id=len(memory.inbox) + 1, attempts=0, **values)
    memory.inbox[row.id] = Received(row, message.reason)
    memory.ids[row.message_id] = row.id
    return row


def _note_conflict(memory: Memory, stored: InboxRow, message: NewMessage) -> None:
    """The first event of an id stands."""
    if (stored.name, stored.payload) == (message.name, message.payload):
        return
    for letter in memory.letters:
        is_open = letter.place == "publish" and letter.status == "open"
        if is_open and (letter.message_id, letter.payload) == (stored.message_id, message.payload):
            return
    error = EventIdConflict(
        f"The event id {message.message_id!r} was used before with another payload; the first "
        "one stands. Publish with a new id if both are meant."
    )
    conflicting = replace(stored, name=message.name, payload=message.payload)
    open_letter(memory, "publish", conflicting, error, attempts=0)


def fire(memory: Memory) -> None:
    """Put due timers, and then a timeout that has passed, into the inbox."""
    instance, now = memory.instance, memory.now
    if instance is None:
        return
    due = [timer for timer in memory.timers.values() if not timer.is_fired and timer.due_at <= now]
    for timer in sorted(due, key=lambda timer: timer.due_at):
        put(memory, notices.timer_fired(timer, instance, now, ""))
        memory.timers[timer.name] = replace(timer, is_fired=True)
    if instance.timeout_at is not None and instance.timeout_at <= now:
        put(memory, notices.timed_out(instance, instance.timeout_at, now, memory.at_once, ""))
        instance.timeout_at = None
