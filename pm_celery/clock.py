"""What time it is: the database's, so that workers whose clocks differ agree on what is due.

Asking the database each time would cost a round trip. So its clock is read once a minute for each
process, and carried on with this machine's monotonic clock, which no operator and no NTP daemon sets.
SQLite has no clock of its own; its file lies on this machine, whose clock is then used.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from django.db import connections

from pm_celery.conf import get_settings

__all__ = ["at_once", "now", "stop", "travel"]

_REREAD_SECONDS = 60.0
# A reading lags by the time that the answer took: a process that read in a busy moment would find what
# another one publishes "now" not yet due, and leave it to the tick.
_MOST_DISAGREEMENT = timedelta(seconds=1)
_QUERIES = {
    "postgresql": "SELECT clock_timestamp()",
    "mysql": "SELECT UTC_TIMESTAMP(6)",
}


class _Reading(threading.local):
    at: datetime | None = None
    monotonic: float = 0.0
    wall: float = 0.0
    alias: str = ""


_reading = _Reading()
_offset = timedelta(0)
_stopped_at: datetime | None = None


def now() -> datetime:
    """The moment in UTC by the clock of ``PM_CELERY["DATABASE"]``."""
    if _stopped_at is not None:
        return _stopped_at + _offset
    alias = get_settings().database
    query = _QUERIES.get(connections[alias].vendor)
    if query is None:
        return datetime.now(UTC) + _offset
    monotonic, wall = time.monotonic(), time.time()
    elapsed = monotonic - _reading.monotonic
    # A machine that slept has a wall clock that ran on while its monotonic clock stood still.
    slept = abs((wall - _reading.wall) - elapsed) > 1
    if _reading.at is None or _reading.alias != alias or elapsed > _REREAD_SECONDS or slept:
        with connections[alias].cursor() as cursor:
            cursor.execute(query)
            at: datetime = cursor.fetchone()[0]
        _reading.at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        # The answer was given somewhere between question and receipt.
        _reading.monotonic, _reading.wall = (monotonic + time.monotonic()) / 2, time.time()
        _reading.alias = alias
        elapsed = 0.0
    assert _reading.at is not None
    return _reading.at + timedelta(seconds=elapsed) + _offset


def at_once() -> datetime:
    """When something is due that is to be handled now: a moment that is past for every process."""
    return now() - _MOST_DISAGREEMENT


@contextmanager
def travel(by: timedelta) -> Iterator[None]:
    """Let this process believe that it is ``by`` later. For tests: time is a parameter, no sleep."""
    global _offset
    before = _offset
    _offset += by
    try:
        yield
    finally:
        _offset = before


@contextmanager
def stop(at: datetime) -> Iterator[None]:
    """Let this process believe that it is that moment, and stays so but for :func:`travel`. For tests."""
    global _stopped_at
    before = _stopped_at
    _stopped_at = at - _offset
    try:
        yield
    finally:
        _stopped_at = before
