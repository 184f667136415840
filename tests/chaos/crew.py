"""The crew: workers and Beats, each started again when it has ended, as a service manager does."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.chaos.member import CLOCK_VARIABLE, FOLDER_VARIABLE
from tests.servers import tail

__all__ = ["WORKERS", "Crew", "Member"]

ROOT = Path(__file__).resolve().parents[2]
# By name, how many seconds each clock is ahead. Those of two workers differ by a minute, and a Beat's from
# both.
WORKERS = {"worker-1": 0, "worker-2": 60}
BEATS = {"beat-1": 0, "beat-2": 0, "beat-3": -60}
CONCURRENCY = 2

_START_SECONDS = 60.0
_STOP_SECONDS = 15.0
_LOOK_SECONDS = 0.1


@dataclass
class Member:
    """What one of the crew is, and the process that does it at present."""

    name: str
    clock: int
    arguments: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: int = 0
    # By when a process that was asked to end is killed.
    ends_at: float | None = None
    pids: list[int] = field(default_factory=list)

    @property
    def is_worker(self) -> bool:
        return self.name in WORKERS


class Crew:
    """The processes, between ``with`` and its end; the workers are ready once entered."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self.members = [
            *(self._worker(name, clock) for name, clock in WORKERS.items()),
            *(self._beat(name, clock) for name, clock in BEATS.items()),
        ]
        # Those that ended without being asked or killed, with their status.
        self.ended_by_themselves: list[str] = []
        self._killed: set[int] = set()

    def __enter__(self) -> Self:
        try:
            for member in self.members:
                self._start(member)
            deadline = time.monotonic() + _START_SECONDS
            while not all(self.is_ready(member) for member in self.members if member.is_worker):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"The workers were not ready in time.{self.logs()}")
                time.sleep(0.1)
            self._keeper.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def is_ready(self, member: Member) -> bool:
        """Whether a worker consumes by now."""
        return member.process is not None and self._ready_file(member.process.pid).exists()

    def clock_of(self, member: Member) -> float | None:
        """How far a ready worker's clock was ahead when it said so, in seconds."""
        for pid in reversed(member.pids):
            with suppress(OSError, ValueError):
                said = self._ready_file(pid)
                return float(said.read_text()) - said.stat().st_mtime
        return None

    # -- what may befall it ----------------------------------------------------------------------

    def kill(self, member: Member) -> bool:
        """Kill a process by SIGKILL. A pool's processes then die as well: Celery has asked for that."""
        with self._lock:
            if member.process is None or member.process.poll() is not None:
                return False
            self._killed.add(member.process.pid)
            member.process.kill()
            return True

    def kill_child(self, member: Member, chance: random.Random) -> bool:
        """Kill one of a worker's children, whatever it is at. Not before the pool is up: Celery's main
        process does not survive that."""
        with self._lock:
            if not self.is_ready(member):
                return False
            children = self._children(member)
            if len(children) < CONCURRENCY:
                return False
            with suppress(ProcessLookupError):
                os.kill(chance.choice(children), signal.SIGKILL)
                return True
            return False

    def ask_to_stop(self, member: Member) -> bool:
        """Ask a worker to end when it has finished what it has in hand."""
        with self._lock:
            if member.process is None or member.process.poll() is not None or member.ends_at:
                return False
            member.ends_at = time.monotonic() + _STOP_SECONDS
            member.process.terminate()
            return True

    # -- keeping it up ---------------------------------------------------------------------------

    def stop(self) -> None:
        """End all of it, killed rather than asked."""
        self._over.set()
        if self._keeper.is_alive():
            self._keeper.join()
        for member in self.members:
            if member.process is not None:
                _kill_group(member.process)

    def logs(self, lines: int = 20) -> str:
        """The ends of all logs."""
        found = sorted(self._folder.glob("*.log"))
        return "".join(f"\n--- {path.name}\n{tail(path.read_text(), lines)}" for path in found)

    def _keep(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            for member in self.members:
                self._look_after(member)

    def _look_after(self, member: Member) -> None:
        with self._lock:
            assert member.process is not None
            status = member.process.poll()
            if status is None:
                if member.ends_at and time.monotonic() > member.ends_at:
                    self.ended_by_themselves.append(f"{member.name}: did not end when asked")
                    self._killed.add(member.process.pid)
                    _kill_group(member.process)
                return
            if not member.ends_at and member.process.pid not in self._killed:
                self.ended_by_themselves.append(f"{member.name}: ended with status {status}")
            _kill_group(member.process)
            self._start(member)

    def _start(self, member: Member) -> None:
        member.ends_at = None
        member.started += 1
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            CLOCK_VARIABLE: str(member.clock),
            FOLDER_VARIABLE: str(self._folder),
        }
        command = [sys.executable, "-m", "tests.chaos.member", "-A", "tests.chaos.celery_app", "-q"]
        with (self._folder / f"{member.name}.log").open("ab") as log:
            member.process = subprocess.Popen(
                [*command, *member.arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Out of the reach of Ctrl-C, which is for us: we stop them.
                start_new_session=True,
            )
        pid = member.process.pid
        member.pids.append(pid)
        # Of an earlier process whose number has come again.
        self._ready_file(pid).unlink(missing_ok=True)
        self._killed.discard(pid)

    def _worker(self, name: str, clock: int) -> Member:
        arguments = [
            *("worker", f"--hostname={name}@%h", "--pool=prefork", f"--concurrency={CONCURRENCY}"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING"),
        ]
        return Member(name, clock, arguments)

    def _beat(self, name: str, clock: int) -> Member:
        schedule = f"--schedule={self._folder / name}"
        return Member(name, clock, ["beat", schedule, "--pidfile=", "--loglevel=WARNING"])

    def _ready_file(self, pid: int) -> Path:
        return self._folder / f"ready-{pid}"

    def _children(self, member: Member) -> list[int]:
        assert member.process is not None
        pid = member.process.pid
        with suppress(OSError):
            return [
                int(found) for found in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            ]
        return []


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
