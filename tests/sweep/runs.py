"""Runs of a journey: to its end, or to a death and on from there."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Literal

from django.conf import settings
from django.db import connection, connections

from pm_celery import conf
from tests.sweep.brokers import Broker
from tests.sweep.databases import Database
from tests.sweep.journeys import MAIN, Journey
from tests.sweep.outcome import difference, is_pending
from tests.sweep.points import KILLED, Points, Which
from tests.sweep.processes import Ended, Tell, in_a_process
from tests.sweep.world import World

__all__ = ["Death", "Restart", "Sweep", "Swept"]

_MOST_SHOWN = 5
# How many processes may die of one journey: more than a message may kill.
_MOST_LIVES = 10
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
            self._warm_up(MAIN if journey.is_deadly else journey)
            expected = self._get_through(
                journey, "late", self._set_out(journey, Points(0, "never"))
            )
            deaths = list(self._deaths(journey, restart, which, moments, expected))
            tell(
                expected=expected,
                points=max((death.number for death in deaths), default=0),
                harmful=[asdict(death) for death in deaths if death.differs],
            )

        code, told = in_a_process(do, seconds)
        assert code == 0, told.get("error", f"the sweep ended with {code}")
        _check_uninterrupted(journey, told["expected"])
        harmful = [Death(**death) for death in told["harmful"]]
        return Swept(told["points"], harmful, time.monotonic() - began)

    def _warm_up(self, journey: Journey) -> None:
        """Go through a journey; nothing is open after it."""
        self._database.prepare()
        world = self._world(journey, lambda **news: None)
        self._database.empty()
        self._broker.empty()
        world.live(0)
        world.leave()
        connections.close_all()
        self._broker.leave()
        # What children would copy, page by page, only to collect nothing.
        gc.disable()
        gc.freeze()

    def _deaths(
        self,
        journey: Journey,
        restart: Restart,
        which: Which,
        moments: Sequence[str],
        expected: list[str],
    ) -> Iterator[Death]:
        for number, moment in ((n, moment) for n in itertools.count(1) for moment in moments):
            code, told = ended = self._set_out(journey, Points(number, moment, which))
            if "died" not in told:
                assert code == 0 or journey.is_deadly, told.get("error", f"a run ended with {code}")
                return
            found = self._get_through(journey, restart, ended)
            yield Death(
                journey.name,
                number,
                moment,
                told["died"],
                told["step"],
                restart,
                difference(expected, found),
            )

    def _get_through(self, journey: Journey, restart: Restart, ended: Ended) -> list[str]:
        """Let others go on after a death, and after theirs, until one gets through; what it comes to."""
        for _ in range(_MOST_LIVES):
            code, told = ended
            if code == 0:
                return list(told["outcome"])
            if code != KILLED:
                return [told.get("error", f"it ended with {code}")]
            ended = in_a_process(partial(self._go_on, journey, restart, told))
            ended[1].setdefault("step", told["step"])
            restart = "late"
        return [f"{_MOST_LIVES} processes died of it, and the next would too"]

    def _set_out(self, journey: Journey, points: Points) -> Ended:
        self._database.prepare()
        return in_a_process(partial(self._begin, journey, points))

    def _begin(self, journey: Journey, points: Points, tell: Tell) -> None:
        def arrive(**news: Any) -> None:
            if "step" in news:
                points.begin_step(counts=news["step"] >= journey.swept_from)
            tell(**news)

        world = self._world(journey, arrive)
        self._database.empty()
        self._broker.empty()
        points.last_words = lambda call: tell(died=call)
        points.on_database(connection)
        self._broker.watch(points)
        world.live(0)
        points.are_over()
        tell(outcome=world.outcome())

    def _go_on(self, journey: Journey, restart: Restart, told: dict[str, Any], tell: Tell) -> None:
        """The restart: workers and Beat do what there is to do, and the step is done again."""
        world = self._world(journey, tell)
        world.wait_until(timedelta(seconds=told["at"]))
        if restart == "emptied":
            self._broker.empty()
        if restart == "at once":
            world.settle()
        world.recover()
        world.live(told["step"])
        tell(outcome=world.outcome())

    def _world(self, journey: Journey, tell: Tell) -> World:
        settings.PM_CELERY = {**_PATIENT, **journey.settings}
        conf.get_settings.cache_clear()
        self._database.use()
        self._broker.use()
        return World(journey, self._broker, tell)


def _check_uninterrupted(journey: Journey, expected: list[str]) -> None:
    """That all runs agree is worth nothing where all are wrong."""
    missing = set(journey.comes_to) - set(expected)
    assert not missing, f"the uninterrupted run lacks {missing}: " + "\n".join(expected)
    pending = [line for line in expected if is_pending(line)]
    assert not pending, f"the uninterrupted run leaves {pending}"
