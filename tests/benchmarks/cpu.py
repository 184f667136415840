"""CPU seconds by group of processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import Self

import psutil

__all__ = ["Meter", "cpu_seconds"]


def cpu_seconds(pids: Iterable[int]) -> float:
    """What these processes and all their descendants have used, those that ended included."""
    total = 0.0
    for pid in pids:
        try:
            root = psutil.Process(pid)
            processes = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        total += sum(map(_own_and_ended, processes))
    return total


def _own_and_ended(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0  # its parent has its seconds among those of ended children
    return float(times.user + times.system + times.children_user + times.children_system)


class Meter:
    """Wall clock and CPU of groups of processes, between ``with`` and its end.

    ``others`` is the number of cores that were busy with what belongs to no group: a run with much of
    it was disturbed. The measuring process itself is counted nowhere unless it is in a group.
    """

    def __init__(self, groups: Mapping[str, Iterable[int]]) -> None:
        self._groups = {name: list(pids) for name, pids in groups.items()}
        self.seconds = 0.0
        self.cpu: dict[str, float] = {}
        self.others = 0.0

    def __enter__(self) -> Self:
        self._before = self._read()
        self._own_before, self._busy_before = time.process_time(), _busy()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began
        after = self._read()
        self.cpu = {name: after[name] - self._before[name] for name in self._groups}
        own = time.process_time() - self._own_before
        known = sum(self.cpu.values()) + (0.0 if self._measures_itself() else own)
        self.others = max(0.0, (_busy() - self._busy_before - known) / self.seconds)

    def _read(self) -> dict[str, float]:
        return {name: self._seconds_of(pids) for name, pids in self._groups.items()}

    def _seconds_of(self, pids: list[int]) -> float:
        # Of the measuring process only itself: the servers are its children.
        others = [pid for pid in pids if pid != os.getpid()]
        return cpu_seconds(others) + (time.process_time() if os.getpid() in pids else 0.0)

    def _measures_itself(self) -> bool:
        return any(os.getpid() in pids for pids in self._groups.values())


def _busy() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)
