"""Cases: one instance and its messages in a batch, gone through in order.

What becomes of each message (handled, skipped, parked, waiting, unmatched, held) is settled here, as
values; nothing is read from or written to a table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pm_celery import tracing
from pm_celery.conf import get_settings
from pm_celery.deciding import decide, handler_of, react
from pm_celery.decisions import Decision
from pm_celery.definitions import ProcessDefinition
from pm_celery.exceptions import UnknownMessage, UnmatchedEvent
from pm_celery.handlers import EventHandler, Wait
from pm_celery.policies import PolicyDefinition
from pm_celery.process import ProcessManager
from pm_celery.rows import NEVER, InboxMark, InboxRow, InstanceRow
from pm_celery.wording import text_of

__all__ = ["Case", "HandlerFailed", "Step", "decide_case"]

# When an event is looked at again whose start event is there, but was not handled yet.
_WAITS_ON = timedelta(minutes=1)


class HandlerFailed(Exception):
    """A handler, or what must come before it, raised; the cause is the user's exception."""

    def __init__(self, case: Case, row: InboxRow, handler: str, error: Exception) -> None:
        super().__init__(text_of(error))
        self.case = case
        self.row = row
        self.handler = handler
        self.error = error


@dataclass(frozen=True, slots=True)
class Step:
    """One message with what was decided on it."""

    row: InboxRow
    decision: Decision
    number: int
    #: What the handler took, reading and writing the state included, in seconds.
    duration: float
    #: The span of its run, for what descends from it.
    trace: str = ""


@dataclass(slots=True)
class Case:
    """One instance (or one event of a policy) in a batch: its rows, and what became of them."""

    listener: ProcessDefinition | PolicyDefinition | None
    instance: InstanceRow | None
    rows: list[InboxRow]
    #: By name, the message id with which a timer that still stands has fired or would fire.
    timers: dict[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    marks: dict[int, InboxMark] = field(default_factory=dict)
    unmatched: list[tuple[InboxRow, UnmatchedEvent]] = field(default_factory=list)
    unknown: list[InboxRow] = field(default_factory=list)
    #: What it is that this release does not know.
    unknown_because: str = ""
    spent_timers: list[str] = field(default_factory=list)
    #: As the instance's state reads, where the message before has left it.
    process: ProcessManager | None = None
    held_until: datetime | None = None
    releases_waiting: bool = False
    #: Of the instance, before the first step; "" if it was not there yet.
    status_before: str = ""
    ended_here: bool = False

    def hold(self, row: InboxRow, until: datetime, *, unknown: str = "") -> None:
        """Nothing of this case is handled before a moment, for its first message must wait.

        unknown: what of it this release does not know.
        """
        self.held_until = until
        if unknown:
            self.note_unknown(row, unknown)

    def note_unknown(self, row: InboxRow, because: str) -> None:
        self.unknown.append(row)
        self.unknown_because = because

    def mark(
        self,
        row: InboxRow,
        status: str,
        now: datetime,
        reason: str = "",
        due: datetime | None = None,
    ) -> None:
        settled = status in ("handled", "skipped", "unmatched")
        attempts = max(row.attempts, 1) if status == "handled" else row.attempts
        if status == "waiting":
            attempts = 0  # it did not run
        self.marks[row.id] = InboxMark(
            row.id, status, reason, due or row.due_at, attempts, now if settled else None
        )


def decide_case(case: Case, now: datetime, out_of_time: Callable[[], bool] = bool) -> None:
    """Go through a case's rows in order, and write into it what becomes of each.

    Ends early at a message that must wait (a backoff, an unknown type): what is behind it waits too.
    Raises ``HandlerFailed``.
    """
    if isinstance(case.listener, PolicyDefinition):
        for row in case.rows:
            _react(case, case.listener, row, now)
        return
    unknown_until = now + get_settings().unknown_message_wait
    if case.listener is None or case.instance is None:
        unknown = f"this release declares no {case.rows[0].process}"
        case.hold(case.rows[0], unknown_until, unknown=unknown)
        return
    for row in case.rows:
        if case.marks and out_of_time():
            return
        # One that was held back while its process was paused is not to hold what is behind it.
        if row.status == "pending" and now < row.due_at < NEVER:
            case.hold(row, row.due_at)
            return
        try:
            started = _step(case, case.listener, case.instance, row, now)
        except UnknownMessage as error:
            case.hold(row, unknown_until, unknown=str(error))
            return
        if started and case.listener.lets_events_wait:
            # What waited for a start is next, before the rows that we hold here; in a transaction
            # of its own, so that its failure does not undo the start.
            case.releases_waiting = True
            return


def _step(
    case: Case,
    definition: ProcessDefinition,
    instance: InstanceRow,
    row: InboxRow,
    now: datetime,
) -> bool:
    """One row of a process: settle it, or run its handler. True if it was a start event."""
    if instance.ended_at is not None:
        case.mark(row, "skipped", now, f"the instance is {instance.status}")
        return False
    if instance.status == "failed" and row.status == "waiting":
        # Its start event has failed, and may be retried: it comes after that still.
        case.mark(row, "waiting", now, "its start event failed", now + _WAITS_ON)
        return False
    if instance.status == "failed" and row.kind != "failure":
        case.mark(row, "parked", now, "behind a failure")
        return False
    if row.kind == "failure" and instance.status != "failed":
        case.mark(row, "skipped", now, "the instance was resumed before")
        return False
    # Here and not when it is loaded: what comes before needs no state.
    definition.must_know(instance.state_version)
    handler = handler_of(definition, row)
    if row.kind == "timer" and case.timers.get(row.name) != row.message_id:
        case.mark(row, "skipped", now, "the timer was moved or cancelled")
        return False
    if instance.number == 0 and not (isinstance(handler, EventHandler) and handler.start):
        _no_instance(case, definition, row, handler, now)
        return False
    with tracing.handling(row, instance_id=instance.id) as traced:
        try:
            # Given away: what a handler has begun to change is not to be seen by the next one.
            process, case.process = case.process, None
            began = time.perf_counter()
            decision = decide(definition, instance, row, handler, now, process)
        except UnknownMessage:
            raise
        except Exception as error:
            traced.fail(error, instance.state)
            method = handler.method if isinstance(handler, EventHandler) else handler
            raise HandlerFailed(case, row, method, error) from error
        traced.decide(decision.skipped, instance.number + 1)
    if row.kind == "timer":
        case.timers.pop(row.name, None)
        case.spent_timers.append(row.name)
    if decision.skipped is not None:
        case.mark(row, "skipped", now, decision.skipped)
        return False
    duration = time.perf_counter() - began
    trace = traced.trace or row.trace
    step = Step(row, decision, instance.number + 1, duration, trace)
    _apply(case, definition, instance, step, now)
    return isinstance(handler, EventHandler) and handler.start


def _no_instance(
    case: Case, definition: ProcessDefinition, row: InboxRow, handler: object, now: datetime
) -> None:
    unmatched = handler.unmatched if isinstance(handler, EventHandler) else "ignore"
    if isinstance(unmatched, Wait):
        deadline = row.published_at + unmatched.duration
        if deadline > now:
            case.mark(row, "waiting", now, "no instance yet", deadline)
        elif _start_is_behind(case, definition, row, deadline):
            case.mark(row, "waiting", now, "its start event is on its way", now + _WAITS_ON)
        else:
            case.mark(row, "unmatched", now, "no start event came in time")
    elif unmatched == "dead_letter":
        error = UnmatchedEvent(
            f"No instance of {row.process} with the key {row.key!r} waits for it."
        )
        case.unmatched.append((row, error))
        case.mark(row, "dead", now, str(error))
    else:
        case.mark(row, "unmatched", now, "no instance")


def _start_is_behind(
    case: Case, definition: ProcessDefinition, row: InboxRow, deadline: datetime
) -> bool:
    """Whether a start event came while the row still waited, though it is handled only now."""
    starts = {d.name for d, handler in definition.event_handlers.items() if handler.start}
    return any(
        other.id > row.id and other.name in starts and other.published_at <= deadline
        for other in case.rows
    )


def _apply(
    case: Case,
    definition: ProcessDefinition,
    instance: InstanceRow,
    step: Step,
    now: datetime,
) -> None:
    """Carry a decision to the case, so that the next message of the batch finds it."""
    row, decision = step.row, step.decision
    if instance.number > 0 and not case.steps:
        case.status_before = instance.status
    if instance.number == 0:
        instance.started_at = now
        instance.correlation_id = row.correlation_id
        if definition.timeout is not None:
            instance.timeout_at = now + definition.timeout
    instance.number = step.number
    instance.state = decision.state
    instance.state_version = definition.state_version
    case.process = decision.process
    instance.status = decision.status
    for name in decision.timers:
        # Cancelled, or set again: a row of it that has fired is stale either way.
        case.timers.pop(name, None)
    if decision.status not in ("started", "failed"):
        instance.ended_at = now
        instance.timeout_at = None
        case.timers.clear()
        case.ended_here = True
    case.steps.append(step)
    case.mark(row, "handled", now)


def _react(case: Case, policy: PolicyDefinition, row: InboxRow, now: datetime) -> None:
    if row.due_at > now:
        # Another worker ran it between our claim and our lock, and it failed: it waits for its retry.
        return
    began = time.perf_counter()
    with tracing.handling(row) as traced:
        try:
            decision = react(policy, row, now)
        except UnknownMessage as error:
            until = now + get_settings().unknown_message_wait
            case.mark(row, "pending", now, "unknown to this release", until)
            case.note_unknown(row, str(error))
            return
        except Exception as error:
            traced.fail(error)
            raise HandlerFailed(case, row, policy.function.__name__, error) from error
        traced.decide(decision.skipped, 0)
    if decision.skipped is not None:
        case.mark(row, "skipped", now, decision.skipped)
        return
    trace = traced.trace or row.trace
    case.steps.append(Step(row, decision, 0, time.perf_counter() - began, trace))
    case.mark(row, "handled", now)
