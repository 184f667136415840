"""Celery workers, and Beat, as processes of their own: started and warmed up before any clock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.servers import tail

__all__ = ["ROOT", "Stalled", "Workers", "wait_until"]

ROOT = Path(__file__).resolve().parents[2]
CONCURRENCY = 2
QUEUE = "celery"  # Celery's default, and so that of all variants

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_RUN_SECONDS = 600.0
_POLL_SECONDS = 0.02


class Stalled(Exception):
    """Something did not happen in time, or a process ended by itself; the message has the logs' ends."""


def wait_until(
    happened: Callable[[], bool],
    what: str,
    workers: Workers | None = None,
    seconds: float = _RUN_SECONDS,
) -> None:
    """Poll until something has happened. Raises ``Stalled``."""
    deadline = time.monotonic() + seconds
    while not happened():
        if workers is not None:
            workers.check()
        if time.monotonic() > deadline:
            logs = workers.logs() if workers else ""
            raise Stalled(f"Not within {seconds:.0f} s: {what}.{logs}")
        time.sleep(_POLL_SECONDS)


class Workers:
    """The workers of one run, between ``with`` and its end; warm once entered.

    Besides the common queue each consumes one of its own, for the tasks that warm it up.
    """

    def __init__(
        self,
        folder: Path,
        *,
        number: int = 1,
        concurrency: int = CONCURRENCY,
        beat: bool = False,
        pm_celery: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="workers-", dir=folder))
        self._number = number
        self._concurrency = concurrency
        self._beat = beat
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PM_BENCH_PM_CELERY": json.dumps(dict(pm_celery or {})),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            for number in range(1, self._number + 1):
                self._start_worker(number)
            self._warm_up()
            if self._beat:
                self._start_beat()
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

    @property
    def pids(self) -> list[int]:
        """Of the workers' main processes, and of Beat."""
        return [process.pid for process in self._processes.values()]

    def check(self) -> None:
        """Raises ``Stalled`` where a process has ended by itself."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise Stalled(f"{name} ended with status {process.returncode}.{self.logs()}")

    def logs(self) -> str:
        """The ends of all logs."""
        found = sorted(self._folder.glob("*.log"))
        return "".join(f"\n--- {path.name}\n{tail(path.read_text())}" for path in found)

    def _start_worker(self, number: int) -> None:
        self._start(
            f"worker-{number}",
            "worker",
            f"--hostname=worker-{number}@%h",
            f"--queues={QUEUE},warm-up.{number}",
            f"--concurrency={self._concurrency}",
            "--pool=prefork",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "--loglevel=WARNING",
        )

    def _start_beat(self) -> None:
        schedule = f"--schedule={self._folder / 'schedule'}"
        self._start("beat", "beat", schedule, "--pidfile=", "--loglevel=WARNING")

    def _start(self, name: str, *arguments: str) -> None:
        command: Sequence[str] = ("-m", "celery", "-A", "tests.benchmarks.celery_app", "-q")
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, *command, *arguments],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Out of the reach of Ctrl-C, which is for us: we stop them.
                start_new_session=True,
            )

    def _warm_up(self) -> None:
        """Let every process of every pool run one task, so that none has to connect later."""
        from tests.benchmarks.shop.warm_up import warm_up

        folders = []
        for number in range(1, self._number + 1):
            folder = self._folder / f"warm-{number}"
            folder.mkdir()
            folders.append(folder)
            for _ in range(self._concurrency):
                warm_up.apply_async((str(folder), self._concurrency), queue=f"warm-up.{number}")
        wait_until(
            lambda: all(len(os.listdir(folder)) == self._concurrency for folder in folders),
            "every process of the pools has run a task",
            self,
            _START_SECONDS,
        )

    def _stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for process in self._processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _kill(process)
        self._processes = {}


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its descendants by their ids."""
    root = psutil.Process(process.pid)
    for found in [*root.children(recursive=True), root]:
        try:
            found.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait()
