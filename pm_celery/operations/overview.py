"""What the overview tells: each process with its counts, what is due, and how it went lately."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.utils import timezone

from pm_celery import clock, oldest, registry, tallies
from pm_celery.conf import get_settings
from pm_celery.models import Instance, Pause, Timer
from pm_celery.models.instances import InstanceStatus
from pm_celery.operations.health import Health, health

__all__ = ["Course", "Overview", "ProcessRow", "overview"]

#: Counting what is due stops here.
MOST_COUNTED = 1000

# The three courses: of the last hour, day and week, by periods of so many seconds.
_SPANS = ((60, timedelta(hours=1)), (900, timedelta(days=1)), (3600, timedelta(days=7)))
_HANDLED_AND_FAILED = frozenset({tallies.HANDLED, tallies.RUN_FAILED})


@dataclass(frozen=True, slots=True)
class Course:
    """How many messages were handled, and how many runs failed, in each period of so many seconds; the
    last one goes on."""

    period: int
    since: datetime
    handled: tuple[int, ...]
    failed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A process or a policy. kind: "" for one that this release does not declare; counts: instances by
    status; oldest: the running instance with the lowest id, without its state."""

    process: str
    kind: str
    counts: Mapping[str, int]
    began_today: int
    oldest: Instance | None
    open_letters: int
    pause: Pause | None
    last_hour: Course


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it, at one moment in UTC. timers_due: how many timers and timeouts, ``MOST_COUNTED`` at most."""

    at: datetime
    health: Health
    processes: tuple[ProcessRow, ...] = ()
    courses: tuple[Course, ...] = ()
    timers_due: int = 0


def overview() -> Overview:
    """The overview; the health alone where the database cannot be read."""
    now = clock.now()
    found = health()
    if not found.is_readable:
        return Overview(now, found)
    today = timezone.localtime(now).replace(hour=0, minute=0, second=0, microsecond=0)
    spans = [(period, now - span + timedelta(seconds=period)) for period, span in _SPANS]
    asked = [tallies.Asked(_HANDLED_AND_FAILED, *span, summed=True) for span in spans]
    ever, began_today, by_process, *in_all = tallies.read(
        tallies.Asked(frozenset({*InstanceStatus.values, tallies.OPEN})),
        tallies.Asked(frozenset({tallies.BEGAN}), 900, today),
        tallies.Asked(_HANDLED_AND_FAILED, *spans[0]),
        *asked,
    )
    return Overview(
        now,
        found,
        _processes(now, ever, began_today, by_process),
        tuple(_course(sums, *span, now) for sums, span in zip(in_all, spans, strict=True)),
        _timers_due(now),
    )


def _timers_due(now: datetime) -> int:
    alias = get_settings().database
    timers = Timer.objects.using(alias).due(now).values_list("pk")
    timeouts = Instance.objects.using(alias).timeout_passed(now).values_list("pk")
    return min(len(timers[:MOST_COUNTED]) + len(timeouts[:MOST_COUNTED]), MOST_COUNTED)


@dataclass(slots=True)
class _Sums:
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(InstanceStatus.values, 0))
    began_today: int = 0
    open_letters: int = 0
    lately: list[tallies.Counted] = field(default_factory=list)


def _processes(
    now: datetime,
    ever: Iterable[tallies.Counted],
    began_today: Iterable[tallies.Counted],
    lately: Iterable[tallies.Counted],
) -> tuple[ProcessRow, ...]:
    sums: dict[str, _Sums] = defaultdict(_Sums)
    for counted in ever:
        if counted.what == tallies.OPEN:
            sums[counted.process].open_letters += counted.count
        else:
            sums[counted.process].counts[counted.what] += counted.count
    for counted in began_today:
        sums[counted.process].began_today += counted.count
    for counted in lately:
        sums[counted.process].lately.append(counted)
    kinds = {listener.name: listener.kind for listener in registry.listeners}
    pauses = Pause.objects.using(get_settings().database).in_bulk()
    running = {
        name for name, found in sums.items() if found.counts["started"] or found.counts["failed"]
    }
    eldest = oldest.find(running)
    period, span = _SPANS[0]
    since = now - span + timedelta(seconds=period)
    return tuple(
        ProcessRow(
            process=name,
            kind=kinds.get(name, ""),
            counts=sums[name].counts,
            began_today=sums[name].began_today,
            oldest=eldest.get(name),
            open_letters=sums[name].open_letters,
            pause=pauses.get(name),
            last_hour=_course(sums[name].lately, period, since, now),
        )
        # Without a name: events that are not routed yet, and letters of those that never were.
        for name in sorted(kinds.keys() | sums.keys() | pauses.keys())
        if name or sums[name].open_letters
    )


def _course(sums: Iterable[tallies.Counted], period: int, since: datetime, now: datetime) -> Course:
    first = int(since.timestamp()) // period
    points = int(now.timestamp()) // period - first + 1
    counts = {what: [0] * points for what in _HANDLED_AND_FAILED}
    for found in sums:
        at = int(found.start.timestamp()) // period - first
        # What was counted since `now` is of no period of ours.
        if at < points:
            counts[found.what][at] += found.count
    return Course(period, since, tuple(counts[tallies.HANDLED]), tuple(counts[tallies.RUN_FAILED]))
