"""Wake-ups: the Celery messages that say "look here", and say it once.

A wake-up is for a lane. Publishing wakes the common lane of its queue, whose worker looks at all partitions
of the queue, so that one wake-up is enough for whatever waits. Where that finds a backlog, it wakes the
lanes of single partitions, so that several workers share it and do not get in each other's way.

A publisher need not send one while one is outstanding. That loses nothing because of an order: the
publisher commits its rows, and then looks for the mark; the worker removes the mark, commits that, and then
looks for rows once more. A message may be lost, doubled or late all the same: what is outstanding longer
than its lease counts as lost, and the tick sends another.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from typing import Any

from django.db import connections, transaction

from pm_celery import clock
from pm_celery.broker import post_office
from pm_celery.conf import get_settings
from pm_celery.keys import PARTITIONS
from pm_celery.statements import statements

__all__ = [
    "AT_WORK",
    "announce",
    "beside",
    "common_lanes",
    "counted_on_for",
    "may_listen",
    "note_pace",
    "partitions_with_work",
    "reach",
    "rest",
    "wake",
    "wake_again",
    "wake_on_commit",
]

ADVANCE_TASK = "pm_celery.advance"
# For how long publishers count on a worker that has claimed a batch: longer than most batches last.
AT_WORK = timedelta(milliseconds=30)
# For how long they count on a listener that was told: much longer than AT_WORK, for what is outstanding for
# little more than that is taken for a worker that is there.
_TOLD = timedelta(seconds=1)
# Handlers that wait for something keep waiting whoever counts on them. So nobody is to count on a worker for
# some seconds after a batch in which they took longer than this, in all and each.
_SLOW_SECONDS, _SLOW_SECONDS_EACH = 0.02, 0.001
_SLOW_FOR_SECONDS = 5.0
_slow_until = 0.0

# Each process begins somewhere else.
_turns = itertools.count(random.randrange(PARTITIONS))


def reach(lane: int) -> list[int]:
    """The partitions that the worker of a lane looks at: up to 15 the one of that number, from 16 on all of
    the queue 16 less."""
    if lane < PARTITIONS:
        return [lane]
    return list(range(lane - PARTITIONS, PARTITIONS, get_settings().queues))


def beside(lane: int) -> list[int]:
    """Some other partitions of a single partition's queue, whose newest messages get through behind its
    backlog; none for a lane that looks at all of them.

    Two, and the next two the next time, and none where handlers are slow: their own workers may be at the
    same messages, and then one of them waits for the other's commit.
    """
    if lane >= PARTITIONS or not counted_on_for():
        return []
    queues = get_settings().queues
    others = [other for other in range(lane % queues, PARTITIONS, queues) if other != lane]
    at = 2 * next(_turns)
    return [others[(at + step) % len(others)] for step in range(min(2, len(others)))]


def common_lanes(partitions: Iterable[int]) -> set[int]:
    """The lanes of the queues that these partitions are in."""
    queues = get_settings().queues
    return {PARTITIONS + partition % queues for partition in partitions}


def wake_on_commit(partitions: Collection[int]) -> None:
    """Wake whoever looks at these partitions once the caller's transaction is committed; never fails
    the caller."""
    if partitions:
        alias = get_settings().database
        # No partial: Django asks a robust callback that fails for its name, and a partial has none.
        transaction.on_commit(lambda: announce(common_lanes(partitions)), using=alias, robust=True)


def may_listen() -> bool:
    """Whether ``PM_CELERY["LISTEN"]`` is set, and database and driver can."""
    settings = get_settings()
    if not settings.listen or connections[settings.database].vendor != "postgresql":
        return False
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    return bool(is_psycopg3)


def announce(lanes: Collection[int]) -> None:
    """Say that something was published: to the listener where there is one, else by wake-ups."""
    if may_listen():
        alias = get_settings().database
        now = clock.now()
        # Not for the whole lease: perhaps nobody listens, and then the tick sends a wake-up.
        statements(alias).notify(alias, sorted(lanes), now, now + _TOLD)
    else:
        wake(lanes)


def wake_again(lanes: Collection[int]) -> None:
    """What the tick does for lanes that have work: as :func:`wake`, but a listener that was told is not
    counted on. Perhaps there is none, while publishers go on telling it."""
    wake(lanes, outstanding_for=_TOLD if may_listen() else timedelta(0))


def wake(lanes: Collection[int], *, outstanding_for: timedelta = timedelta(0)) -> None:
    """Send a wake-up to each lane that has none outstanding, for longer than so long."""
    if not lanes:
        return
    settings = get_settings()
    alias = settings.database
    now = clock.now()
    until = now + settings.wake_lease
    fresh = statements(alias).wake(alias, sorted(lanes), now + outstanding_for, until)
    # If we die here, or the broker refuses, the wake-up stays outstanding until its lease ends:
    # that spares the next publishers a broker that is down.
    if not fresh:
        return
    with post_office(len(fresh)) as post:
        for lane in fresh:
            route: dict[str, Any] = {} if settings.queues == 1 else {"queue": queue_of(lane)}
            post.send(
                ADVANCE_TASK,
                [lane],
                what=f"the wake-up of lane {lane}",
                argsrepr=f"({lane},)",
                kwargsrepr="{}",
                **route,
            )


def note_pace(seconds: float, messages: int) -> None:
    """Note how long the handlers of a batch took in this process."""
    global _slow_until
    if seconds > _SLOW_SECONDS and seconds > _SLOW_SECONDS_EACH * messages:
        _slow_until = time.monotonic() + _SLOW_FOR_SECONDS


def counted_on_for() -> timedelta:
    """For how long publishers may count on a worker of this process that claims a batch now."""
    return timedelta(0) if time.monotonic() < _slow_until else AT_WORK


def rest(lane: int) -> None:
    """Commit that nobody need count on this lane's wake-up any more; look once more after it."""
    alias = get_settings().database
    statements(alias).rest(alias, lane)


def queue_of(lane: int) -> str:
    """The queue of a lane's wake-ups where ``PM_CELERY["QUEUES"]`` is above 1."""
    return f"pm_celery.{reach(lane)[0] % get_settings().queues}"


def partitions_with_work(among: Sequence[int]) -> list[int]:
    """Those partitions in which something is due."""
    alias = get_settings().database
    return statements(alias).due_partitions(alias, among, clock.now())
