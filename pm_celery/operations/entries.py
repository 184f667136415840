"""What a timeline is made of, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from pm_celery.operations.states import Change

__all__ = [
    "Act",
    "Command",
    "Entry",
    "FailedRun",
    "Letter",
    "Message",
    "StandingTimer",
    "Step",
    "Timeline",
    "TimerWish",
]

# Transitions on a page, and at most so many rows of each other table.
MOST_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Command:
    """A command that a transition issued, as it stands now.

    pk: of its row; None where that has been pruned, and nothing but its id and name is known.
    payload: None where it is too long to be shown here, or the row is gone.
    """

    id: str
    name: str
    pk: int | None = None
    status: str = ""
    status_name: str = ""
    reason: str = ""
    attempts: int = 0
    dispatches: int = 0
    duration: float | None = None
    due_at: datetime | None = None
    issued_at: datetime | None = None
    settled_at: datetime | None = None
    payload: str | None = None

    @property
    def is_under_way(self) -> bool:
        return self.status in ("pending", "dispatched")


@dataclass(frozen=True, slots=True)
class TimerWish:
    """What a transition wanted of a timer: a moment, or None for cancelled."""

    name: str
    due_at: datetime | None


@dataclass(frozen=True, slots=True)
class Step:
    """A transition.

    attempt: which run it was. duration: of the handler, in seconds.
    caused_by: the number of the transition that issued the command, or handled the message, that caused
    this one; None where that is not among what was read.
    changes: what is different from the state before, at most 50; total_changes: how many; None where the
    states are too long to be compared here.
    """

    sort: ClassVar[str] = "step"
    pk: int
    at: datetime
    number: int
    kind: str
    kind_name: str
    name: str
    handler: str
    status: str
    status_name: str
    attempt: int
    duration: float | None
    message_id: str
    inbox_id: int | None
    payload: str | None
    correlation_id: str
    causation_id: str
    caused_by: int | None
    changes: list[Change]
    total_changes: int | None
    commands: list[Command]
    timers: list[TimerWish]

    @property
    def further_changes(self) -> int:
        return (self.total_changes or 0) - len(self.changes)


@dataclass(frozen=True, slots=True)
class Act:
    """What an operator did, and why."""

    sort: ClassVar[str] = "act"
    at: datetime
    verb: str
    verb_name: str
    subject: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class FailedRun:
    """A run of a message or command that raised. number: which one, from 1."""

    sort: ClassVar[str] = "failed_run"
    at: datetime
    number: int
    name: str
    of_command: bool
    handler: str
    exception: str
    error: str


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, at the moment of its death, and what became of it since."""

    sort: ClassVar[str] = "letter"
    at: datetime
    pk: int
    name: str
    place_name: str
    handler: str
    exception: str
    error: str
    attempts: int
    status: str
    status_name: str
    settled_at: datetime | None
    settled_by: str
    note: str


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the instance that no transition tells of: pending, waiting, parked or skipped.

    due_at: when it is looked at next; of a failed one the end of its backoff.
    """

    pk: int
    at: datetime
    kind_name: str
    name: str
    status: str
    status_name: str
    due_at: datetime
    attempts: int
    reason: str
    payload: str | None


@dataclass(frozen=True, slots=True)
class StandingTimer:
    """A timer that has not been handled yet. fired_at: when it entered the inbox, if it did."""

    pk: int
    name: str
    due_at: datetime
    fired_at: datetime | None
    payload: str


Entry = Step | Act | FailedRun | Letter


@dataclass(slots=True)
class Timeline:
    """A page of an instance's timeline, oldest first.

    first, last: the numbers of its transitions; 0 where there are none. total: of all transitions.
    """

    first: int
    last: int
    total: int
    entries: list[Entry] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    timers: list[StandingTimer] = field(default_factory=list)

    @property
    def steps(self) -> list[Step]:
        return [entry for entry in self.entries if isinstance(entry, Step)]

    @property
    def under_way(self) -> list[Command]:
        """Commands of these transitions that have not run yet."""
        return [command for step in self.steps for command in step.commands if command.is_under_way]

    @property
    def earlier(self) -> int | None:
        """The last number of the page before this one."""
        return self.first - 1 if self.first > 1 else None

    @property
    def later(self) -> int | None:
        """The last number of the page after this one."""
        return min(self.last + MOST_SHOWN, self.total) if self.last < self.total else None
