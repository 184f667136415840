"""The monkey: what is broken, when, and how often."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence

from tests.chaos.crew import Crew, Member
from tests.chaos.stage import Stage
from tests.servers import Server

__all__ = ["KINDS", "Monkey"]

# By kind, how often it befalls, of a hundred.
KINDS = {
    "child killed": 40,
    "worker killed": 17,
    "worker asked to end": 12,
    "Beat killed": 8,
    "broker emptied": 8,
    "broker restarted": 5,
    "database restarted": 10,
}
_FINALE = ("database restarted", "broker restarted", "worker killed", "broker emptied")
# How often the only worker that is up is not spared.
_LAST_ONE_TOO = 0.1
# For how long a server is down, in seconds.
_SHORTEST_DOWN, _LONGEST_DOWN = 0.0, 1.5


class Monkey:
    """Breaks one thing after another; each kind once before any comes again, and then by chance."""

    def __init__(
        self, stage: Stage, crew: Crew, seed: int, pause: float, only: Sequence[str] = ()
    ) -> None:
        self._stage = stage
        self._crew = crew
        self._chance = random.Random(seed)
        self._pause = pause
        self._kinds = {kind: share for kind, share in KINDS.items() if not only or kind in only}
        self._first = list(self._kinds)
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
        if not self._do(kind):
            # Not now: it is down already. The kind's turn comes again.
            self._first.append(kind)
        self._next_at = time.monotonic() + self._chance.uniform(0.3, 1.7) * self._pause

    def bow_out(self) -> None:
        """End with the worst, so that the time to the quiet end is worth measuring."""
        for kind in _FINALE:
            if kind in self._kinds:
                self._do(kind)

    def _do(self, kind: str) -> bool:
        done = self._break(kind)
        if done:
            self.done[kind] += 1
            self.last, self.last_at = kind, time.monotonic()
        return done

    def _choose(self) -> str:
        if self._first:
            return self._first.pop(0)
        return self._chance.choices(list(self._kinds), list(self._kinds.values()))[0]

    def _break(self, kind: str) -> bool:
        match kind:
            case "child killed":
                return self._crew.kill_child(self._worker(), self._chance)
            case "worker killed":
                worker = self._worker()
                return self._may_end(worker) and self._crew.kill(worker)
            case "worker asked to end":
                worker = self._worker()
                return self._may_end(worker) and self._crew.ask_to_stop(worker)
            case "Beat killed":
                beats = [member for member in self._crew.members if not member.is_worker]
                return self._crew.kill(self._chance.choice(beats))
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

    def _worker(self) -> Member:
        workers = [member for member in self._crew.members if member.is_worker]
        # One that has just begun is left to come up: else nothing ever runs.
        ready = [worker for worker in workers if self._crew.is_ready(worker)]
        return self._chance.choice(ready or workers)

    def _may_end(self, worker: Member) -> bool:
        """Rarely all of them at once, for the same reason."""
        others = [member for member in self._crew.members if member.is_worker and member != worker]
        return any(map(self._crew.is_ready, others)) or self._chance.random() < _LAST_ONE_TOO
