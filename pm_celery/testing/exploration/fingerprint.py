"""When two states of an exploration are the same: what may happen from then on, and what has happened."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime, timedelta

from pm_celery.testing.memory.instance import Memory

__all__ = ["fingerprint"]

_OPEN = ("pending", "waiting", "parked")
_TWO_MINUTES = timedelta(minutes=2)
_NOTHING = timedelta(0)


def fingerprint(memory: Memory) -> Hashable:
    """Equal for equal states. Ids and numbers do not count.

    Events, commands and dead letters count as sets: which there were and how they stand, not how often nor in
    which order, as far as the process's own state does not tell. Of moments counts how long it is until then,
    to the minute, and which of them comes first.
    """
    instance = memory.instance
    moments: list[tuple[datetime, Hashable]] = []
    if instance is not None and instance.timeout_at is not None:
        moments.append((instance.timeout_at, "timeout"))
    moments += [
        (timer.due_at, (timer.name, timer.payload, timer.is_fired))
        for timer in memory.timers.values()
    ]
    events, to_come = set(), []
    for found in memory.inbox.values():
        row = found.row
        if row.kind == "event":
            events.add((row.name, row.payload, row.status))
        if row.status in _OPEN:
            to_come.append((row.kind, row.name, row.status, row.attempts))
            if row.due_at > memory.now:
                moments.append((row.due_at, len(to_come)))
    commands = set()
    for sent in memory.outbox.values():
        known = sent.row.name, sent.row.payload, sent.row.status, sent.attempts
        commands.add(known)
        if sent.row.status == "pending":
            moments.append((sent.row.due_at, known))
    letters = {(one.place, one.name, one.handler) for one in memory.letters if one.status == "open"}
    return (
        instance and (instance.status, instance.ended_at is None, _state(memory)),
        _in_order(moments, memory.now),
        frozenset(events),
        tuple(to_come),
        frozenset(commands),
        frozenset(letters),
    )


def _in_order(moments: list[tuple[datetime, Hashable]], now: datetime) -> Hashable:
    """What comes when: groups of what comes at the same moment, the next one first."""
    groups: dict[datetime, set[Hashable]] = {}
    for at, what in moments:
        groups.setdefault(at, set()).add(what)
    return tuple((_left(at - now), frozenset(groups[at])) for at in sorted(groups))


def _left(left: timedelta) -> int:
    """To the minute: events come a second before what is due, and that second is not to count for ever."""
    if left < _TWO_MINUTES:
        return max(left, _NOTHING) // timedelta(seconds=1)
    return 60 * round(left / timedelta(minutes=1))


def _state(memory: Memory) -> str:
    """The state with numbers in place of the ids of commands, which are new in each run."""
    assert memory.instance is not None
    state = memory.instance.state
    for number, command_id in enumerate(memory.outbox):
        if command_id in state:
            state = state.replace(command_id, f"command {number}")
    return state
