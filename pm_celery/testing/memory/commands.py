"""The outbox: commands are dispatched, and run where the test says what they do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

from pm_celery import notices, registry
from pm_celery.decisions import Cause, Message, caused_by
from pm_celery.exceptions import CommandExpired, Misuse
from pm_celery.messages import MessageType
from pm_celery.retries import DEFAULT_RETRY
from pm_celery.testing.memory.incoming import publish, put
from pm_celery.testing.memory.instance import Memory, steady
from pm_celery.testing.memory.letters import note_error, open_letter
from pm_celery.testing.memory.rows import SentCommand
from pm_celery.wording import reason_of, summary

__all__ = ["cancel", "die", "dispatch_due", "run_dispatched"]


def cancel(memory: Memory, wanted: Iterable[str], reason: str) -> None:
    """Cancel commands by id or name, unless they were dispatched."""
    wanted = set(wanted)
    for sent in list(memory.outbox.values()) if wanted else ():
        row = sent.row
        is_meant = row.name in wanted or row.command_id in wanted
        if is_meant and row.status == "pending" and row.dispatches == 0:
            cancelled = replace(row, status="cancelled", settled_at=memory.now, reason=reason)
            memory.write_command(replace(sent, row=cancelled))


def dispatch_due(memory: Memory) -> None:
    """Dispatch what is delayed, or backed off, no longer."""
    due = [
        sent
        for sent in memory.outbox.values()
        if sent.row.status == "pending" and sent.row.due_at <= memory.now
    ]
    for sent in sorted(due, key=lambda sent: sent.row.due_at):
        row = sent.row
        if row.expires_at is not None and row.expires_at <= memory.now:
            die(memory, sent, CommandExpired("Its time was over before it was dispatched."))
        else:
            dispatched = replace(row, status="dispatched", dispatches=row.dispatches + 1)
            memory.write_command(replace(sent, row=dispatched))


def run_dispatched(memory: Memory) -> bool:
    """Run the dispatched commands for which there is a handler, or of which a failure is planned."""
    ran = False
    for command_id in list(memory.outbox):
        sent = memory.outbox[command_id]
        name = sent.row.name
        if sent.row.status == "dispatched" and (name in memory.handlers or name in memory.plan):
            ran = True
            _run(memory, sent)
    return ran


def _run(memory: Memory, sent: SentCommand) -> None:
    row, attempt = sent.row, sent.attempts + 1
    try:
        if row.expires_at is not None and row.expires_at <= memory.now:
            raise CommandExpired("Its time was over before it ran.")
        memory.plan.run(row.name)
        events = _outcome(memory, sent, attempt)
    except CommandExpired as error:
        _note_failure(memory, replace(sent, attempts=attempt), error)
        return
    except Exception as error:  # noqa: BLE001 -- a command handler is user code
        note_error(memory, error, f"the handler of {row.name} was running")
        _note_failure(memory, replace(sent, attempts=attempt), error)
        return
    done = replace(row, status="done", settled_at=memory.now, reason="")
    memory.write_command(SentCommand(done, attempt))
    cause = Cause(row.correlation_id, row.command_id, row.depth)
    for event in events:
        memory.published.append(event)
        publish(memory, event, cause=cause)


def _outcome(memory: Memory, sent: SentCommand, attempt: int) -> list[object]:
    """The events that a command handler wants published: it returns one, several, or None."""
    row = sent.row
    handler = memory.handlers.get(row.name)
    declared = registry.messages.get(row.name)
    if handler is None or declared is None:
        return []
    message = Message(
        id=row.command_id,
        kind="command",
        name=row.name,
        correlation_id=row.correlation_id,
        causation_id=row.causation_id,
        depth=row.depth,
        attempt=attempt,
        occurred_at=row.issued_at,
        published_at=row.issued_at,
    )
    with caused_by(message):
        returned = handler(declared.decode(row.payload))
    if returned is None:
        return []
    if isinstance(getattr(type(returned), "__pm_message__", None), MessageType):
        return [returned]
    if isinstance(returned, Iterable) and not isinstance(returned, str | bytes):
        return list(returned)
    raise Misuse(
        f"The handler of {row.name} returned {returned!r:.80}: give the events to publish, or None."
    )


def _note_failure(memory: Memory, sent: SentCommand, error: Exception) -> None:
    wait: timedelta | None = None
    if not memory.plan.is_for_good(error):
        handler = registry.command_handlers.get(sent.row.name)
        wait = steady(handler.retry if handler else DEFAULT_RETRY).wait_after(sent.attempts, error)
    if wait is None:
        die(memory, sent, error)
        return
    later = replace(sent.row, status="pending", due_at=memory.now + wait, reason=reason_of(error))
    memory.write_command(replace(sent, row=later))


def die(memory: Memory, sent: SentCommand, error: Exception) -> None:
    """A command is given up: a dead letter, and a notice to the instance that sent it."""
    row = sent.row
    handler = registry.command_handlers.get(row.name) if row.kind == "command" else None
    letter = open_letter(
        memory,
        "command" if row.kind == "command" else "signature",
        row,
        error,
        attempts=sent.attempts,
        handler=handler.function.__name__ if handler else "",
    )
    dead = replace(row, status="dead", reason=summary(letter.exception, letter.error))
    memory.write_command(replace(sent, row=dead))
    issued_in = [t.handler for t in memory.transitions if t.message_id == row.causation_id]
    notice = notices.command_failed(
        row,
        letter=letter.number,
        exception=letter.exception,
        error=letter.error,
        attempts=sent.attempts,
        issued_in=issued_in[-1] if issued_in else None,
        now=memory.now,
        at_once=memory.at_once,
    )
    put(memory, notice)
