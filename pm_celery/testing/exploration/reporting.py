"""What an exploration has found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Broken", "Report", "Violation"]


@dataclass(frozen=True)
class Violation:
    """Something that must not be, by the shortest way that leads to it.

    kind: raises, invariant, once, or ends.
    what: in a sentence.
    steps: how many it takes.
    test: the text of a test that takes them, and fails.
    """

    kind: str
    what: str
    steps: int
    test: str


@dataclass(frozen=True)
class Report:
    """What was explored, and what was found.

    states, transitions: how many different states were seen, and how many steps between them.
    longest: how many steps it takes to the state that is farthest away.
    is_complete: False if it ended at ``most_states``.
    reached, unreached: the process's handlers that ran, and those that never did.
    violations: the shortest way to each thing that must not be, the shortest one first.
    seconds: what it took.
    """

    process: str
    states: int
    transitions: int
    longest: int
    is_complete: bool
    reached: Sequence[str]
    unreached: Sequence[str]
    violations: Sequence[Violation]
    seconds: float

    def assert_ok(self) -> None:
        """Raise ``Broken`` if anything was found that must not be."""
        __tracebackhide__ = True
        if self.violations:
            raise Broken(self)

    def __str__(self) -> str:
        complete = "" if self.is_complete else ", and stopped at its bound: there is more"
        lines = [
            f"{self.process}: {self.states:,} states and {self.transitions:,} steps between them, at most "
            f"{self.longest} in a row, in {self.seconds:.1f} s{complete}.",
        ]
        if self.unreached:
            lines.append(f"Never reached: {', '.join(self.unreached)}.")
        for violation in self.violations:
            lines += ["", f"{violation.what} ({violation.steps} steps)", "", violation.test]
        if not self.violations:
            lines.append("Nothing was found that must not be.")
        return "\n".join(lines)


class Broken(AssertionError):
    """An exploration has found what must not be; ``report`` tells."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report
