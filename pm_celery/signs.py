"""Signs of life: a process that runs our tasks writes down every few seconds that it is there.

Where workers stand still, or are connected to another broker, nothing else would tell: a row that nobody
handles looks the same whether there is nobody or much to do.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import Error

from pm_celery import clock
from pm_celery.conf import get_settings
from pm_celery.models import Heartbeat

__all__ = ["Sign", "forget_old", "give", "seen"]

_WORKER = "worker "
_LONGEST = 50
_EVERY_SECONDS = 10.0
# A container that was replaced never comes back under its name.
_FORGOTTEN_AFTER = timedelta(hours=1)
_MOST_SHOWN = 100

_next = 0.0
_next_forgetting = 0.0


@dataclass(frozen=True, slots=True)
class Sign:
    """When a worker was last seen: its node name, in UTC."""

    worker: str
    at: datetime


def give(worker: str) -> None:
    """Write down that this worker is there, unless this process did so a moment ago. Never fails."""
    global _next
    moment = time.monotonic()
    if moment < _next:
        return
    _next = moment + _EVERY_SECONDS
    # Without a database the task itself has more to say.
    with suppress(Error):
        _write(f"{_WORKER}{worker}"[:_LONGEST])


def _write(name: str) -> None:
    now = clock.now()
    rows = Heartbeat.objects.using(get_settings().database)
    if not rows.filter(name=name).update(beat_at=now):
        rows.bulk_create([Heartbeat(name=name, beat_at=now)], ignore_conflicts=True)


def seen() -> list[Sign]:
    """The workers of the last hour, the one seen last first; a hundred at most."""
    rows = Heartbeat.objects.using(get_settings().database).filter(name__startswith=_WORKER)
    found = rows.filter(beat_at__gt=clock.now() - _FORGOTTEN_AFTER).order_by("-beat_at", "name")
    return [Sign(row.name.removeprefix(_WORKER), row.beat_at) for row in found[:_MOST_SHOWN]]


def forget_old() -> None:
    """Forget workers that are gone. The tick does it, once a minute."""
    global _next_forgetting
    moment = time.monotonic()
    if moment < _next_forgetting:
        return
    _next_forgetting = moment + 60
    rows = Heartbeat.objects.using(get_settings().database).filter(name__startswith=_WORKER)
    rows.filter(beat_at__lte=clock.now() - _FORGOTTEN_AFTER).delete()
