"""What happened to an instance, told line by line: for an assertion that failed, and for ``print``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pm_celery.testing.memory.instance import Memory
from pm_celery.testing.memory.views import Transition, command_of, message_of, noted, transitions_of

__all__ = ["story"]


def story(memory: Memory) -> str:
    """The transitions, and what became of everything else."""
    return "\n".join(_lines(memory))


def _lines(memory: Memory) -> Iterator[str]:
    instance = memory.instance
    name = memory.definition.cls.__name__
    if instance is None:
        yield f"{name}: no instance yet, {memory.now:%Y-%m-%d %H:%M:%S}"
    else:
        yield f"{name} {instance.key}: {instance.status}, {memory.now:%Y-%m-%d %H:%M:%S}"
    for step in transitions_of(memory):
        yield f"  #{step.number} {_moment(memory, step.at)}  {_told(step)}"
    if instance is not None:
        yield f"  state: {memory.process()!r}"
    for found in memory.inbox.values():
        status = found.row.status
        if status not in ("handled", "skipped"):
            reason = f": {found.reason}" if found.reason else ""
            yield f"  {status}: {message_of(found.row)!r}{reason}"
    for message, reason in noted(memory, ("skipped",)):
        yield f"  skipped: {message!r}: {reason}"
    for event, reason in memory.elsewhere:
        yield f"  elsewhere: {event!r}: {reason}"
    for sent in memory.outbox.values():
        if sent.row.status != "dispatched":
            reason = f": {sent.row.reason}" if sent.row.reason else ""
            yield f"  {sent.row.status}: {command_of(sent.row)!r}{reason}"
    for timer in memory.timers.values():
        yield f"  timer {timer.name!r}: due {timer.due_at:%Y-%m-%d %H:%M:%S}"
    if instance is not None and instance.timeout_at is not None:
        yield f"  timeout: {instance.timeout_at:%Y-%m-%d %H:%M:%S}"


def _moment(memory: Memory, at: datetime) -> str:
    since = at - memory.moments[0]
    return f"+{since}" if since else f"{at:%Y-%m-%d %H:%M:%S}"


def _told(step: Transition) -> str:
    words = [f"{step.kind} {step.message!r}" if step.message else step.kind]
    if step.handler:
        words.append(f"→ {step.handler}()")
    words += [f"sends {command!r}" for command in step.commands]
    for name, due in step.timers.items():
        words.append(f"cancels the timer {name!r}" if due is None else f"sets the timer {name!r}")
    if step.status != "started":
        words.append(f"is {step.status}")
    return ", ".join(words).replace(", →", " →")
