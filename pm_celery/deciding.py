"""Decide: what each message of one instance means, in order. Reads no table and writes none.

A handler may use the ORM; what it writes is part of the engine's transaction, and rolled back with it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pm_celery import registry
from pm_celery.conf import get_settings
from pm_celery.decisions import Decision, Failure, Ignored, Message, Turn, caused_by
from pm_celery.definitions import ProcessDefinition
from pm_celery.exceptions import (
    ChainTooDeep,
    Misuse,
    UndecodablePayload,
    UnknownMessage,
    UnmatchedEvent,
)
from pm_celery.handlers import EventHandler, Wait
from pm_celery.messages import MessageType
from pm_celery.policies import PolicyDefinition, Reaction
from pm_celery.retries import Retry
from pm_celery.rows import InboxMark, InboxRow, InstanceRow

__all__ = ["Case", "HandlerFailed", "Step", "decide_case", "retry_of"]

# When an event is looked at again whose start event is there, but was not handled yet.
_WAITS_ON = timedelta(minutes=1)


class HandlerFailed(Exception):
    """A handler, or what must come before it, raised; the cause is the user's exception."""

    def __init__(self, case: Case, row: InboxRow, handler: str, error: Exception) -> None:
        super().__init__(str(error))
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


@dataclass(slots=True)
class Case:
    """One instance (or one event of a policy) in a batch: its rows, and what became of them."""

    listener: ProcessDefinition | PolicyDefinition | None
    instance: InstanceRow | None
    rows: list[InboxRow]
    timers: dict[str, datetime] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    marks: dict[int, InboxMark] = field(default_factory=dict)
    unmatched: list[tuple[InboxRow, UnmatchedEvent]] = field(default_factory=list)
    unknown: list[InboxRow] = field(default_factory=list)
    spent_timers: list[str] = field(default_factory=list)
    held_until: datetime | None = None
    releases_waiting: bool = False
    ended_here: bool = False

    def hold(self, row: InboxRow, until: datetime, *, unknown: bool = False) -> None:
        """Nothing of this case is handled before a moment, for its first message must wait."""
        self.held_until = until
        if unknown:
            self.unknown.append(row)

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
        self.marks[row.id] = InboxMark(
            row.id, status, reason, due or row.due_at, attempts, now if settled else None
        )


# -- one case, message by message -------------------------------------------------------------------


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
        case.hold(case.rows[0], unknown_until, unknown=True)
        return
    for row in case.rows:
        if case.marks and out_of_time():
            return
        if row.status == "pending" and row.due_at > now:
            case.hold(row, row.due_at)
            return
        try:
            started = _step(case, case.listener, case.instance, row, now)
        except UnknownMessage:
            case.hold(row, unknown_until, unknown=True)
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
    handler = definition_handler(definition, row)
    if row.kind == "timer" and case.timers.get(row.name) != row.occurred_at:
        case.mark(row, "skipped", now, "the timer was moved or cancelled")
        return False
    if instance.number == 0 and not (isinstance(handler, EventHandler) and handler.start):
        _no_instance(case, definition, row, handler, now)
        return False
    method = handler.method if isinstance(handler, EventHandler) else handler
    try:
        decision = _decide(definition, instance, row, handler, method, now)
    except UnknownMessage:
        raise
    except Exception as error:
        raise HandlerFailed(case, row, method, error) from error
    if row.kind == "timer":
        case.timers.pop(row.name, None)
        case.spent_timers.append(row.name)
    if decision.skipped is not None:
        case.mark(row, "skipped", now, decision.skipped)
        return False
    _apply(case, definition, instance, row, decision, now)
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
    row: InboxRow,
    decision: Decision,
    now: datetime,
) -> None:
    """Carry the decision to the case, so that the next message of the batch finds it."""
    if instance.number == 0:
        instance.started_at = now
        instance.correlation_id = row.correlation_id
        if definition.timeout is not None:
            instance.timeout_at = now + definition.timeout
    instance.number += 1
    instance.state = decision.state
    instance.status = decision.status
    for name, timer in decision.timers.items():
        if timer is None:
            case.timers.pop(name, None)
        else:
            case.timers[name] = timer.due_at
    if decision.status not in ("started", "failed"):
        instance.ended_at = now
        instance.timeout_at = None
        case.timers.clear()
        case.ended_here = True
    case.steps.append(Step(row, decision, instance.number))
    case.mark(row, "handled", now)


# -- one message ------------------------------------------------------------------------------------


def definition_handler(definition: ProcessDefinition, row: InboxRow) -> EventHandler | str:
    """The handler of a row: an event's, or the name of a method ("" for none).

    Raises ``UnknownMessage`` where this release has none but another one may.
    """
    if row.kind == "event":
        declared = registry.messages.get(row.name)
        handler = definition.event_handlers.get(declared) if declared else None
        if declared is None or handler is None or row.version > declared.version:
            raise UnknownMessage(f"{definition.name} does not know {row.name} v{row.version}")
        return handler
    if row.kind == "timer":
        method = definition.timer_handlers.get(row.name)
        if method is None:
            raise UnknownMessage(f"{definition.name} does not know the timer {row.name}")
        return method
    if row.kind == "timeout":
        return definition.timeout_handler or ""
    if row.kind == "command_failed":
        command = registry.messages.get(row.name)
        found = definition.command_failed_handlers.get(command) if command else None
        return found or definition.failure_handler or ""
    return definition.failure_handler or ""


def retry_of(listener: ProcessDefinition | PolicyDefinition, row: InboxRow) -> Retry:
    """How a row is retried."""
    if isinstance(listener, PolicyDefinition):
        return listener.retry
    if row.kind == "failure":
        return Retry("none")
    if row.kind == "event":
        declared = registry.messages.get(row.name)
        handler = listener.event_handlers.get(declared) if declared else None
        return handler.retry if handler else listener.retry
    return listener.retry


def _decide(
    definition: ProcessDefinition,
    instance: InstanceRow,
    row: InboxRow,
    handler: EventHandler | str,
    method: str,
    now: datetime,
) -> Decision:
    if row.kind == "command_failed":
        if not method:
            return Decision(method, skipped="no handler for failed commands")
        if method == definition.failure_handler == json.loads(row.payload).get("issued_in"):
            # What the failure handler tried has failed too: telling it again would go on for ever.
            return Decision(method, skipped="a command of the failure handler itself")
    _guard_depth(row)
    process = definition.initial() if instance.number == 0 else definition.load(instance.state)
    arguments = _arguments(definition, row, handler, method)
    turn = Turn(instance.key, now, message_of(row))
    process._turn = turn  # type: ignore[misc]
    if isinstance(handler, EventHandler) and handler.state_field:
        value = getattr(arguments[0], handler.event_field)
        setattr(process, handler.state_field, value)
    skipped = None
    if method:
        with caused_by(turn.message):
            skipped = _reason(getattr(process, method)(*arguments), f"{definition.where}.{method}")
    if skipped is not None:
        return Decision(method, skipped=skipped)
    ends = turn.completed or (isinstance(handler, EventHandler) and handler.end)
    status = "timed_out" if row.kind == "timeout" else "completed" if ends else instance.status
    return Decision(
        handler=method,
        state=definition.dump(process),
        status=status,
        commands=tuple(turn.commands),
        timers=turn.timers,
        cancelled_commands=tuple(turn.cancelled_commands),
    )


def _react(case: Case, policy: PolicyDefinition, row: InboxRow, now: datetime) -> None:
    declared = registry.messages.get(row.name)
    if declared is None or row.version > declared.version or declared is not policy.event:
        case.mark(
            row,
            "pending",
            now,
            "unknown to this release",
            now + get_settings().unknown_message_wait,
        )
        case.unknown.append(row)
        return
    turn = Turn("", now, message_of(row))
    try:
        _guard_depth(row)
        event = declared.decode(row.payload)
        with caused_by(turn.message):
            skipped = _reason(policy.function(event, Reaction(turn)), policy.where)
    except Exception as error:
        raise HandlerFailed(case, row, policy.function.__name__, error) from error
    if skipped is not None:
        case.mark(row, "skipped", now, skipped)
        return
    decision = Decision(policy.function.__name__, commands=tuple(turn.commands))
    case.steps.append(Step(row, decision, 0))
    case.mark(row, "handled", now)


def _reason(returned: object, where: str) -> str | None:
    if returned is None:
        return None
    if isinstance(returned, Ignored):
        return returned.reason
    raise Misuse(
        f"{where}() returned {returned!r:.80}: handlers return nothing, or self.ignore(reason)."
    )


def _guard_depth(row: InboxRow) -> None:
    limit = get_settings().max_chain_depth
    if row.depth > limit:
        raise ChainTooDeep(
            f"{row.name} is number {row.depth} in a chain of messages that cause one another, more than "
            f"PM_CELERY['MAX_CHAIN_DEPTH'] = {limit}: is it a loop?"
        )


def message_of(row: InboxRow) -> Message:
    """The envelope that the handler sees."""
    return Message(
        id=row.message_id,
        kind=row.kind,  # type: ignore[arg-type]
        name=row.name,
        correlation_id=row.correlation_id,
        causation_id=row.causation_id,
        depth=row.depth,
        attempt=max(row.attempts, 1),
        occurred_at=row.occurred_at,
        published_at=row.published_at,
    )


def _arguments(
    definition: ProcessDefinition, row: InboxRow, handler: EventHandler | str, method: str
) -> tuple[Any, ...]:
    if isinstance(handler, EventHandler):
        return (handler.event.decode(row.payload),)
    if row.kind == "timer":
        adapter = _payload_adapter(getattr(definition.cls, method))
        if adapter is None:
            return ()
        try:
            return (adapter.validate_json(row.payload),)
        except ValidationError as error:
            raise UndecodablePayload(f"The payload of the timer {row.name!r}: {error}") from error
    if row.kind in ("command_failed", "failure"):
        return (_failure(json.loads(row.payload)),)
    return ()


@lru_cache(maxsize=1024)
def _payload_adapter(method: Any) -> TypeAdapter[Any] | None:
    """How a timer's payload becomes the method's parameter; None if it takes none."""
    parameters = list(inspect.signature(method, eval_str=True).parameters.values())[1:]
    if not parameters:
        return None
    annotation = parameters[0].annotation
    return TypeAdapter(Any if annotation is inspect.Parameter.empty else annotation)


def _failure(stored: Mapping[str, Any]) -> Failure:
    declared: MessageType | None = registry.messages.get(stored["name"])
    message = None
    if declared is not None and stored["payload"] is not None:
        try:
            message = declared.decode(stored["payload"])
        except UndecodablePayload:
            message = None
    return Failure(
        message=message,
        name=stored["name"],
        id=stored["id"],
        exception=stored["exception"],
        error=stored["error"],
        attempts=stored["attempts"],
    )
