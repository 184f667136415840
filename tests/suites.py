"""Runs the suite on SQLite and MariaDB, and beside them on PostgreSQL: `make test`.

::

    python -m tests.suites                   what `make test` runs; docs/suite.md says what is left out where
    python -m tests.suites -k timeout        pytest's arguments, for all three

A run is mostly waiting (for servers, workers, commits), so two stand on two cores without being in each
other's way. Their output does not mix: the second lane's follows when the first one is through.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]

# What MariaDB does in its own way; all of the suite runs there in `make test-all`.
MARIADB_PART = ("mariadb", "texts", "handling", "commands", "failure", "passing_over")
# What people see, what is declared, and what is refused before a database hears of it: on SQLite in
# `make test`, and everywhere in `make test-all`. tests/test_pages.py opens each page on PostgreSQL.
NOT_ON_POSTGRES = (
    "admin",
    "admin_doors",
    "checks",
    "checks_surroundings",
    "declaring",
    "decoding_fuzz",
    "diagram",
    "editing",
    "forged",
    "german",
    "health",
    "instance_page",
    "letter_groups",
    "logs",
    "old_secrets",
    "overview",
    "pseudo_locale",
    "publish_by_hand",
    "redaction",
    "settings",
    "shell",
    "translations",
    "values",
)

# Each lane's runs come one after another; of a run without arguments, these are pytest's.
LANES: tuple[tuple[tuple[str, tuple[str, ...]], ...], ...] = (
    (
        # The event logs are replayed where they would be in production.
        ("sqlite", ("--ignore=tests/example_project/test_replay_log.py",)),
        ("mariadb", tuple(f"tests/test_{name}.py" for name in MARIADB_PART)),
    ),
    (("postgres", tuple(f"--ignore=tests/test_{name}.py" for name in NOT_ON_POSTGRES)),),
)

NO_TESTS_COLLECTED = 5


@dataclass
class Lane:
    """Runs of pytest, one after another, that write to one place."""

    runs: Sequence[tuple[str, tuple[str, ...]]]
    output: IO[bytes]
    statuses: list[int] = field(default_factory=list)

    def work(self, arguments: Sequence[str]) -> None:
        for database, ours in self.runs:
            chosen = list(arguments or ours)
            title = f"== The suite on {database}: {' '.join(chosen)}\n"
            self.output.write(title.encode())
            self.output.flush()
            color = ["--color=yes"] if sys.stdout.isatty() else []
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *color, *chosen],
                check=False,
                cwd=ROOT,
                env={**os.environ, "PM_TEST_DB": database},
                stdout=self.output,
                stderr=subprocess.STDOUT,
            )
            self.statuses.append(done.returncode)


def follow(path: Path, thread: threading.Thread) -> None:
    """Print what a lane has written, and what it writes until it is through."""
    with open(path, "rb") as written:
        while True:
            is_over = not thread.is_alive()
            sys.stdout.buffer.write(written.read())
            sys.stdout.flush()
            if is_over:
                return
            time.sleep(0.2)


def status(statuses: Sequence[int]) -> int:
    """0 if every run is green; one whose database none of the chosen tests is for counts as neither."""
    ran = [found for found in statuses if found != NO_TESTS_COLLECTED]
    if not ran:
        return NO_TESTS_COLLECTED
    return int(any(ran))


def main(arguments: Sequence[str]) -> int:
    lanes: list[Lane] = []
    with tempfile.TemporaryDirectory(prefix="pm-celery-") as folder:
        threads = []
        for number, runs in enumerate(LANES):
            path = Path(folder, str(number))
            lane = Lane(runs, open(path, "wb"))  # noqa: SIM115  closed below, when its thread has ended
            lanes.append(lane)
            thread = threading.Thread(target=lane.work, args=(arguments,))
            thread.start()
            threads.append((path, thread))
        # The others also where one has failed: one run tells all.
        for (path, thread), lane in zip(threads, lanes, strict=True):
            follow(path, thread)
            lane.output.close()
    return status([found for lane in lanes for found in lane.statuses])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
