"""What must hold after every step of an exploration, and how it is told what did not."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from pm_celery.testing.exploration.source import Source
from pm_celery.testing.exploration.steps import Step
from pm_celery.testing.memory.instance import Memory
from pm_celery.testing.memory.views import command_of
from pm_celery.testing.scenario import Scenario

__all__ = ["Checks", "Found", "Invariant", "never_ends", "raised"]

Invariant = Callable[[Scenario[Any]], object]


@dataclass(slots=True)
class Found:
    """What must not be.

    key: what is found again by other ways has the same.
    what: in words.
    after: the lines that assert it, after the steps of a test.
    """

    kind: str
    key: Hashable
    what: str
    after: Callable[[Source], list[str]]
    steps: list[Step] = field(default_factory=list)


class Checks:
    """The invariants, and the commands of which no two equal ones may be sent."""

    def __init__(self, once: frozenset[str], invariants: list[Invariant]) -> None:
        self._once = once
        self._invariants = invariants

    def broken(self, scenario: Scenario[Any]) -> Found | None:
        """What does not hold after a step."""
        if self._once:
            found = self._sent_twice(scenario)
            if found is not None:
                return found
        for number, invariant in enumerate(self._invariants):
            try:
                holds, words = invariant(scenario) is not False, ""
            except AssertionError as error:
                # The first line: pytest adds what it knows of the values.
                holds, words = False, f": {error}".splitlines()[0].rstrip(": ")
            if not holds:
                return _broken(number, invariant, words)
        return None

    def _sent_twice(self, scenario: Scenario[Any]) -> Found | None:
        issued = scenario.issued
        if not issued:
            return None
        rows = [sent.row for sent in scenario.memory.outbox.values()]
        before = rows[: len(rows) - len(issued)]
        seen = {(row.name, row.payload) for row in before if row.status != "cancelled"}
        for row in (sent.row for sent in issued):
            known = row.name, row.payload
            if row.name in self._once and known in seen:
                return _twice(row.name, command_of(row))
            seen.add(known)
        return None


def _broken(number: int, invariant: Invariant, words: str) -> Found:
    name = getattr(invariant, "__name__", repr(invariant))

    def after(source: Source) -> list[str]:
        return [f"assert {source.name(invariant)}(instance) is not False"]

    return Found("invariant", ("invariant", number), f"{name} does not hold{words}", after)


def _twice(name: str, command: object) -> Found:
    def after(source: Source) -> list[str]:
        return [f"assert instance.sent.count({source.value(command)}) <= 1"]

    return Found("once", ("once", name), f"{command!r} is sent twice", after)


def raised(error: Exception) -> Found:
    """A handler has raised what it was not to."""
    words = f"{type(error).__name__}: {error}"
    return Found("raises", ("raises", words), f"A handler raises {words}", lambda _: [])


def never_ends(memory: Memory, steps: list[Step]) -> Found:
    """Nothing that is sure to come ends this."""
    left = max(memory.due(), default=memory.now) - memory.now

    def after(source: Source) -> list[str]:
        lines = ["# Nothing that is sure to come ends it."]
        lines += [f"instance.elapse({source.value(left)})"] if left else []
        return [*lines, "assert instance.has_ended"]

    what = "It never ends: no timer, no timeout and no event that is sure to come ends it"
    return Found("ends", "ends", what, after, steps)
