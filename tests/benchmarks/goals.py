"""What pm_celery is to reach, as ratios within one run of the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import ge, le

from tests.benchmarks.names import (
    AWAKE,
    BARE,
    BY_HAND,
    DELAY,
    ENGINE,
    FLOOR,
    LISTENING,
    NOTIFYING,
    PM_CELERY,
    SEVERAL,
    WAKING,
)
from tests.benchmarks.results import Summary

__all__ = ["Outcome", "outcomes"]


class _Found:
    """Figures by scenario and variant. Raises ``KeyError`` for what did not run."""

    def __init__(self, summaries: Iterable[Summary]) -> None:
        self._summaries = {(s.scenario, s.variant): s for s in summaries}

    def rate(self, scenario: str, variant: str) -> float:
        return self._summaries[scenario, variant].rate

    def seconds(self, scenario: str, variant: str) -> float:
        summary = self._summaries[scenario, variant]
        return summary.events / summary.rate

    def figure(self, scenario: str, variant: str, name: str) -> float:
        return self._summaries[scenario, variant].figures[name]


@dataclass(frozen=True)
class _Goal:
    title: str
    at_least: bool
    bound: float
    unit: str
    measure: Callable[[_Found], float]


@dataclass(frozen=True)
class Outcome:
    """A goal, and what was measured; ``value`` is None where its scenarios did not run."""

    title: str
    wanted: str
    found: str
    value: float | None
    reached: bool | None

    @property
    def verdict(self) -> str:
        return {True: "reached", False: "missed", None: "not measured"}[self.reached]


def _backlog(variant: str, beside: str) -> Callable[[_Found], float]:
    return lambda found: found.rate("backlog", variant) / found.rate("backlog", beside)


def _stream(variant: str) -> Callable[[_Found], float]:
    return lambda found: found.rate("stream", variant) / found.rate("stream", BY_HAND)


def _latency(percentile: str, variant: str) -> Callable[[_Found], float]:
    return lambda found: (
        found.figure("latency", variant, percentile) / found.figure("latency", BY_HAND, percentile)
    )


def _cost(variant: str) -> Callable[[_Found], float]:
    return lambda found: (
        found.figure("publish_cost", variant, "added")
        / found.figure("publish_cost", DELAY, "added")
    )


_GOALS = (
    _Goal("engine, beside by hand", True, 40, "x", _backlog(ENGINE, BY_HAND)),
    _Goal("engine, beside bare tasks", True, 10, "x", _backlog(ENGINE, BARE)),
    _Goal("engine, beside the floor", True, 0.5, "x", _backlog(ENGINE, FLOOR)),
    _Goal("one command to a message, beside by hand", True, 3, "x", _backlog(PM_CELERY, BY_HAND)),
    _Goal("50 commands to a message, beside by hand", True, 15, "x", _backlog(SEVERAL, BY_HAND)),
    _Goal("stream, beside by hand", True, 2.5, "x", _stream(PM_CELERY)),
    _Goal("stream, 50 commands to a message", True, 2.5, "x", _stream(SEVERAL)),
    _Goal("stream, with a listener", True, 2.5, "x", _stream(LISTENING)),
    _Goal("latency p50, beside by hand", False, 1, "x", _latency("p50", PM_CELERY)),
    _Goal("latency p50, with a listener", False, 1, "x", _latency("p50", LISTENING)),
    _Goal("latency p99, beside by hand", False, 1, "x", _latency("p99", PM_CELERY)),
    _Goal("latency p99, with a listener", False, 1, "x", _latency("p99", LISTENING)),
    _Goal("publish with a wake-up, beside delay", False, 1.5, "x", _cost(WAKING)),
    _Goal("publish, with a listener", False, 1.5, "x", _cost(NOTIFYING)),
    _Goal("publish, wake-up outstanding, beside delay", False, 0.8, "x", _cost(AWAKE)),
    _Goal(
        "publish_many",
        True,
        20_000,
        " events/s",
        lambda found: found.rate("publish_many", PM_CELERY),
    ),
    _Goal("replay", False, 45, " s", lambda found: found.seconds("replay", PM_CELERY)),
)


def outcomes(summaries: Iterable[Summary]) -> list[Outcome]:
    """Every goal with what was measured."""
    found = _Found(summaries)
    return [_outcome(goal, found) for goal in _GOALS]


def _outcome(goal: _Goal, found: _Found) -> Outcome:
    sign, compare = ("≥", ge) if goal.at_least else ("≤", le)
    wanted = f"{sign} {goal.bound:,g}{goal.unit}"
    try:
        value = goal.measure(found)
    except KeyError:
        return Outcome(goal.title, wanted, "", None, None)
    digits = 0 if value >= 1000 else 1 if value >= 10 else 2
    measured = f"{value:,.{digits}f}{goal.unit}"
    return Outcome(goal.title, wanted, measured, value, compare(value, goal.bound))
