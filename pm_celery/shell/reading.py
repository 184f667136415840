"""What ``status``, ``health`` and ``show`` read, with as few rows as the question needs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import DatabaseError

from pm_celery import clock, registry, tallies, ticks
from pm_celery.conf import get_settings
from pm_celery.keys import PARTITIONS
from pm_celery.models import InboxMessage, OutboxCommand, Pause, Timer
from pm_celery.models.instances import InstanceStatus

__all__ = ["Health", "ProcessRow", "health", "lags", "processes"]

_LATE = timedelta(seconds=60)


@dataclass(slots=True)
class ProcessRow:
    """One line of ``pm status``."""

    process: str
    counts: dict[str, int] = field(default_factory=dict)
    began_today: int = 0
    open_letters: int = 0
    paused: bool = False


def processes() -> list[ProcessRow]:
    """Every process and policy that is declared or counted, by name: from the tallies."""
    today = clock.now() - timedelta(days=1)
    found: dict[str, ProcessRow] = {item.name: ProcessRow(item.name) for item in registry.listeners}

    def row(process: str) -> ProcessRow:
        return found.setdefault(process, ProcessRow(process))

    for counted in tallies.ever([*InstanceStatus.values, tallies.OPEN]):
        if counted.what == tallies.OPEN:
            row(counted.process).open_letters += counted.count
        else:
            counts = row(counted.process).counts
            counts[counted.what] = counts.get(counted.what, 0) + counted.count
    for counted in tallies.over_time([tallies.BEGAN], 900, today):
        row(counted.process).began_today += counted.count
    for process in Pause.objects.using(get_settings().database).values_list("process", flat=True):
        row(process).paused = True
    return [found[name] for name in sorted(found)]


def lags() -> dict[str, float]:
    """How late the longest overdue row of each table is, in seconds."""
    alias, now = get_settings().database, clock.now()
    inbox = InboxMessage.objects.using(alias)
    oldest: dict[str, list[Any]] = {
        "inbox": [inbox.due(partition, now) for partition in range(PARTITIONS)],
        "outbox": [OutboxCommand.objects.using(alias).due(now)],
        "timers": [Timer.objects.using(alias).due(now)],
    }
    late: dict[str, float] = defaultdict(float)
    for name, questions in oldest.items():
        for rows in questions:
            due_at = rows.values_list("due_at", flat=True).first()
            late[name] = max(late[name], (now - due_at).total_seconds() if due_at else 0.0)
    return dict(late)


@dataclass(frozen=True, slots=True)
class Health:
    """Whether all is well, and what is not."""

    problems: tuple[str, ...]
    told: dict[str, Any]

    @property
    def is_ok(self) -> bool:
        return not self.problems


def health() -> Health:
    """The tick runs, nothing is long overdue, and no letter is open."""
    try:
        last, late, rows = ticks.last_tick(), lags(), processes()
    except DatabaseError as error:
        words = (str(error).splitlines() or [""])[0]
        return Health((f"The database cannot be read: {words}",), {"last_tick": None, "lag": {}})
    letters = sum(row.open_letters for row in rows)
    problems = []
    if last is None or clock.now() - last > _LATE:
        problems.append("Beat's tick does not run.")
    problems += [
        f"The longest overdue row of the {name} is {seconds:.0f} s late."
        for name, seconds in late.items()
        if seconds > _LATE.total_seconds()
    ]
    if letters:
        problems.append(f"{letters} dead letters are open.")
    told = {
        "last_tick": last.isoformat() if last else None,
        "lag": late,
        "open_letters": letters,
    }
    return Health(tuple(problems), told)
