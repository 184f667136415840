"""A run failed: the message is tried again later, or it dies and its instance fails."""

from __future__ import annotations

from dataclasses import replace

from pm_celery import notices, outcomes
from pm_celery.deciding import retry_of
from pm_celery.rows import InboxRow, InstanceRow
from pm_celery.testing.memory.incoming import put
from pm_celery.testing.memory.instance import Memory, steady
from pm_celery.testing.memory.letters import hider, open_letter
from pm_celery.wording import described, reason_of, summary

__all__ = ["note_failure", "record_status"]


def note_failure(
    memory: Memory, row: InboxRow, handler: str, error: Exception, attempts: int
) -> None:
    """Set the message back until its next attempt, or let it die."""
    wait = None
    if not memory.plan.is_for_good(error):
        wait = steady(retry_of(memory.definition, row)).wait_after(attempts, error)
    if wait is None:
        _die(memory, row, handler, error, attempts)
        return
    later = replace(row, attempts=attempts, due_at=memory.now + wait, status="pending")
    memory.write(later, reason_of(error, hider(memory, row)))


def _die(memory: Memory, row: InboxRow, handler: str, error: Exception, attempts: int) -> None:
    reason = reason_of(error, hider(memory, row))
    memory.write(replace(row, status="dead", attempts=attempts), reason)
    if row.kind == "failure":
        _note_on_letter(memory, row, error)
        return
    if memory.instance is None:
        memory.instance = _failed_at_once(memory, row)
    letter = open_letter(memory, "handler", row, error, attempts=attempts, handler=handler)
    record_status(memory, "failed", "failed", row.name, cause=row)
    if memory.definition.failure_handler:
        notice = notices.failed(
            row,
            letter=letter.number,
            exception=letter.exception,
            error=letter.error,
            attempts=attempts,
            now=memory.now,
            at_once=memory.at_once,
        )
        put(memory, notice)


def _failed_at_once(memory: Memory, row: InboxRow) -> InstanceRow:
    """The instance of which the very first message has failed."""
    definition = memory.definition
    instance = memory.placeholder()
    instance.status, instance.correlation_id = "failed", row.correlation_id
    instance.state = definition.dump(definition.initial())[0]
    instance.state_version = definition.state_version
    if definition.timeout:
        instance.timeout_at = memory.now + definition.timeout
    return instance


def _note_on_letter(memory: Memory, row: InboxRow, error: Exception) -> None:
    """The failure handler failed too: that is written on the letter, and goes no further."""
    found = described(error, hider(memory, row))
    words = found["traceback"] or summary(found["exception"], found["error"])
    for index, letter in enumerate(memory.letters):
        if row.message_id == f"failure:{letter.number}":
            memory.letters[index] = replace(letter, failure_handler_error=words)


def record_status(
    memory: Memory,
    status: str,
    kind: str,
    name: str,
    *,
    ended: bool = False,
    cause: InboxRow | None = None,
) -> None:
    """Change the instance's status by something else than a handler: a transition of its own."""
    instance = memory.instance
    assert instance is not None
    instance.number += 1
    instance.status = status
    if ended:
        instance.ended_at, instance.timeout_at = memory.now, None
    memory.transitions.append(outcomes.status_row(instance, kind, name, cause))
    memory.moments.append(memory.now)
