"""The monkey: what is broken, when, and how often."""

from __future__ import annotations

import random
import time
from collections import Counter

from tests.chaos.crew import Crew, Member
from tests.chaos.stage import Stage
from tests.servers import Server

__all__ = ["KINDS", "Monkey"]

# By kind, how often it befalls, of a hundred. The first letters say whom.
KINDS = {
    "child killed": 34,
    "worker killed": 14,
    "worker asked to end": 10,
    "Beat killed": 6,
    "broker emptied": 14,
    "broker restarted": 9,
    "database restarted": 13,
}
_SHORTEST_DOWN, _LONGEST_DOWN = 0.0, 1.5


class Monkey:
    """Breaks one thing after another; each kind once before any comes again, and then by chance."""

    def __init__(self, stage: Stage, crew: Crew, seed: int, pause: float) -> None:
        self._stage = stage
        self._crew = crew
        self._chance = random.Random(seed)
        self._pause = pause
        self._first = list(KINDS)
        self._chance.shuffle(self._first)
        self._next_at = time.monotonic() + pause
        self.done: Counter[str] = Counter()
        self.messages_taken = 0
        self.last = "nothing"
        self.last_at = time.monotonic()

    def play(self) -> None:
        """Break something, if it is time for it."""
        if time.monotonic() < self._next_at:
            return
        kind = self._choose()
        if self._break(kind):
            self.done[kind] += 1
            self.last, self.last_at = kind, time.monotonic()
        else:
            # Not now: it is down already. The kind's turn comes again.
            self._first.insert(0, kind)
        self._next_at = time.monotonic() + self._chance.uniform(0.3, 1.7) * self._pause

    def _choose(self) -> str:
        if self._first:
            return self._first.pop(0)
        return self._chance.choices(list(KINDS), list(KINDS.values()))[0]

    def _break(self, kind: str) -> bool:
        match kind:
            case "child killed":
                return self._crew.kill_child(self._one(is_worker=True), self._chance)
            case "worker killed":
                return self._crew.kill(self._one(is_worker=True))
            case "worker asked to end":
                return self._crew.ask_to_stop(self._one(is_worker=True))
            case "Beat killed":
                return self._crew.kill(self._one(is_worker=False))
            case "broker emptied":
                self.messages_taken += self._stage.empty_broker()
            case "broker restarted":
                self._restart(self._stage.broker)
            case "database restarted":
                self._restart(self._stage.postgres)
        return True

    def _restart(self, server: Server) -> None:
        server.crash()
        time.sleep(self._chance.uniform(_SHORTEST_DOWN, _LONGEST_DOWN))
        server.resume()

    def _one(self, *, is_worker: bool) -> Member:
        members = [member for member in self._crew.members if member.is_worker == is_worker]
        if is_worker:
            # One that has just begun is left to come up, where there is another: else nothing ever runs.
            members = [member for member in members if self._crew.is_ready(member)] or members
        return self._chance.choice(members)
