"""Real Celery workers, as processes of our own: started, watched, and stopped whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from django.conf import settings

from replay.definition import VARIABLE, Definition

__all__ = ["WorkerDied", "Workers"]

# A worker that is asked to end first ends its wake-up, which is bounded by ADVANCE_SECONDS.
_STOP_SECONDS = 10.0
_TAIL_LINES = 20

# Solo: each worker is one process, and the workers are the parallelism. Prefetching nothing, because a
# wake-up that lies in one worker's hands is not there for another that is idle.
_OPTIONS = [
    "--pool=solo",
    "--prefetch-multiplier=1",
    "--without-gossip",
    "--without-mingle",
    "--without-heartbeat",
    "--loglevel=WARNING",
]


class WorkerDied(Exception):
    """A worker ended by itself; the message ends with its log."""


class Workers:
    """The workers of one replay, between ``with`` and its end. `folder` gets their logs."""

    def __init__(self, definition: Definition, number: int, folder: Path) -> None:
        self._definition = definition
        self._number = number
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        file = self._folder / "definition.json"
        self._definition.save(file)
        try:
            for number in range(1, self._number + 1):
                self._processes.append(self._start(number, file))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def check(self) -> None:
        """Raises ``WorkerDied``, with the end of its log, where a worker has ended."""
        for number, process in enumerate(self._processes, 1):
            if process.poll() is not None:
                raise WorkerDied(
                    f"Worker {number} of {self._number} ended by itself, with status "
                    f"{process.returncode}. {self.log(number)}"
                )

    def log(self, number: int) -> str:
        """The end of a worker's log."""
        text = self._log_file(number).read_text(errors="replace").strip()
        if not text:
            return "Its log is empty."
        return "The end of its log:\n" + "\n".join(text.splitlines()[-_TAIL_LINES:])

    def _start(self, number: int, file: Path) -> subprocess.Popen[bytes]:
        name = f"--hostname={self._definition.queue}-{number}@%h"
        with self._log_file(number).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "config", "-q", "worker", name, *_OPTIONS],
                cwd=settings.BASE_DIR,
                env={**os.environ, VARIABLE: str(file)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C reaches the command, and the command stops its workers.
                start_new_session=True,
            )

    def _stop(self) -> None:
        for process in self._processes:
            process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        try:
            for process in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        finally:  # also when a second Ctrl-C interrupts the waiting
            for process in self._processes:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    def _log_file(self, number: int) -> Path:
        return self._folder / f"worker-{number}.log"
