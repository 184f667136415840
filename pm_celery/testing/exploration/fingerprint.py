"""When two states of an exploration are the same: what may happen from then on, and what has happened."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime

from pm_celery.testing.memory.instance import Memory

__all__ = ["fingerprint"]

_OPEN = ("pending", "waiting", "parked")


def fingerprint(memory: Memory) -> Hashable:
    """Moments count as the time that is left; ids and numbers do not count at all.

    Events, commands and dead letters count as sets: which there were and how they stand, not how often nor in
    which order, as far as the process's own state does not tell.
    """
    now = memory.now
    instance = memory.instance
    return (
        None
        if instance is None
        else (
            instance.status,
            instance.ended_at is None,
            _without_ids(instance.state, memory),
            _left(instance.timeout_at, now),
        ),
        frozenset(
            (timer.name, timer.payload, timer.is_fired, _left(timer.due_at, now))
            for timer in memory.timers.values()
        ),
        frozenset(
            (found.row.name, found.row.payload, found.row.status)
            for found in memory.inbox.values()
            if found.row.kind == "event"
        ),
        tuple(
            (found.row.kind, found.row.name, found.row.attempts, _left(found.row.due_at, now))
            for found in memory.inbox.values()
            if found.row.status in _OPEN
        ),
        frozenset(
            (
                sent.row.name,
                sent.row.payload,
                sent.row.status,
                sent.attempts,
                _left(sent.row.due_at, now) if sent.row.status == "pending" else None,
            )
            for sent in memory.outbox.values()
        ),
        frozenset(
            (letter.place, letter.name, letter.handler)
            for letter in memory.letters
            if letter.status == "open"
        ),
    )


def _left(due: datetime | None, now: datetime) -> float | None:
    if due is None:
        return None
    return max((due - now).total_seconds(), 0.0)


def _without_ids(state: str, memory: Memory) -> str:
    """The state with the ids of commands as numbers: they are new in each run."""
    for number, command_id in enumerate(memory.outbox):
        if command_id in state:
            state = state.replace(command_id, f"command {number}")
    return state
