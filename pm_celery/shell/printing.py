"""What is printed: lines, tables and JSON. Rows hold any text, so nothing reaches a terminal as it is."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from django.core.management.color import color_style, no_style, supports_color

from pm_celery.wording import one_line

__all__ = ["Bar", "Output", "ago", "as_it_is", "moment"]

# A column is cut to what the terminal leaves it, and to no less than so many characters.
_NARROWEST = 8
_NARROWEST_HEADER = 5
_GAP = "  "

_STYLES = {
    "SUCCESS": ("completed", "done", "handled", "ok"),
    "ERROR": ("failed", "dead", "open", "refused"),
    "WARNING": ("timed_out", "parked", "waiting", "unmatched", "paused", "pending", "discarded"),
}
_STYLE_OF = {word: style for style, words in _STYLES.items() for word in words}


def moment(at: datetime | None) -> str:
    """A moment in UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if at else ""


def ago(span: timedelta) -> str:
    """A span as a person says it: "3d 4h"."""
    seconds = int(span.total_seconds())
    if seconds < 0:
        return f"in {ago(-span)}"
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"


def as_it_is(text: str) -> str:
    return text


class Output:
    """Where results go: people get lines and tables, scripts (``--json``) one document or JSON Lines."""

    def __init__(
        self, out: Any, err: Any, *, as_json: bool, colour: bool | None, verbosity: int = 1
    ) -> None:
        """colour: None for colours on a terminal only."""
        self._out, self._err = out, err
        self.as_json = as_json
        self.is_quiet = verbosity == 0
        if colour is None:
            colour = out.isatty() and supports_color()
        self.style = color_style(force_color=True) if colour else no_style()
        self._width = shutil.get_terminal_size().columns if out.isatty() else None

    # -- for people -----------------------------------------------------------------------------

    def line(self, text: object = "", style: str = "") -> None:
        if not self.as_json and not self.is_quiet:
            self._write(self._styled(one_line(text), style))

    def note(self, text: object, style: str = "") -> None:
        """Something besides the result, on stderr."""
        if not self.is_quiet:
            self._err.write(one_line(text), self._style_of_errors(style))

    def block(self, text: str, indent: str = "  ") -> None:
        """Several lines, indented."""
        for line in text.splitlines():
            self.line(indent + line)

    def title(self, text: object) -> None:
        self.line()
        self.line(text, "MIGRATE_HEADING")

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table whose columns fit the terminal; in a pipe nothing is cut. Numbers stand to the right."""
        if self.as_json or self.is_quiet:
            return
        given = list(rows)
        cells = [[one_line("" if cell is None else cell) for cell in row] for row in given]
        right = [
            bool(given) and all(isinstance(row[at], int | float) for row in given)
            for at in range(len(headers))
        ]
        widths = [
            max([len(header), *(len(row[at]) for row in cells)])
            for at, header in enumerate(headers)
        ]
        needed = [max([0, *(len(row[at]) for row in cells)]) for at in range(len(headers))]
        self._fit(widths, needed)
        self._write(self._styled(self._row(headers, widths, right), "MIGRATE_LABEL"))
        for row in cells:
            self._write(self._row(row, widths, right, coloured=True))

    def _fit(self, widths: list[int], needed: list[int]) -> None:
        """needed: what the cells alone take. Of headers that are longer a part is enough."""
        if self._width is None:
            return
        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - self._width
        spare = [
            max(0, width - max(need, _NARROWEST_HEADER))
            for width, need in zip(widths, needed, strict=True)
        ]
        while excess > 0:
            widest = max(range(len(widths)), key=lambda at: (spare[at], widths[at]))
            if not spare[widest] and widths[widest] <= _NARROWEST:
                return
            spare[widest] = max(0, spare[widest] - 1)
            widths[widest] -= 1
            excess -= 1

    def _row(
        self,
        cells: Sequence[str],
        widths: list[int],
        right: list[bool],
        coloured: bool = False,
    ) -> str:
        shown = []
        for at, cell in enumerate(cells):
            text = cell if len(cell) <= widths[at] else cell[: widths[at] - 1] + "…"
            padded = text.rjust(widths[at]) if right[at] else text.ljust(widths[at])
            if at == len(cells) - 1 and not right[at]:
                padded = text
            shown.append(self._styled(padded, _STYLE_OF.get(cell, "")) if coloured else padded)
        return _GAP.join(shown)

    # -- for scripts ----------------------------------------------------------------------------

    def document(self, data: Any) -> None:
        """The one JSON document of a question."""
        if self.as_json:
            self._write(json.dumps(data, indent=2))

    def record(self, data: dict[str, Any]) -> None:
        """One line of JSON Lines."""
        if self.as_json:
            self._write(json.dumps(data))

    def raw(self, text: str) -> None:
        """A result that is JSON Lines in any case."""
        self._write(text)

    # -----------------------------------------------------------------------------------------

    def _write(self, text: str) -> None:
        self._out.write(text)

    def _styled(self, text: str, style: str) -> str:
        return str(getattr(self.style, style)(text)) if style else text

    def _style_of_errors(self, style: str) -> Callable[[str], str]:
        return getattr(self.style, style) if style and self._err.isatty() else as_it_is


@dataclass(slots=True)
class Bar:
    """Progress of long work, on stderr, and only where that is a terminal."""

    text: str
    total: int | None = None
    done: int = 0
    err: Any = sys.stderr

    def __enter__(self) -> Self:
        self.show()
        return self

    def __exit__(self, *_: object) -> None:
        if self.err.isatty():
            self._write("\r\x1b[K")

    def step(self, count: int = 1) -> None:
        self.show(self.done + count)

    def show(self, done: int | None = None, text: str | None = None) -> None:
        self.done = self.done if done is None else done
        self.text = self.text if text is None else text
        if not self.err.isatty():
            return
        bar = ""
        if self.total:
            full = min(20, 20 * self.done // self.total)
            bar = f"[{'#' * full}{'.' * (20 - full)}] of {self.total} "
        self._write(f"\r\x1b[K{one_line(self.text)} {bar}{self.done}")

    def _write(self, text: str) -> None:
        # Django writes what goes to stderr in the colour of errors.
        self.err.write(text, as_it_is, ending="")
        self.err.flush()
