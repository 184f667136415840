"""The report: a table for people, and every run as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.goals import Outcome, outcomes
from tests.benchmarks.names import BARE, BY_HAND, DELAY, FLOOR
from tests.benchmarks.results import Result, Summary, summaries
from tests.benchmarks.stage import Stage
from tests.benchmarks.tables import aligned

__all__ = ["about", "line", "text", "write_json"]

# More than this, in cores, and a run counts as disturbed.
_OTHERS = 0.25
_GROUPS = ("publisher", "workers", "database", "broker")
_BESIDE = (BY_HAND, BARE, FLOOR)

_Column = tuple[str, Callable[[Summary], str]]


def about(stage: Stage, orders: int, rounds: int) -> dict[str, Any]:
    """What the figures depend on."""
    import celery
    import django

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "django": django.get_version(),
        "celery": celery.__version__,
        "database": stage.database_version(),
        "redis": stage.redis_version(),
        "cores": os.cpu_count(),
        "orders": orders,
        "rounds": rounds,
    }


def line(result: Result) -> str:
    """One run, for who watches."""
    figures = " ".join(
        f"{name}={value:,.2f}" for name, value in result.figures.items() if name != "other_cores"
    )
    others = result.figures.get("other_cores", 0.0)
    disturbed = f" (others used {others:.1f} cores)" if others > _OTHERS else ""
    return (
        f"{result.scenario} round {result.round}: {result.variant}: {result.events:,} events in "
        f"{result.seconds:.2f} s, {result.rate:,.0f} events/s {figures}{disturbed}"
    )


def write_json(path: Path, results: Sequence[Result], about: dict[str, Any]) -> None:
    """Every run, the medians and the goals."""
    found = summaries(results)
    document = {
        "about": about,
        "medians": [summary.as_json() for summary in found],
        "goals": [dataclasses.asdict(outcome) for outcome in outcomes(found)],
        "runs": [result.as_json() for result in results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def text(results: Sequence[Result], about: dict[str, Any]) -> str:
    """The tables, and the goals."""
    found = summaries(results)
    parts = ["\n" + ", ".join(f"{name} {value}" for name, value in about.items())]
    for scenario in dict.fromkeys(summary.scenario for summary in found):
        rows = [summary for summary in found if summary.scenario == scenario]
        parts.append(f"{_TITLES[scenario]}\n\n{_table(rows, _COLUMNS[scenario](rows))}")
    disturbed = sum(run.figures.get("other_cores", 0.0) > _OTHERS for run in results)
    if disturbed:
        parts.append(
            f"In {disturbed} of {len(results)} runs other work used more than {_OTHERS} cores: "
            "their figures are worth less."
        )
    parts.append(f"Goals, set for PostgreSQL\n\n{_goals(outcomes(found))}")
    return "\n\n".join(parts) + "\n"


# -- columns ----------------------------------------------------------------------------------------


def _rates(rows: Sequence[Summary]) -> list[_Column]:
    columns: list[_Column] = [
        ("events", lambda row: f"{row.events:,}"),
        ("events/s", lambda row: f"{row.rate:,.0f}"),
    ]
    if any(row.rounds > 1 for row in rows):
        columns.append(("from … to", lambda row: f"{row.lowest:,.0f} … {row.highest:,.0f}"))
    return columns


def _ratios(rows: Sequence[Summary]) -> list[_Column]:
    rates = {row.variant: row.rate for row in rows}
    return [
        (f"x {name.partition(':')[0]}", lambda row, beside=rates[name]: f"{row.rate / beside:.2f}")
        for name in _BESIDE
        if name in rates
    ]


def _cpu(rows: Sequence[Summary]) -> list[_Column]:
    groups = [name for name in _GROUPS if any(name in row.cpu for row in rows)]
    columns: list[_Column] = [("CPU ms/event", lambda row: f"{row.cpu_sum:.3f}")]
    columns += [(name, lambda row, name=name: f"{row.cpu.get(name, 0.0):.3f}") for name in groups]
    return columns


def _figures(*names_and_titles: tuple[str, str, str]) -> list[_Column]:
    return [
        (title, lambda row, name=name, form=form: format(row.figures[name], form))
        for name, title, form in names_and_titles
    ]


_TITLES = {
    "backlog": "Backlog: there before the clock starts; one worker, two processes",
    "stream": "Stream: two publishers, one event to a transaction; two workers, two processes each",
    "latency": "Latency at 50 events/s, from publishing to the start of the command",
    "publish_cost": "What publishing adds to a transaction that writes a row",
    "publish_many": "One call of publish_many",
    "replay": "A real event log",
}

_COLUMNS: dict[str, Callable[[Sequence[Summary]], list[_Column]]] = {
    "backlog": lambda rows: [*_rates(rows), *_ratios(rows), *_cpu(rows)],
    "stream": lambda rows: [
        *_rates(rows),
        *_ratios(rows),
        *_figures(
            ("published_per_second", "published/s", ",.0f"),
            ("waiting_at_most", "waiting at most", ",.0f"),
            ("drained_in", "drained in s", ".2f"),
            ("retries", "too early", ",.0f"),
        ),
        *_cpu(rows),
    ],
    "latency": lambda rows: [
        *_figures(("p50", "p50 ms", ".1f"), ("p99", "p99 ms", ".1f")),
        *_cpu(rows),
    ],
    "publish_cost": lambda rows: [
        *_figures(("p50", "p50 ms", ".2f"), ("added", "added ms", ".2f")),
        *_times_delay(rows),
        ("CPU ms", lambda row: f"{row.cpu_sum:.2f}"),
    ],
    "publish_many": lambda rows: [*_rates(rows), *_cpu(rows)],
    "replay": lambda rows: [
        *_rates(rows),
        ("seconds", lambda row: f"{row.events / row.rate:.1f}"),
    ],
}


def _times_delay(rows: Sequence[Summary]) -> list[_Column]:
    delay = next(row for row in rows if row.variant == DELAY).figures["added"]
    return [("x delay", lambda row: f"{row.figures['added'] / delay:.2f}")]


# -- tables -----------------------------------------------------------------------------------------


def _table(rows: Sequence[Summary], columns: Sequence[_Column]) -> str:
    cells = [[row.variant, *(show(row) for _, show in columns)] for row in rows]
    return aligned(["", *(title for title, _ in columns)], cells)


def _goals(found: Iterable[Outcome]) -> str:
    rows = [[goal.title, goal.wanted, goal.found, goal.verdict] for goal in found]
    return aligned(["", "goal", "measured", ""], rows)
