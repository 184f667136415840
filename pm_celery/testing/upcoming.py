"""What has still to come, as the rows tell it: for the kit to go there, and for its failures to name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count

from pm_celery import clock, wakeups
from pm_celery.conf import get_settings
from pm_celery.keys import PARTITIONS
from pm_celery.models import InboxMessage, Instance, OutboxCommand, Timer
from pm_celery.rows import NEVER

__all__ = ["Upcoming", "handled_since", "is_anything_due", "upcoming"]


@dataclass(frozen=True, slots=True, order=True)
class Upcoming:
    """A moment (UTC), and what is looked at then, in words."""

    due_at: datetime
    what: str

    def __str__(self) -> str:
        return f"{self.what}, due at {self.due_at:%Y-%m-%d %H:%M:%S} UTC"


def is_anything_due() -> bool:
    """Whether a worker or Beat would find something to do now."""
    alias = get_settings().database
    now = clock.now()
    return (
        bool(wakeups.partitions_with_work(range(PARTITIONS)))
        or OutboxCommand.objects.using(alias).due(now).exists()
        or Timer.objects.using(alias).due(now).exists()
        or Instance.objects.using(alias).timeout_passed(now).exists()
    )


def upcoming(most: int, *, after: datetime | None = None) -> list[Upcoming]:
    """The next so many, the earliest first, among them what is overdue; or only what comes after a moment.

    What a pause holds back has no moment.
    """
    return sorted((*_messages(most, after), *_timers(most, after), *_commands(most, after)))[:most]


def _messages(most: int, after: datetime | None) -> Iterator[Upcoming]:
    rows = InboxMessage.objects.using(get_settings().database).open().filter(due_at__lt=NEVER)
    if after is not None:
        rows = rows.filter(due_at__gt=after)
    for row in rows.order_by("due_at", "id")[:most]:
        again = f", run {row.attempts + 1}" if row.attempts else ""
        waits = ", which waits for a start event" if row.status == "waiting" else ""
        whose = f"for {row.process} {row.key}".rstrip() if row.process else "that nobody knows"
        yield Upcoming(row.due_at, f"the {_kind(row)} {whose}{again}{waits}")


def _kind(row: InboxMessage) -> str:
    return "timeout" if row.kind == "timeout" else f"{row.kind.replace('_', ' ')} {row.name}"


def _timers(most: int, after: datetime | None) -> Iterator[Upcoming]:
    alias = get_settings().database
    timers = Timer.objects.using(alias).filter(fired_at=None).select_related("instance")
    instances = Instance.objects.using(alias).exclude(timeout_at=None)
    if after is not None:
        timers, instances = timers.filter(due_at__gt=after), instances.filter(timeout_at__gt=after)
    for timer in timers.order_by("due_at")[:most]:
        owner = timer.instance
        yield Upcoming(timer.due_at, f"the timer {timer.name} of {owner.process} {owner.key}")
    for row in instances.order_by("timeout_at")[:most]:
        assert row.timeout_at is not None
        yield Upcoming(row.timeout_at, f"the timeout of {row.process} {row.key}")


def _commands(most: int, after: datetime | None) -> Iterator[Upcoming]:
    rows = OutboxCommand.objects.using(get_settings().database).unsettled()
    if after is not None:
        rows = rows.filter(due_at__gt=after)
    for row in rows.order_by("due_at", "id")[:most]:
        whose = f"of {row.process} {row.key}".rstrip()
        kind = "Celery signature" if row.kind == "signature" else row.kind
        if row.status == "pending":
            again = f", run {row.attempts + 1}" if row.attempts else ""
        else:
            again = ", dispatched, which did not run"
        yield Upcoming(row.due_at, f"the {kind} {row.name} {whose}{again}")


def handled_since(moment: datetime) -> list[str]:
    """What was handled most often since then, in words: whatever keeps itself going is in front."""
    rows = InboxMessage.objects.using(get_settings().database).filter(handled_at__gte=moment)
    counted = rows.values("kind", "name", "process").annotate(times=Count("pk")).order_by("-times")
    return [
        f"{row['kind']} {row['name']} by {row['process']}: {row['times']} times"
        for row in counted[:5]
    ]
