"""The tick: what Beat does every second, so that whatever was lost is found again.

Each step is idempotent, skips what another tick holds, and is one indexed query where nothing is due.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pm_celery import (
    bulks,
    clock,
    oldest,
    outbox,
    pauses,
    signs,
    tallies,
    timers,
    tracing,
    wakeups,
)
from pm_celery.conf import get_settings
from pm_celery.keys import PARTITIONS
from pm_celery.models import Heartbeat

__all__ = ["TICK", "Ticked", "last_tick", "tick"]

TICK = "tick"
# Beat sends the next one in a second: a tick that goes on for longer keeps a worker from other work.
_LONGEST_SECONDS = 0.8


@dataclass(frozen=True, slots=True)
class Ticked:
    """What a tick found: timers and timeouts that were due, partitions with work, commands to dispatch."""

    fired: int
    partitions: int
    dispatched: int


def tick() -> Ticked:
    """Fire what is due, wake partitions that have work, dispatch stranded commands; note that we ran."""
    alias = get_settings().database
    now = clock.now()
    beats = Heartbeat.objects.using(alias)
    if not beats.filter(name=TICK).update(beat_at=now):
        beats.bulk_create([Heartbeat(name=TICK, beat_at=now)], ignore_conflicts=True)
    began, end = time.time_ns(), time.monotonic() + _LONGEST_SECONDS
    pauses.release_resumed()
    fired = _until_none(timers.fire_due, end)
    partitions = wakeups.partitions_with_work(range(PARTITIONS))
    wakeups.wake_again(wakeups.common_lanes(partitions))
    dispatched = _until_none(outbox.dispatch_due, end)
    bulks.send_stranded()
    tallies.fold()
    oldest.move_marks()
    signs.forget_old()
    tracing.note_tick(began, fired=fired, partitions=len(partitions), dispatched=dispatched)
    return Ticked(fired, len(partitions), dispatched)


def _until_none(chore: Callable[[], int], end: float) -> int:
    total = 0
    while done := chore():
        total += done
        if time.monotonic() > end:
            break
    return total


def last_tick() -> datetime | None:
    """When the last tick ran, in UTC, or None."""
    beat = Heartbeat.objects.using(get_settings().database).filter(name=TICK).first()
    return beat.beat_at if beat else None
