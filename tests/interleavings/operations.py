"""Operations, drawn from a seed: a list of plain lists, so that it can be printed, cut and run again.

An operation names what it is about by a key, or by a number that is taken modulo what there is; so it
means something whatever is left out before it.
"""

from __future__ import annotations

from random import Random
from typing import Any

from tests.interleavings.subject import KEYS, LANES, MAY_FAIL

Operation = list[Any]

COMMON = 16
_JUMPS = [0.05, 0.25, 1.0, 2.0, 6.0, 25.0, 60.0, 700.0]
_WISHES = ["set a 5", "set a 60", "set b 30", "unset a", "unset b", "send", "delay 20", "unsend"]
_WORDS = {"opened": 28, "poked": 42, "early": 14, "strict": 6, "closed": 10}

_WEIGHTS = {
    "publish": 24,
    "again": 4,
    "advance": 10,
    "deliver": 20,
    "lose": 3,
    "double": 3,
    "tick": 5,
    "run": 3,
    "poison": 6,
    "heal": 1,
    "retry": 5,
    "discard": 3,
    "cancel": 2,
    "time_out": 1,
    "complete": 1,
    "cancel_timer": 2,
    "fire_timer": 2,
    "move_timer": 2,
    "pause": 2,
    "resume": 5,
    "jump": 7,
    "together": 8,
    "meet": 8,
}
# Nothing fails, nothing is lost, and time stands nearly still: then no tick is needed.
_OBEDIENT = {
    "publish": 20,
    "again": 3,
    "advance": 15,
    "deliver": 20,
    "double": 2,
    "run": 3,
    "cancel": 3,
    "time_out": 2,
    "cancel_timer": 3,
    "fire_timer": 2,
    "pause": 1,
    "resume": 4,
    "jump": 3,
    "rest": 8,
    "together": 15,
    "meet": 15,
}
_MAY_BE_FIRST = {"publish", "advance", "deliver", "tick", "run", "retry", "discard", "cancel"} | {
    *("pause", "resume"),
}
_MAY_BE_SECOND = (
    _MAY_BE_FIRST
    | {
        *(
            "again",
            "cancel_timer",
            "time_out",
            "jump",
            "double",
            "fire_timer",
            "move_timer",
            "complete",
        ),
    }
) - {"together"}
_MEETS = {
    "advance": 12,
    "deliver": 4,
    "publish": 6,
    "tick": 1,
    "cancel": 2,
    "time_out": 2,
    "cancel_timer": 2,
    "fire_timer": 1,
    "retry": 2,
    "discard": 2,
    "pause": 2,
    "resume": 3,
}


def options_of(seed: int, *, obedient: bool = False) -> dict[str, Any]:
    """The settings of a seed: small batches and short turns are what makes workers meet."""
    random = Random(f"options {seed} {obedient}")
    return {
        "BATCH_SIZE": random.choice([4, 4, 8, 500]),
        "BATCH_SECONDS": random.choice([1e-9, 1e6, 1e6, 1e6]),
        "ADVANCE_SECONDS": random.choice([1e-9, 1e6, 1e6]),
        "COMMANDS_PER_MESSAGE": random.choice([1, 1, 5]),
        "slow": random.random() < 0.2,
        "to_the_end": random.random() < 0.3,
        "obedient": obedient,
    }


def operations_of(seed: int, how_many: int, *, obedient: bool = False) -> list[Operation]:
    random = Random(f"operations {seed} {obedient}")
    return _Draw(random, obedient).operations(how_many)


class _Draw:
    def __init__(self, random: Random, obedient: bool) -> None:
        self.random = random
        self.obedient = obedient
        self.weights = _OBEDIENT if obedient else _WEIGHTS
        # In some seeds there is one instance that everything happens to.
        self.keys = random.choice([KEYS, KEYS[:4] if obedient else KEYS, KEYS[:2], KEYS[:1]])
        self.events: list[list[Any]] = []

    def operations(self, how_many: int) -> list[Operation]:
        drawn: list[Operation] = []
        while len(drawn) < how_many:
            operation = self.operation(self.weights)
            if operation[0] == "meet":
                # Something for them to meet at.
                drawn.append(["publish", [self._event(operation.pop())], True])
                operation[0] = "together"
            drawn.append(operation)
            if self.obedient and operation[0] == "together" and self.random.random() < 0.7:
                # When every message is obeyed, nothing may be due.
                drawn.append(["rest"])
        return drawn[:how_many]

    def operation(self, weights: dict[str, int]) -> Operation:
        names = list(weights)
        name = self.random.choices(names, [weights[n] for n in names])[0]
        return [name, *getattr(self, f"_{name}", self._number)()]

    def _of(self, weights: dict[str, int]) -> Operation:
        return self.operation({name: w for name, w in weights.items() if name in self.weights})

    def _number(self) -> list[Any]:
        return [self.random.randrange(100)]

    def _key(self) -> str:
        return self.random.choice(self.keys)

    def _event(self, key: str | None = None) -> list[Any]:
        random = self.random
        word = random.choices(list(_WORDS), list(_WORDS.values()))[0]
        if self.obedient and word == "strict":
            word = "poked"
        wishes = ["send", "set a 60"] if self.obedient else _WISHES
        do = random.sample(wishes, min(len(wishes), random.choice([0, 0, 1, 2])))
        if random.random() < 0.04:
            do.append(random.choice(["ignore", "complete"]))
        event = [f"e{len(self.events)}", word, key or self._key(), do]
        self.events.append(event)
        return event

    def _publish(self) -> list[Any]:
        several = self.random.choice([1, 1, 1, 1, 2, 4])
        rolled_back = self.random.random() < 0.05
        return [[self._event() for _ in range(several)], not rolled_back]

    def _again(self) -> list[Any]:
        return [[self.random.choice(self.events)] if self.events else [], True]

    def _advance(self) -> list[Any]:
        return [self.random.choice([COMMON, COMMON, *LANES])]

    def _tick(self) -> list[Any]:
        return []

    _heal = _rest = _pause = _resume = _tick

    def _poison(self) -> list[Any]:
        times = self.random.choice([1, 1, 2, 2, 3, 4, 99])
        return [f"{self.random.choice(MAY_FAIL)} {self._key()}", times]

    def _discard(self) -> list[Any]:
        return [self.random.randrange(100), self.random.random() < 0.6]

    def _cancel(self) -> list[Any]:
        return [self._key()]

    _time_out = _complete = _cancel

    def _jump(self) -> list[Any]:
        return [self.random.choice(_JUMPS[:2] if self.obedient else _JUMPS)]

    def _meet(self) -> list[Any]:
        """Two at one instance; and that one's key."""
        everybody, key = self.keys, self._key()
        self.keys = [key]
        first, turns, second = self._pair(_MEETS, _MEETS)
        self.keys = everybody
        if self.random.random() < 0.5:
            second.append(["rest"])
        return [first, turns, second, key]

    def _together(self) -> list[Any]:
        weights = {name: w for name, w in self.weights.items() if name in _MAY_BE_SECOND}
        return self._pair({n: w for n, w in weights.items() if n in _MAY_BE_FIRST}, weights)

    def _pair(self, may_be_first: dict[str, int], may_be_second: dict[str, int]) -> list[Any]:
        first = self._of(may_be_first)
        second = [self._of(may_be_second) for _ in range(self.random.choice([1, 1, 2, 3]))]
        several = self.random.choice([1, 1, 3, 3, 5])
        turns = [self.random.randint(1, 14 if several == 1 else 5) for _ in range(several)]
        return [first, [*turns, 99], second]
