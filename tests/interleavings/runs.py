"""Running seeds: operations, rest, invariants; and of a failing seed the shortest sequence."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from pm_celery.registry import isolated_registries
from tests.interleavings.invariants import broken
from tests.interleavings.operations import Operation, operations_of, options_of
from tests.interleavings.subject import declare
from tests.interleavings.together import Endless, Pair
from tests.interleavings.world import forget_rows, world

_MOST_TRIALS = 150


@dataclass
class Failed:
    """A seed that failed: its options, the shortest sequence that still fails, and what is wrong."""

    seed: int
    options: dict[str, Any]
    operations: list[Operation]
    drawn: int
    problems: list[str]

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed} breaks what must be true; {len(self.operations)} operations of "
            f"{self.drawn} are enough, with {self.options}:",
            *(f"    {operation!r}," for operation in self.operations),
            *(f"  {problem}" for problem in self.problems[:10]),
        ]
        return "\n".join(lines)


class Runs(ExitStack):
    """Runs seeds one after the other in the database that is there."""

    def __enter__(self) -> Self:
        # Dead letters are what is wanted here; a log line for each is not.
        self.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        self.enter_context(isolated_registries())
        self.events = declare()
        self.pair = Pair()
        self.callback(self.pair.close)
        self.most_rounds = self.most_statements = 0
        return self

    def seed(self, seed: int, how_many: int, *, obedient: bool = False) -> Failed | None:
        options = options_of(seed, obedient=obedient)
        operations = operations_of(seed, how_many, obedient=obedient)
        problems = self.problems(options, operations)
        if not problems:
            return None
        shortest = shortened(operations, lambda some: bool(self.problems(options, some)))
        return Failed(
            seed, options, shortest, how_many, self.problems(options, shortest) or problems
        )

    def problems(self, options: dict[str, Any], operations: list[Operation]) -> list[str]:
        """What is wrong after these operations, from an empty database on."""
        forget_rows()
        with world(options, self.events, self.pair) as made:
            try:
                for operation in operations:
                    made.apply(operation)
                    if options["obedient"] and (found := made.forgotten()):
                        return ["every message was obeyed, and this is due:", *found]
                if options["obedient"]:
                    made.apply(["resume"])
                    made.obey_all()
                    return made.forgotten() + broken(made, after_timeouts=False)
                made.settle(to_the_end=options["to_the_end"])
                self.most_rounds = max(self.most_rounds, made.rounds)
                self.most_statements = max(self.most_statements, self.pair.statements)
                return broken(made, after_timeouts=options["to_the_end"])
            except (Exception, Endless) as error:  # noqa: BLE001 -- that is a finding as well
                return [f"{type(error).__name__}: {error}", traceback.format_exc()]


def shortened(
    operations: list[Operation], fails: Callable[[list[Operation]], bool]
) -> list[Operation]:
    """The shortest sequence that is found to fail still, by leaving out more and more of it."""
    trials = 0

    def still_fails(some: list[Operation]) -> bool:
        nonlocal trials
        trials += 1
        return trials <= _MOST_TRIALS and fails(some)

    size = max(len(operations) // 2, 1)
    while True:
        left_out = False
        at = 0
        while at < len(operations):
            some = operations[:at] + operations[at + size :]
            if still_fails(some):
                operations, left_out = some, True
            else:
                at += size
        if size > 1:
            size //= 2
        elif not left_out:
            break
    at = 0
    while at < len(operations):
        for simpler in _simpler(operations[at]):
            some = [*operations[:at], simpler, *operations[at + 1 :]]
            if still_fails(some):
                operations = some
                break
        else:
            at += 1
    return operations


def _simpler(operation: Operation) -> list[Operation]:
    name, *rest = operation
    if name == "publish":
        events, commits = rest
        return [[name, some, commits] for some in _one_fewer(events)]
    if name == "together":
        first, turns, second = rest
        return [
            *(first, *second),
            *([name, first, turns, some] for some in _one_fewer(second)),
            *([name, some, turns, second] for some in _simpler(first)),
            *([name, first, [*some, turns[-1]], second] for some in _one_fewer(turns[:-1])),
            *(
                [name, first, turns, [*second[:n], some, *second[n + 1 :]]]
                for n, operation in enumerate(second)
                for some in _simpler(operation)
            ),
        ]
    return []


def _one_fewer(some: list[Any]) -> list[list[Any]]:
    return [some[:n] + some[n + 1 :] for n in range(len(some))] if len(some) > 1 else []
