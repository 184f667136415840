"""Results of runs, and what several rounds say together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from tests.benchmarks.cpu import Meter

__all__ = ["CheckFailed", "Result", "Summary", "metered", "summaries"]


class CheckFailed(Exception):
    """A run was wrong, however quick; the message says what was expected and what was found."""


@dataclass(frozen=True)
class Result:
    """One run, checked.

    cpu: milliseconds for each event, by group of processes. figures: what else the scenario measures.
    """

    scenario: str
    variant: str
    round: int
    events: int
    seconds: float
    cpu: Mapping[str, float]
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Events in a second."""
        return self.events / self.seconds

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "rate": self.rate}


@dataclass(frozen=True)
class Summary:
    """The medians of one variant's rounds, with the range of its rates."""

    scenario: str
    variant: str
    rounds: int
    events: int
    rate: float
    lowest: float
    highest: float
    cpu: Mapping[str, float]
    figures: Mapping[str, float]

    @property
    def cpu_sum(self) -> float:
        return sum(self.cpu.values())

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def metered(
    scenario: str,
    variant: str,
    number: int,
    events: int,
    meter: Meter,
    *,
    figures: Mapping[str, float] | None = None,
) -> Result:
    """A result with the meter's seconds and CPU."""
    return Result(
        scenario,
        variant,
        number,
        events,
        meter.seconds,
        {name: 1000 * seconds / events for name, seconds in meter.cpu.items()},
        {**(figures or {}), "other_cores": meter.others},
    )


def summaries(results: Iterable[Result]) -> list[Summary]:
    """One for each scenario and variant, in the order in which they first ran."""
    runs: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        runs.setdefault((result.scenario, result.variant), []).append(result)
    return [_summary(*key, found) for key, found in runs.items()]


def _summary(scenario: str, variant: str, runs: list[Result]) -> Summary:
    rates = [run.rate for run in runs]
    return Summary(
        scenario,
        variant,
        len(runs),
        runs[0].events,
        median(rates),
        min(rates),
        max(rates),
        _medians([run.cpu for run in runs]),
        _medians([run.figures for run in runs]),
    )


def _medians(runs: list[Mapping[str, float]]) -> dict[str, float]:
    return {name: median(run[name] for run in runs) for name in runs[0]}
