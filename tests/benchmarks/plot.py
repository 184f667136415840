"""Plots of a benchmark: ``python -m tests.benchmarks.plot build/bench.json docs/images/``.

The same JSON gives the same SVG, byte for byte. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.benchmarks import names

__all__ = ["draw"]

Median = dict[str, Any]

# Readable on white and on black alike, as is everything else here: the background is left open.
_INK = "#808080"
_OURS, _THEIRS = "#2f9e77", "#8d99ae"
_GROUPS = {
    "publisher": "#e0a030",
    "workers": "#2f9e77",
    "database": "#4f7fd0",
    "broker": "#c05070",
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pm_celery",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}


def draw(source: Path, folder: Path) -> list[Path]:
    """Draw what a benchmark's JSON has; the files."""
    medians: list[Median] = json.loads(source.read_text())["medians"]
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with matplotlib.rc_context(_STYLE):
        for name, (scenario, paint) in _PLOTS.items():
            rows = [row for row in medians if row["scenario"] == scenario]
            if not rows:
                continue
            figure = Figure(figsize=(7.5, 0.75 + 0.45 * len(rows)), layout="constrained")
            paint(figure.subplots(), rows)
            path = folder / f"bench-{name}.svg"
            figure.savefig(path, transparent=True, metadata={"Date": None})
            drawn.append(path)
    return drawn


def _rates(axes: Axes, rows: Sequence[Median]) -> None:
    """Events a second, on a logarithmic axis."""
    rows = sorted(rows, key=lambda row: row["rate"])
    bars = axes.barh(
        [row["variant"] for row in rows],
        [row["rate"] for row in rows],
        color=[_colour(row) for row in rows],
    )
    axes.bar_label(bars, [f"{row['rate']:,.0f}" for row in rows], padding=4)
    axes.set_xscale("log")
    # A logarithmic axis begins nowhere by itself; the shortest bar is to be seen.
    axes.set_xlim(rows[0]["rate"] / 3, rows[-1]["rate"] * 3)
    _finish(axes, "events/s")


def _latency(axes: Axes, rows: Sequence[Median]) -> None:
    """p50 as a bar, p99 as a paler one behind it."""
    rows = list(reversed(rows))
    labels = [row["variant"] for row in rows]
    p50, p99 = ([row["figures"][name] for row in rows] for name in ("p50", "p99"))
    colours = [_colour(row) for row in rows]
    axes.barh(labels, p50, color=colours)
    behind = axes.barh(labels, p99, color=colours, alpha=0.35)
    texts = [f"p50 {low:.1f}, p99 {high:.1f}" for low, high in zip(p50, p99, strict=True)]
    axes.bar_label(behind, texts, padding=4)
    axes.set_xlim(right=max(p99) * 1.35)
    _finish(axes, "ms from publishing to the start of the command")


def _cpu(axes: Axes, rows: Sequence[Median]) -> None:
    """CPU of an event, stacked by group of processes."""
    rows = list(reversed(rows))
    labels = [row["variant"] for row in rows]
    left = [0.0] * len(rows)
    for group, colour in _GROUPS.items():
        widths = [row["cpu"].get(group, 0.0) for row in rows]
        if any(widths):
            bars = axes.barh(labels, widths, left=left, color=colour, label=group)
            left = [before + width for before, width in zip(left, widths, strict=True)]
    axes.bar_label(bars, [f"{total:.2f}" for total in left], padding=4)
    axes.set_xlim(right=max(left) * 1.15)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(_GROUPS))
    _finish(axes, "CPU ms for each event")


def _colour(row: Median) -> str:
    return _OURS if row["variant"].startswith(names.PM_CELERY) else _THEIRS


def _finish(axes: Axes, label: str) -> None:
    axes.set_xlabel(label)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


_PLOTS: dict[str, tuple[str, Callable[[Axes, Sequence[Median]], None]]] = {
    "backlog": ("backlog", _rates),
    "backlog-cpu": ("backlog", _cpu),
    "stream": ("stream", _rates),
    "stream-cpu": ("stream", _cpu),
    "latency": ("latency", _latency),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.plot", description="Draw a benchmark's JSON as SVG."
    )
    parser.add_argument("source", type=Path, help="what --json wrote")
    parser.add_argument("folder", type=Path, help="where the plots go")
    options = parser.parse_args()
    for path in draw(options.source, options.folder):
        print(path)  # noqa: T201 -- a command that says what it wrote


if __name__ == "__main__":
    main()
