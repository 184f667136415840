"""A publisher as a process of its own: one event in each transaction, beside a business row.

It prints ``ready``, waits for a line, publishes, and prints what it measured as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tests.benchmarks.traffic import interleaved, order_ids
from tests.benchmarks.workers import ROOT

if TYPE_CHECKING:
    from tests.benchmarks.variants import Variant

__all__ = ["Published", "Publisher"]


@dataclass(frozen=True)
class Published:
    """What a publisher says: when it published its first and last event, and its CPU seconds."""

    first: float
    last: float
    cpu: float


class Publisher:
    """The publisher's process, as the scenario sees it."""

    def __init__(self, variant: Variant, seed: str, orders: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.publisher", variant.name, seed, str(orders)],
            cwd=ROOT,
            env={**os.environ, "PM_BENCH_PM_CELERY": json.dumps(variant.pm_celery)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self) -> None:
        """Wait until it has imported everything, and connected."""
        self._read("ready")

    def begin(self) -> None:
        """Let it publish."""
        assert self._process.stdin is not None
        self._process.stdin.write("begin\n")
        self._process.stdin.flush()

    def is_done(self) -> bool:
        """Whether it has published everything. Raises where it has failed."""
        status = self._process.poll()
        if status:
            raise RuntimeError(f"A publisher ended with status {status}")
        return status == 0

    def result(self) -> Published:
        """What it measured."""
        return Published(**json.loads(self._read("a result")))

    def stop(self) -> None:
        """End it, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def _read(self, what: str) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"A publisher ended before it printed {what}")
        return line


def main(variant_name: str, seed: str, orders: int) -> None:
    """The publisher's process."""
    import django

    from tests.benchmarks.celery_app import app

    django.setup()
    app.finalize()
    from django.db import connection

    from tests.benchmarks.variants import VARIANTS

    # One block: the events of an order are far apart, as they are in life.
    events = interleaved(order_ids(seed, orders), orders)
    variant = VARIANTS[variant_name]()
    connection.ensure_connection()
    _print("ready")
    sys.stdin.readline()
    began = time.process_time()
    called = [variant.transact(order, sequence) for order, sequence in events]
    published = Published(called[0], time.time(), time.process_time() - began)
    _print(json.dumps(asdict(published)))


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
