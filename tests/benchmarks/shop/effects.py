"""The effect of a command: one line appended to a file, the same in every variant.

A line is ``<run> <command> <order id> <moment>``. Short lines appended by one ``write`` do not mix.
"""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from uuid import UUID

FILE_VARIABLE = "PM_BENCH_EFFECTS"
RUN_VARIABLE = "PM_BENCH_RUN"

_RETRIES = ".retries"


def note(command: str, order_id: UUID | str) -> None:
    """Append the effect of a command, with the present moment."""
    descriptor, run = _opened()
    os.write(descriptor, f"{run} {command} {order_id} {time.time():.6f}\n".encode())


def note_retry() -> None:
    """Note that an event came too early, in a file of its own."""
    descriptor, run = _opened(_RETRIES)
    os.write(descriptor, f"{run}\n".encode())


@functools.cache
def _opened(suffix: str = "") -> tuple[int, str]:
    path = os.environ[FILE_VARIABLE] + suffix
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    return descriptor, os.environ[RUN_VARIABLE]


class Effects:
    """The effects of one run, read from its file."""

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self.run = run
        self._counted = 0
        self._offset = 0

    def count(self) -> int:
        """How many effects there are by now; reads only what is new."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._offset)
                fresh = file.read()
            self._offset += len(fresh)
            self._counted += fresh.count(b"\n")
        return self._counted

    def retries(self) -> int:
        """How often an event came too early."""
        path = self.path.with_name(self.path.name + _RETRIES)
        return len(path.read_text().splitlines()) if path.exists() else 0

    def read(self) -> list[tuple[str, UUID, float]]:
        """Command, order and moment of every effect. Raises ``ValueError`` for another run's."""
        found = []
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            run, command, order_id, moment = line.split()
            if run != self.run:
                raise ValueError(f"An effect of run {run} among those of {self.run}: {line}")
            found.append((command, UUID(order_id), float(moment)))
        return found
