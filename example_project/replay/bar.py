"""A progress bar on a terminal, and nothing elsewhere."""

from __future__ import annotations

import sys
from typing import TextIO

__all__ = ["Bar"]

_WIDTH = 30


class Bar:
    """One line on stderr, rewritten: how many of the events were published, and how many handled."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total = total
        self._stream = stream or sys.stderr
        self._is_shown = self._stream.isatty()

    def show(self, published: int, handled: int) -> None:
        if self._is_shown:
            share = handled / self._total if self._total else 1.0
            bar = "█" * int(share * _WIDTH)
            count = f"{handled:,} of {self._total:,} events"
            rest = "" if published == self._total else f", {published:,} published"
            self._write(f"{bar:░<{_WIDTH}} {share:4.0%}  {count}{rest}")

    def clear(self) -> None:
        if self._is_shown:
            self._write("")

    def _write(self, text: str) -> None:
        # Back to the start of the line, and erase what stood there.
        self._stream.write(f"\r\x1b[K{text}")
        self._stream.flush()
