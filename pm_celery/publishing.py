"""Publishing: events become inbox rows, in the caller's transaction; no handler runs here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

from asgiref.sync import sync_to_async
from django.db import DatabaseError, transaction

from pm_celery import clock, inbox, redaction, registry, tracing
from pm_celery.conf import get_settings
from pm_celery.decisions import current_cause
from pm_celery.exceptions import InvalidMessage, UnknownMessage
from pm_celery.keys import LONGEST_KEY, partition_of
from pm_celery.listeners import route
from pm_celery.messages import LONGEST_NAME, MessageType, encoded, unstorable
from pm_celery.models import InboxMessage
from pm_celery.rows import NewMessage
from pm_celery.versions import LARGEST, is_version
from pm_celery.wording import text_of

__all__ = ["Envelope", "apublish", "publish", "publish_many", "publish_named", "route_stored"]

_ROWS_AT_ONCE = 5000


@dataclass(frozen=True, slots=True)
class Envelope:
    """An event with what ``publish`` takes besides it, for :func:`publish_many`.

    event: an instance of a class that is declared with :func:`event`.
    event_id, correlation_id, occurred_at: as for :func:`publish`; None for its defaults.
    """

    event: object
    event_id: str | UUID | None = None
    correlation_id: str | UUID | None = None
    occurred_at: datetime | None = None


def publish(
    event: object,
    *,
    event_id: str | UUID | None = None,
    correlation_id: str | UUID | None = None,
    occurred_at: datetime | None = None,
) -> str:
    """Put an event into the inbox of every process that hears it; returns its event id, as text.

    Call it inside the transaction that makes the event true: both commit, or neither. No handler runs
    here, and no broker is waited for: workers are woken after the commit.

    event:
        an instance of a class that is declared with :func:`event`.
    event_id:
        identifies the event, 1 to 255 characters; a process handles one id once. Give one of your own
        where publishing may be repeated. Default: a new UUID.
    correlation_id:
        the conversation it belongs to. Default: that of the message being handled, else the event id.
    occurred_at:
        when it happened, with a time zone; nothing decides by it. Default: now.

    Raises ``InvalidMessage``, and writes nothing, for what is no event, does not validate or cannot be
    stored; ``DeclarationError`` if a process that hears it is declared wrongly. A correlate that fails
    raises nothing: it is a dead letter of its process.
    """
    return publish_many([Envelope(event, event_id, correlation_id, occurred_at)])[0]


async def apublish(
    event: object,
    *,
    event_id: str | UUID | None = None,
    correlation_id: str | UUID | None = None,
    occurred_at: datetime | None = None,
) -> str:
    """:func:`publish` for async code. Django's transactions are synchronous: it commits by itself."""
    return await sync_to_async(publish)(
        event, event_id=event_id, correlation_id=correlation_id, occurred_at=occurred_at
    )


def publish_many(events: Iterable[object | Envelope]) -> list[str]:
    """Publish events, or :class:`Envelope` s, in bulk; all or nothing; returns their event ids, in order.

    One statement inserts thousands of rows, so an import is many times as fast as with :func:`publish`.
    Raises before anything is written, what :func:`publish` raises.
    """
    rows: list[NewMessage] = []
    errors: list[Exception | None] = []
    ids: list[str] = []
    with tracing.publishing() as traced:
        for item in events:
            envelope = item if isinstance(item, Envelope) else Envelope(item)
            ids.append(_add_rows(envelope, rows, errors, traced))
        if not rows:
            return ids
        # One transaction even where the caller has none; inside the caller's, this is no savepoint.
        with transaction.atomic(using=get_settings().database, savepoint=False):
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                part = slice(start, start + _ROWS_AT_ONCE)
                inbox.put(rows[part], errors[part])
    return ids


def _add_rows(
    envelope: Envelope,
    rows: list[NewMessage],
    errors: list[Exception | None],
    traced: tracing.Traced,
) -> str:
    declared, payload, event = encoded(envelope.event, "event")
    event_id = (
        str(uuid4()) if envelope.event_id is None else _identifier("event_id", envelope.event_id)
    )
    routes = route(declared, event, event_id)
    if not routes:
        return event_id
    cause = current_cause()
    if envelope.correlation_id is not None:
        correlation_id = _identifier("correlation_id", envelope.correlation_id)
    else:
        correlation_id = cause.correlation_id if cause else event_id
    now = clock.now()
    trace = traced.publish(declared.name, event_id, correlation_id)
    for found in routes:
        rows.append(
            NewMessage(
                message_id=event_id,
                kind="event",
                name=declared.name,
                version=declared.version,
                payload=payload,
                process=found.process,
                key=found.key,
                partition=found.partition,
                due_at=clock.at_once(),
                correlation_id=correlation_id,
                causation_id=cause.message_id if cause else "",
                depth=cause.depth + 1 if cause else 0,
                occurred_at=_moment(envelope.occurred_at, now),
                published_at=now,
                status="dead" if found.error else "pending",
                reason=_reason(declared.name, payload, found.error),
                trace=trace,
            )
        )
        errors.append(found.error)
    return event_id


def _reason(name: str, payload: str, error: Exception | None) -> str:
    return text_of(error, redaction.hider(name, "", payload)) if error else ""


def _identifier(parameter: str, value: object) -> str:
    text = str(value) if isinstance(value, UUID) else value
    if not isinstance(text, str) or not text or len(text) > LONGEST_KEY:
        raise InvalidMessage(
            f"{parameter}={value!r:.80}: give a UUID, or a string of 1 to {LONGEST_KEY} characters."
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidMessage(f"{parameter}={value!r:.80} is no valid Unicode.") from None
    if "\x00" in text:
        raise InvalidMessage(f"{parameter}={value!r:.80} holds the character U+0000.")
    return text


def _moment(value: datetime | None, now: datetime) -> datetime:
    if value is None:
        return now
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidMessage(f"occurred_at={value!r}: give a datetime with a time zone.")
    return value.astimezone(UTC)


# -- by name: what other services send --------------------------------------------------------------


def publish_named(
    name: str,
    payload: object,
    event_id: str,
    *,
    correlation_id: str | None = None,
    occurred_at: str | None = None,
    version: int = 1,
) -> str:
    """Publish an event given by its wire name and JSON payload, as the task ``pm_celery.publish`` does.

    version: in which its sender writes the event; an older one than this release's is upcast.

    Its sender is gone, so nothing is refused: a name or a version that this release does not know waits in
    the inbox, unrouted, and a payload that does not validate becomes a dead letter. Raises
    ``InvalidMessage`` only for a name, id, version or payload that no row can hold.
    """
    event_id = _identifier("event_id", event_id)
    if not is_version(version):
        raise InvalidMessage(f"version={version!r:.80}: give a whole number from 1 to {LARGEST}.")
    name, text = _name(name), _json(name, event_id, payload)
    declared = registry.messages.get(name)
    now = clock.now()
    when, conversation = now, event_id
    try:
        if occurred_at is not None:
            when = _moment(datetime.fromisoformat(occurred_at), now)
        if correlation_id is not None:
            conversation = _identifier("correlation_id", correlation_id)
        if declared is not None:
            if declared.kind != "event":
                raise InvalidMessage(f"{name} is declared as a {declared.kind}, not as an event.")
            event = declared.decode(text, version)
            return publish(event, event_id=event_id, correlation_id=conversation, occurred_at=when)
        error = None
    except DatabaseError:
        raise
    except UnknownMessage:
        error = None
    except Exception as found:  # noqa: BLE001 -- an event's validators are user code
        error = found
    unrouted = NewMessage(
        message_id=event_id,
        kind="event",
        name=name,
        version=version,
        payload=text,
        process="",
        key="",
        partition=partition_of("", event_id),
        due_at=clock.at_once(),
        correlation_id=conversation,
        causation_id="",
        depth=0,
        occurred_at=when,
        published_at=now,
        status="dead" if error else "pending",
        reason=_reason(name, text, error) or "this release does not know the event",
    )
    with tracing.publishing() as traced, transaction.atomic(using=get_settings().database):
        unrouted.trace = traced.publish(name, event_id, conversation)
        inbox.put([unrouted], [error])
    return event_id


def _name(name: object) -> str:
    if isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and "\x00" not in name:
        with suppress(UnicodeEncodeError):
            name.encode()
            return name
    raise InvalidMessage(f"name={name!r:.80}: give an event's wire name.")


def _json(name: str, event_id: str, payload: object) -> str:
    try:
        text = json.dumps(payload, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessage(f"{name} {event_id}: the payload is no JSON: {error}") from None
    problem = unstorable(text)
    if problem:
        raise InvalidMessage(f"{name} {event_id} {problem}")
    return text


def route_stored(declared: MessageType, row: InboxMessage) -> int:
    """Put an unrouted event into the inboxes of those who hear it now, in its present version; to how many.

    Raises what decoding raises; a correlate that fails gives a dead letter of its own.
    """
    event = declared.decode(row.payload, row.version)
    payload, event = declared.encode(event)
    routes = route(declared, event, row.message_id)
    inbox.put(
        [
            NewMessage(
                message_id=row.message_id,
                kind="event",
                name=row.name,
                version=declared.version,
                payload=payload,
                process=found.process,
                key=found.key,
                partition=found.partition,
                due_at=clock.at_once(),
                correlation_id=row.correlation_id,
                causation_id=row.causation_id,
                depth=row.depth,
                occurred_at=row.occurred_at,
                published_at=row.published_at,
                status="dead" if found.error else "pending",
                reason=_reason(declared.name, payload, found.error),
                trace=row.trace,
            )
            for found in routes
        ],
        [found.error for found in routes],
    )
    return len(routes)
