"""Whoever is killed, wherever, has lost nothing and done nothing twice.

A journey runs in a process that users, a worker, Beat and operators share, and that is killed at one of its
calls to the database or the broker: in the next run at the next call, until a run gets through alive. So the
runs themselves find the points. After each death another process goes on: leases end, ticks tick, workers
work off what the broker still has, and whoever got no answer asks again. Then the tables say the same as
after the uninterrupted run, but for ids, moments, and how often something was attempted or dispatched; and
one more booking is handled without a tick, so that nothing which was left behind blocks.

Not every death is part of the suite, for which a minute or so is enough:

- main journey: before each call, which is also after the one before it;
- others: after each call that leaves something behind, at its first passing in each step;
- with an empty broker: of the main journey, likewise.

``make sweep`` (`PM_SWEEP=all`) has every journey, before and after each call; and of each the other restarts,
after each call that leaves something behind.

Seen to fail, each with the calls between which a death does harm:

- the done mark of commands in a transaction of its own: effects twice (main journey); without it, the
  uninterrupted run leaves commands pending;
- messages marked as handled in a transaction of their own: handled twice (main);
- inbox rows inserted after the publisher's commit: events lost (main);
- wake-ups that are outstanding for ever: events lie there (main, empty broker);
- no second dispatch where a lease has ended: commands lie there (main, empty broker);
- commands dispatched before the commit: a task runs that nobody had decided on (a Celery signature; of
  commands this is harmless, for their messages name a row);
- a timer, or the timeout, marked as fired before its message is committed: lost (a timer and the timeout);
- a letter settled before its message is pending again: lost (the dead letter of an event, retried);
- attempts not counted before the run, or marks of dead batches not looked at: a message kills ten processes
  and would go on (an event that kills whoever handles it).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.db import connection

from tests.sweep.brokers import Broker, FolderBroker, RedisBroker
from tests.sweep.databases import database_for
from tests.sweep.journeys import MAIN, OTHERS, Journey
from tests.sweep.points import Which
from tests.sweep.runs import Restart, Sweep

pytestmark = pytest.mark.django_db(transaction=True)

BEFORE, AFTER, BOTH = ("before",), ("after",), ("before", "after")


@dataclass(frozen=True)
class Deaths:
    """Which deaths a test lets a journey die."""

    journey: Journey
    restart: Restart
    which: Which
    moments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.journey.name}; {self.which}, {self.restart}"


# The main journey on each database; of the others each has every second one.
SUITE = [
    Deaths(MAIN, "late", "all", BEFORE),
    Deaths(MAIN, "emptied", "places", AFTER),
    *(
        Deaths(journey, "late", "places", AFTER)
        for journey in [journey for journey in OTHERS if not journey.is_long][
            os.environ.get("PM_TEST_DB") == "postgres" :: 2
        ]
    ),
]
ALL = [
    *(Deaths(journey, "late", "all", BOTH) for journey in [MAIN, *OTHERS]),
    *(Deaths(journey, "at once", "lasting", AFTER) for journey in [MAIN, *OTHERS]),
    *(Deaths(journey, "emptied", "lasting", AFTER) for journey in [MAIN, *OTHERS]),
]
SWEPT = ALL if os.environ.get("PM_SWEEP") == "all" else SUITE


@pytest.fixture
def broker(tmp_path: Path, request: pytest.FixtureRequest) -> Broker:
    """With PostgreSQL Redis, as in production; with SQLite the folder, as in the first five minutes."""
    if connection.vendor not in ("postgresql", "sqlite"):
        pytest.skip(
            f"The sweep knows no way to begin each run with empty tables on {connection.vendor}."
        )
    if connection.vendor == "postgresql":
        return RedisBroker(request.getfixturevalue("redis_url"))
    return FolderBroker(tmp_path / "broker")


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("deaths", SWEPT, ids=str)
def test_a_death_loses_nothing_and_repeats_nothing(
    deaths: Deaths, broker: Broker, tmp_path: Path
) -> None:
    sweep = Sweep(database_for(tmp_path), broker)

    swept = sweep.sweep(deaths.journey, deaths.restart, deaths.which, deaths.moments)

    print(f"{swept.points} points, {swept.seconds:.1f} s")  # noqa: T201  with -s, or on failure
    assert swept.points
    if swept.harmful:
        pytest.fail(swept.report(), pytrace=False)
