"""Rows as plain values: what the hot path reads and writes, without the cost of a model instance.

Not frozen, for the same reason: that doubles the time it takes to make one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

__all__ = [
    "NEVER",
    "SUSPECT",
    "Claim",
    "Claimed",
    "CommandRow",
    "InboxMark",
    "InboxRow",
    "InstanceRow",
    "NewMessage",
    "TransitionRow",
]


# When a message is due whose process is paused.
NEVER = datetime(9000, 1, 1, tzinfo=UTC)
# Why an open message is to be run alone, although no run of it was counted.
SUSPECT = "a worker died that had it in a batch"


@dataclass(slots=True)
class NewMessage:
    """A row to insert into the inbox."""

    message_id: str
    kind: str
    name: str
    version: int
    payload: str
    process: str
    key: str
    partition: int
    due_at: datetime
    correlation_id: str
    causation_id: str
    depth: int
    occurred_at: datetime
    published_at: datetime
    status: str = "pending"
    reason: str = ""
    trace: str = ""


@dataclass(slots=True)
class Claimed:
    """A due message, seen but not locked yet; tried, if it failed before, or is suspect of having killed
    its worker."""

    id: int
    process: str
    key: str
    tried: bool


@dataclass(slots=True)
class Claim:
    """What a batch is to look at; the mark that it begins, None if all of it was tried before; whether
    there is a backlog, of which this is but the beginning; marks that were left over; whether a worker
    is at it, so that nothing was claimed; the partitions of other lanes that were looked at as well; and
    whether any process is paused."""

    rows: list[Claimed] = field(default_factory=list)
    mark: int | None = None
    is_full: bool = False
    left_over: list[int] = field(default_factory=list)
    is_attended: bool = False
    beside: list[int] = field(default_factory=list)
    is_any_paused: bool = False


@dataclass(slots=True)
class InboxRow:
    """An open message, read under its instance's lock."""

    id: int
    message_id: str
    kind: str
    name: str
    version: int
    payload: str
    process: str
    key: str
    partition: int
    status: str
    due_at: datetime
    attempts: int
    correlation_id: str
    causation_id: str
    depth: int
    occurred_at: datetime
    published_at: datetime
    trace: str = ""


@dataclass(slots=True)
class InboxMark:
    """What became of a message."""

    id: int
    status: str
    reason: str
    due_at: datetime
    attempts: int
    handled_at: datetime | None


@dataclass(slots=True)
class InstanceRow:
    """An instance under our lock. ``number`` 0: a placeholder that no other transaction has seen."""

    id: int
    process: str
    key: str
    partition: int
    status: str
    state: str
    number: int
    correlation_id: str
    started_at: datetime
    ended_at: datetime | None
    timeout_at: datetime | None
    state_version: int = 1


@dataclass(slots=True)
class TransitionRow:
    instance_id: int
    number: int
    kind: str
    name: str
    message_id: str
    inbox_id: int | None
    handler: str
    state: str
    status: str
    commands: str
    timers: str
    correlation_id: str
    causation_id: str
    attempt: int
    duration: float | None
    state_version: int = 1


@dataclass(slots=True)
class CommandRow:
    """A command to insert. ``status`` is dispatched for one that its own batch will dispatch."""

    command_id: str
    kind: str
    name: str
    version: int
    payload: str
    options: str
    process: str
    key: str
    instance_id: int | None
    status: str
    due_at: datetime
    expires_at: datetime | None
    dispatches: int
    correlation_id: str
    causation_id: str
    depth: int
    issued_at: datetime
    settled_at: datetime | None = None
    reason: str = ""
    trace: str = ""
