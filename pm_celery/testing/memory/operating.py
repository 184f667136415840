"""What operators do: settle dead letters, end an instance."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pm_celery.exceptions import Refused
from pm_celery.rows import InboxRow
from pm_celery.testing.memory import commands
from pm_celery.testing.memory.failing import record_status
from pm_celery.testing.memory.instance import Memory
from pm_celery.testing.memory.rows import Letter

__all__ = ["discard", "end", "retry"]


def retry(memory: Memory, letter: Letter) -> None:
    """Run a letter's message or command again. Raises ``Refused``."""
    if letter.place == "publish":
        raise Refused("its id was used before and the first event stands: publish it with a new id")
    if letter.place in ("command", "signature"):
        sent = memory.outbox[letter.message_id]
        again = replace(
            sent.row,
            status="pending",
            due_at=memory.now,
            dispatches=1,
            expires_at=None,
            reason="",
        )
        memory.write_command(replace(sent, row=again, attempts=0))
    elif letter.place == "correlate":
        raise Refused("the correlate of an event that was stored is not asked again here")
    else:
        _retry_message(memory, letter)
    _settle(memory, letter, "retried")


def _retry_message(memory: Memory, letter: Letter) -> None:
    instance = memory.instance
    if instance is not None and instance.ended_at is not None:
        raise Refused(f"the instance is {instance.status}")
    row = _row_of(memory, letter)
    memory.write(replace(row, status="pending", due_at=memory.now, attempts=0), "")
    if instance is not None and instance.status == "failed" and letter.place == "handler":
        _resume(memory, "parked")


def discard(memory: Memory, letter: Letter, *, resume: bool = True) -> None:
    """Give a letter's message or command up; without ``resume``, its instance stays failed for good."""
    instance = memory.instance
    if letter.place in ("command", "signature"):
        sent = memory.outbox[letter.message_id]
        given_up = replace(sent.row, status="discarded", settled_at=memory.now)
        memory.write_command(replace(sent, row=given_up))
    elif letter.place != "publish":
        row = _row_of(memory, letter)
        memory.write(replace(row, status="discarded"))
        if letter.place == "handler" and instance is not None:
            timer = memory.timers.get(row.name) if row.kind == "timer" else None
            if timer is not None and timer.is_fired:
                del memory.timers[row.name]
            if instance.status == "failed" and instance.ended_at is None:
                if resume:
                    # No start event will come for what waited for this one.
                    _resume(memory, "parked", "waiting")
                else:
                    record_status(memory, "failed", "given_up", "", ended=True)
                    memory.timers.clear()
                    memory.skip_parked()
    _settle(memory, letter, "discarded")


def end(memory: Memory, status: str) -> None:
    """End the instance, as an operator does. Raises ``Refused``."""
    instance = memory.instance
    if instance is None:
        raise Refused("there is no such instance")
    if instance.ended_at is not None:
        raise Refused(f"already {instance.status}")
    record_status(memory, status, status, "", ended=True)
    memory.timers.clear()
    commands.cancel(
        memory, {s.row.name for s in memory.outbox.values()}, f"the instance was {status}"
    )
    for letter in memory.letters:
        if letter.place == "handler" and letter.status == "open":
            memory.write(replace(_row_of(memory, letter), status="discarded"))
            _settle(memory, letter, "discarded")
    memory.skip_parked()


def _resume(memory: Memory, *statuses: str) -> None:
    record_status(memory, "started", "resumed", "")
    # No failure handler is to be called still, as it may be in the engine: here nothing is left undone.
    memory.write_each(statuses, "pending", "")


def _row_of(memory: Memory, letter: Letter) -> InboxRow:
    row = memory.inbox[memory.ids[letter.message_id]].row
    if row.status != "dead":
        raise Refused("the message is no longer dead")
    return row


def _settle(memory: Memory, letter: Letter, status: Literal["retried", "discarded"]) -> None:
    index = memory.letters.index(letter)
    memory.letters[index] = replace(letter, status=status)
