"""Runs of a journey: to its end, or to a death and on from there."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal

from django.conf import settings
from django.db import connection, connections

from pm_celery import clock, conf, ticks
from tests.sweep.brokers import Broker
from tests.sweep.databases import Database
from tests.sweep.journeys import Journey, request
from tests.sweep.outcome import difference, outcome
from tests.sweep.points import KILLED, Points, Which
from tests.sweep.processes import Tell, in_a_process
from tests.sweep.trips import TripBooked

__all__ = ["Death", "Restart", "Sweep", "Swept"]

# Longer than the leases of a wake-up and of a command that was dispatched once or twice.
_A_WHILE = timedelta(seconds=61)
# So often workers and Beat look for work before they are believed to have come to no end.
_MOST_ROUNDS = 15
_MOST_SHOWN = 5
# Nothing is to depend on how busy this machine is.
_PATIENT = {"ADVANCE_SECONDS": 3600, "BATCH_SECONDS": 3600}

# late: leases have ended, and the tick comes before the messages that are still there: most comes twice.
# at once: workers are back within a second. emptied: late, and the broker has lost all messages.
Restart = Literal["late", "at once", "emptied"]


@dataclass(frozen=True)
class Death:
    """A process died, others went on, and this is how what they came to differs."""

    journey: str
    number: int
    moment: str
    call: str
    step: int
    restart: Restart
    differs: list[str]

    def __str__(self) -> str:
        return (
            f"{self.journey}: killed {self.moment} point {self.number} (in step {self.step + 1}): "
            f"{self.call}\n  restarted {self.restart}; the uninterrupted run has -, this one has +\n"
            + "\n".join(f"  {line}" for line in self.differs)
        )


@dataclass
class Swept:
    """What a sweep found: how many points there were, and at which of them a death did harm."""

    points: int
    harmful: list[Death]
    seconds: float

    def report(self) -> str:
        """The first harmful deaths; most have the same cause."""
        shown = "\n".join(map(str, self.harmful[:_MOST_SHOWN]))
        return f"{len(self.harmful)} deaths did harm at {self.points} points.\n{shown}"


class Sweep:
    """Takes journeys to their end, killed at every point."""

    def __init__(self, database: Database, broker: Broker) -> None:
        self._database = database
        self._broker = broker

    def sweep(
        self,
        journey: Journey,
        restart: Restart,
        which: Which = "all",
        moments: Sequence[str] = ("before", "after"),
        *,
        seconds: int = 7000,
    ) -> Swept:
        """Kill one run of a journey after another, each at its next point, until one gets through alive.

        In a process of its own, which has gone through the journey once: what is imported, compiled and
        cached the first time would take its runs most of their time.
        """
        connections.close_all()
        began = time.monotonic()

        def do(tell: Tell) -> None:
            expected = self._rehearse(journey)
            # What children would copy, page by page, only to collect nothing.
            gc.disable()
            gc.freeze()
            deaths = list(self._deaths(journey, restart, which, moments, expected))
            tell(
                points=max((death.number for death in deaths), default=0),
                harmful=[asdict(death) for death in deaths if death.differs],
            )

        code, told = in_a_process(do, seconds)
        assert code == 0, told.get("error", f"the sweep ended with {code}")
        harmful = [Death(**death) for death in told["harmful"]]
        return Swept(told["points"], harmful, time.monotonic() - began)

    def _rehearse(self, journey: Journey) -> list[str]:
        """What a journey comes to, uninterrupted; nothing is open after it."""
        self._database.prepare()
        world = self._world(journey)
        self._database.empty()
        self._broker.empty()
        world.live(0)
        found = world.outcome()
        world.leave()
        connections.close_all()
        self._broker.leave()
        return found

    def _deaths(
        self,
        journey: Journey,
        restart: Restart,
        which: Which,
        moments: Sequence[str],
        expected: list[str],
    ) -> Iterator[Death]:
        for number, moment in ((n, moment) for n in itertools.count(1) for moment in moments):
            points = Points(number, moment, which)
            self._database.prepare()
            code, told = in_a_process(
                lambda tell, points=points: self._set_out(journey, points, tell)
            )
            if code == 0:
                return
            assert code == KILLED, told.get("error", f"a run ended with {code}")
            code, left = in_a_process(
                lambda tell, told=told: self._go_on(journey, restart, told, tell)
            )
            found = left["outcome"] if code == 0 else [left.get("error", f"it ended with {code}")]
            yield Death(
                journey.name,
                number,
                moment,
                told["died"],
                told["step"],
                restart,
                difference(expected, found),
            )

    def _set_out(self, journey: Journey, points: Points, tell: Tell) -> None:
        world = self._world(journey)
        self._database.empty()
        self._broker.empty()
        points.last_words = lambda call: tell(died=call)
        points.on_database(connection)
        self._broker.watch(points)

        def arrive(step: int, at: float) -> None:
            points.begin_step(counts=step >= journey.swept_from)
            tell(step=step, at=at)

        world.live(0, arrive)

    def _go_on(self, journey: Journey, restart: Restart, told: dict[str, Any], tell: Tell) -> None:
        """The restart: workers and Beat do what there is to do, and the step is done again."""
        world = self._world(journey)
        world.wait_until(timedelta(seconds=told["at"]))
        if restart == "emptied":
            self._broker.empty()
        if restart == "at once":
            world.settle()
        world.recover()
        world.live(told["step"], tell)
        tell(outcome=world.outcome())

    def _world(self, journey: Journey) -> World:
        settings.PM_CELERY = {**_PATIENT, **journey.settings}
        conf.get_settings.cache_clear()
        self._database.use()
        self._broker.use()
        return World(journey, self._broker)


class World:
    """Users, operators, a worker and Beat, one thing after another, in this process."""

    def __init__(self, journey: Journey, broker: Broker) -> None:
        self._journey = journey
        self._broker = broker
        self._at = timedelta(0)
        self._travels = ExitStack()

    def live(self, step: int, tell: Tell = lambda **news: None) -> None:
        """Go through the journey from a step on; say, at each one, how far we are."""
        for number in range(step, len(self._journey.steps)):
            now = self._journey.steps[number]
            self.wait_until(now.at)
            tell(step=number, at=self._at.total_seconds())
            now.act()
            self.settle()

    def leave(self) -> None:
        """Come back to the present."""
        self._travels.close()

    def wait_until(self, at: timedelta) -> None:
        if at > self._at:
            self._travels.enter_context(clock.travel(at - self._at))
            self._at = at

    def settle(self) -> None:
        """Work and tick until there is nothing to do at this moment."""
        for _ in range(_MOST_ROUNDS):
            if not self._round(self._broker.work, ticks.tick):
                return

    def recover(self) -> None:
        """Tick and work, once a minute, until there is nothing to do."""
        for _ in range(_MOST_ROUNDS):
            self.wait_until(self._at + _A_WHILE)
            if not self._round(ticks.tick, self._broker.work):
                return

    def _round(self, *chores: Callable[[], object]) -> bool:
        done = [chore() for chore in chores]
        return any(found not in (0, ticks.Ticked(0, 0, 0)) for found in done)

    def outcome(self) -> list[str]:
        """What is in the tables after one more booking, which needs no tick: nothing is in its way."""
        request("afterwards", TripBooked("Z", at_once=False))
        self._broker.work()
        return outcome()
