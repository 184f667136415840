"""What the engine itself puts into inboxes, as values: timers, timeouts, notices of failures."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Protocol

from pm_celery.keys import partition_of
from pm_celery.rows import InboxRow, NewMessage

__all__ = ["command_failed", "failed", "timed_out", "timer_fired"]


class Owner(Protocol):
    """An instance, as far as its messages are routed by it."""

    @property
    def id(self) -> int: ...
    @property
    def process(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def correlation_id(self) -> str: ...


class Due(Protocol):
    """A timer that stands."""

    @property
    def message_id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def payload(self) -> str: ...
    @property
    def due_at(self) -> datetime: ...
    @property
    def correlation_id(self) -> str: ...
    @property
    def causation_id(self) -> str: ...


class Died(Protocol):
    """A command that is given up."""

    @property
    def command_id(self) -> object: ...
    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def payload(self) -> str: ...
    @property
    def process(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def correlation_id(self) -> str: ...
    @property
    def depth(self) -> int: ...
    @property
    def trace(self) -> str: ...


def timer_fired(timer: Due, instance: Owner, now: datetime, trace: str) -> NewMessage:
    """A timer whose moment has come: each setting of it has one id, so it is put in once."""
    return NewMessage(
        message_id=timer.message_id,
        kind="timer",
        name=timer.name,
        version=1,
        payload=timer.payload,
        process=instance.process,
        key=instance.key,
        partition=instance.partition,
        # Its own moment: in a storm of timers the newest, of which each batch takes some, are events.
        due_at=timer.due_at,
        correlation_id=timer.correlation_id,
        causation_id=timer.causation_id,
        depth=0,
        occurred_at=timer.due_at,
        published_at=now,
        trace=trace,
    )


def timed_out(
    instance: Owner, due_at: datetime, now: datetime, at_once: datetime, trace: str
) -> NewMessage:
    """An instance whose timeout has passed: its id lets it be put in once, whoever tries."""
    return NewMessage(
        message_id=f"timeout:{instance.id}",
        kind="timeout",
        name="timeout",
        version=1,
        payload="null",
        process=instance.process,
        key=instance.key,
        partition=instance.partition,
        due_at=min(due_at, at_once),
        correlation_id=instance.correlation_id,
        causation_id="",
        depth=0,
        occurred_at=due_at,
        published_at=now,
        trace=trace,
    )


def failed(
    row: InboxRow,
    *,
    letter: int,
    exception: str,
    error: str,
    attempts: int,
    now: datetime,
    at_once: datetime,
) -> NewMessage:
    """What the failure handler hears of a message that died."""
    payload = {
        "name": row.name,
        "id": row.message_id,
        "exception": exception,
        "error": error,
        "attempts": attempts,
        "payload": row.payload if row.kind == "event" else None,
        "letter": letter,
    }
    return NewMessage(
        message_id=f"failure:{letter}",
        kind="failure",
        name=row.name,
        version=row.version,
        payload=json.dumps(payload),
        process=row.process,
        key=row.key,
        partition=row.partition,
        due_at=at_once,
        correlation_id=row.correlation_id,
        causation_id=row.message_id,
        depth=row.depth,
        occurred_at=now,
        published_at=now,
        trace=row.trace,
    )


def command_failed(
    command: Died,
    *,
    letter: int,
    exception: str,
    error: str,
    attempts: int,
    issued_in: str | None,
    now: datetime,
    at_once: datetime,
) -> NewMessage:
    """What an instance hears of a command that it sent and that died.

    issued_in: the method that sent it.
    """
    payload = {
        "name": command.name,
        "id": str(command.command_id),
        "exception": exception,
        "error": error,
        "attempts": attempts,
        "payload": command.payload if command.kind == "command" else None,
        "letter": letter,
        "issued_in": issued_in,
    }
    return NewMessage(
        message_id=f"command-failed:{letter}",
        kind="command_failed",
        name=command.name,
        version=command.version,
        payload=json.dumps(payload),
        process=command.process,
        key=command.key,
        partition=partition_of(command.process, command.key),
        due_at=at_once,
        correlation_id=command.correlation_id,
        causation_id=str(command.command_id),
        depth=command.depth + 1,
        occurred_at=now,
        published_at=now,
        trace=command.trace,
    )
