"""The world of a journey: users, operators, a worker and Beat, one after another in one process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta

from pm_celery import clock, ticks
from tests.sweep.brokers import Broker
from tests.sweep.journeys import Journey, request
from tests.sweep.outcome import outcome
from tests.sweep.processes import Tell
from tests.sweep.trips import TripBooked

__all__ = ["World"]

# Longer than the leases of a wake-up and of a command that was dispatched once or twice.
_A_WHILE = timedelta(seconds=61)
# So often workers and Beat look for work before they are believed to come to no end.
_MOST_ROUNDS = 15


class World:
    """What happens in a journey, and when; it tells how far it has come."""

    def __init__(self, journey: Journey, broker: Broker, tell: Tell) -> None:
        self._journey = journey
        self._broker = broker
        self._tell = tell
        self._at = timedelta(0)
        self._travels = ExitStack()

    def live(self, step: int) -> None:
        """Go through the journey from a step on."""
        for number in range(step, len(self._journey.steps)):
            now = self._journey.steps[number]
            self.wait_until(now.at)
            self._tell(step=number, at=self._at.total_seconds())
            now.act()
            self.settle()

    def leave(self) -> None:
        """Come back to the present."""
        self._travels.close()

    def wait_until(self, at: timedelta) -> None:
        if at > self._at:
            self._travels.enter_context(clock.travel(at - self._at))
            self._at = at
            self._tell(at=at.total_seconds())

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
