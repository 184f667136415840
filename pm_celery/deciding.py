"""Decide: what one handler makes of one message. Reads no table and writes none.

A handler may use the ORM; what it writes is part of the engine's transaction, and rolled back with it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pm_celery import registry
from pm_celery.conf import get_settings
from pm_celery.decisions import Decision, Failure, Ignored, Message, Turn, caused_by
from pm_celery.definitions import ProcessDefinition
from pm_celery.exceptions import ChainTooDeep, Misuse, UndecodablePayload, UnknownMessage
from pm_celery.handlers import EventHandler
from pm_celery.messages import MessageType
from pm_celery.policies import PolicyDefinition, Reaction
from pm_celery.process import ProcessManager
from pm_celery.retries import Retry
from pm_celery.rows import InboxRow, InstanceRow, NewMessage

__all__ = ["decide", "given", "handler_of", "react", "retry_of", "timer_adapter"]


def given(
    listener: ProcessDefinition | PolicyDefinition, row: InboxRow | NewMessage
) -> tuple[Any, ...]:
    """What the handler of a row would be called with. Raises ``UnknownMessage``, ``UndecodablePayload``, or
    whatever a validator raises."""
    if isinstance(listener, PolicyDefinition):
        return (_event_of(listener, row),)
    handler = handler_of(listener, row)
    method = handler.method if isinstance(handler, EventHandler) else handler
    return _arguments(listener, row, handler, method)


def handler_of(definition: ProcessDefinition, row: InboxRow | NewMessage) -> EventHandler | str:
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
        if command is not None and row.version > command.version:
            raise UnknownMessage(f"{definition.name} does not know {row.name} v{row.version}")
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


def decide(
    definition: ProcessDefinition,
    instance: InstanceRow,
    row: InboxRow,
    handler: EventHandler | str,
    now: datetime,
    process: ProcessManager | None = None,
) -> Decision:
    """Run the handler of one message on an instance; what it decided. Raises what it raises.

    process: as the instance's state reads, if the caller has it; the handler changes it.
    """
    method = handler.method if isinstance(handler, EventHandler) else handler
    if row.kind == "command_failed":
        if not method:
            return Decision(method, skipped="no handler for failed commands")
        if method == definition.failure_handler == json.loads(row.payload).get("issued_in"):
            # What the failure handler tried has failed too: telling it again would go on for ever.
            return Decision(method, skipped="a command of the failure handler itself")
    _guard_depth(row)
    if process is None:
        if instance.number == 0:
            process = definition.initial()
        else:
            process = definition.load(instance.state, instance.state_version)
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
    state, after = definition.dump(process)
    return Decision(
        handler=method,
        state=state,
        status=status,
        commands=tuple(turn.commands),
        timers=turn.timers,
        cancelled_commands=tuple(turn.cancelled_commands),
        process=after,
    )


def react(policy: PolicyDefinition, row: InboxRow, now: datetime) -> Decision:
    """What a policy decides on one event. Raises ``UnknownMessage``, or what it raises."""
    event = _event_of(policy, row)
    _guard_depth(row)
    turn = Turn("", now, message_of(row))
    with caused_by(turn.message):
        skipped = _reason(policy.function(event, Reaction(turn)), policy.where)
    commands = () if skipped is not None else tuple(turn.commands)
    return Decision(policy.function.__name__, skipped=skipped, commands=commands)


def _event_of(policy: PolicyDefinition, row: InboxRow | NewMessage) -> Any:
    declared = registry.messages.get(row.name)
    if declared is None or row.version > declared.version or declared is not policy.event:
        raise UnknownMessage(f"{policy.name} does not know {row.name} v{row.version}")
    return declared.decode(row.payload, row.version)


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
    definition: ProcessDefinition,
    row: InboxRow | NewMessage,
    handler: EventHandler | str,
    method: str,
) -> tuple[Any, ...]:
    if isinstance(handler, EventHandler):
        return (handler.event.decode(row.payload, row.version),)
    if row.kind == "timer":
        adapter = timer_adapter(getattr(definition.cls, method))
        if adapter is None:
            return ()
        try:
            return (adapter.validate_json(row.payload),)
        except ValidationError as error:
            raise UndecodablePayload(f"The payload of the timer {row.name!r}: {error}") from error
    if row.kind in ("command_failed", "failure"):
        return (_failure(json.loads(row.payload), row.version),)
    return ()


@lru_cache(maxsize=1024)
def timer_adapter(method: Any) -> TypeAdapter[Any] | None:
    """How a timer's payload becomes the method's parameter; None if it takes none."""
    parameters = list(inspect.signature(method, eval_str=True).parameters.values())[1:]
    if not parameters:
        return None
    annotation = parameters[0].annotation
    return TypeAdapter(Any if annotation is inspect.Parameter.empty else annotation)


def _failure(stored: Mapping[str, Any], version: int) -> Failure:
    """version: of the payload of what failed, which its notice bears."""
    declared: MessageType | None = registry.messages.get(stored["name"])
    message = None
    if declared is not None and stored["payload"] is not None:
        try:
            message = declared.decode(stored["payload"], version)
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
