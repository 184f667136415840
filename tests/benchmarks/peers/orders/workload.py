"""What every peer does, and how it is measured. Standard library only: it runs in every environment.

A peer's module is run as a script, in a process of its own: it starts the peer's workers, sends
the events from outside as a client does, waits for the end, checks, and prints one line of JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, ClassVar
from uuid import uuid4

JOB = "PM_CELERY_BENCHMARK_JOB"
EVENTS_PER_ORDER = 3
COMMANDS = ("reserve", "ship")
# Orders under way at the same time: all of a block are placed, then all paid, then all delivered.
BLOCK = 100
# Orders taken through everything before the clock starts: processes, pools and caches are warm.
WARM_UP_ORDERS = 20
WARM_UP_SECONDS = 120.0
LONGEST_SECONDS = 1800.0
POLL_SECONDS = 0.02
STOP_SECONDS = 15.0


class Failed(Exception):
    """The peer did not do its work; the message says what is missing."""


@dataclass(frozen=True)
class Job:
    """What the driver asks of a peer: the work, and where the servers are."""

    orders: int
    senders: int
    workers: int
    folder: str
    urls: dict[str, str]

    @classmethod
    def given(cls) -> Job:
        """The job that the driver gave to this process or to its parent."""
        return cls(**json.loads(os.environ[JOB]))

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that is to know this job."""
        return {**os.environ, JOB: json.dumps(asdict(self))}

    @property
    def effects(self) -> Path:
        return Path(self.folder, "effects")


class Effects:
    """What commands do: they append a line, which survives whatever happens to the process."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)

    def append(self, command: str, order_id: str) -> None:
        os.write(self._descriptor, f"{command} {order_id}\n".encode())


class Client(ABC):
    """A peer, seen from outside. Several threads send at the same time."""

    # Its own module, which run with the argument `worker` is a worker.
    module: ClassVar[str]

    def __init__(self, job: Job) -> None:
        self.job = job

    def worker_commands(self) -> Sequence[Sequence[str]]:
        """The arguments to Python for each process of the peer: by default its module's workers."""
        return [("-m", self.module, "worker", str(number)) for number in range(self.job.workers)]

    def begin(self) -> None:  # noqa: B027  many need nothing
        """What is needed once the workers have been started, such as registering them."""

    @abstractmethod
    def place(self, order_id: str) -> None:
        """Send OrderPlaced; returns when it is stored durably."""

    @abstractmethod
    def pay(self, order_id: str) -> None:
        """Send OrderPaid; returns when it is stored durably."""

    @abstractmethod
    def deliver(self, order_id: str) -> None:
        """Send OrderDelivered; returns when it is stored durably."""

    @abstractmethod
    def ended(self) -> int:
        """How many orders have ended, as the peer's own records say."""


def measure(client: Client) -> None:
    """Do the work, check it, and print the figures as one line of JSON."""
    job = client.job
    job.effects.touch()
    warm_up, orders = new_orders(WARM_UP_ORDERS), new_orders(job.orders)
    with running(client):
        client.begin()
        send_all(client, warm_up)
        wait_for_end(client, warm_up, WARM_UP_SECONDS)
        begun = time.perf_counter()
        send_all(client, orders)
        sent = time.perf_counter()
        wait_for_end(client, warm_up + orders, LONGEST_SECONDS)
        ended = time.perf_counter()
    check_effects(job.effects, warm_up + orders)
    figures = {
        "events": job.orders * EVENTS_PER_ORDER,
        "seconds": ended - begun,
        "seconds_sending": sent - begun,
        "events_per_second": job.orders * EVENTS_PER_ORDER / (ended - begun),
    }
    sys.stdout.write(f"{json.dumps(figures)}\n")


def new_orders(number: int) -> list[str]:
    return [str(uuid4()) for _ in range(number)]


def send_all(client: Client, orders: Sequence[str]) -> None:
    """Send the events of all orders, block after block; no order gets an event before its last."""
    with ThreadPoolExecutor(client.job.senders) as pool:
        for block in blocks(orders):
            for send in (client.place, client.pay, client.deliver):
                list(pool.map(send, block))  # waits, and raises what the sender raised


def blocks(orders: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(orders), BLOCK):
        yield orders[start : start + BLOCK]


def wait_for_end(client: Client, orders: Sequence[str], seconds: float) -> None:
    """Wait until every effect is there and every order has ended."""
    deadline = time.monotonic() + seconds
    effects = client.job.effects
    expected = sum(len(line) + 1 for line in expected_lines(orders))
    while effects.stat().st_size < expected or client.ended() < len(orders):
        if time.monotonic() > deadline:
            raise Failed(
                f"After {seconds:.0f} s {client.ended()} of {len(orders)} orders have ended, with "
                f"{len(effects.read_text().splitlines())} of {len(orders) * len(COMMANDS)} effects."
            )
        time.sleep(POLL_SECONDS)


def expected_lines(orders: Iterable[str]) -> list[str]:
    return [f"{command} {order}" for order, command in itertools.product(orders, COMMANDS)]


def check_effects(effects: Path, orders: Sequence[str]) -> None:
    """Every effect, exactly once; looked at after the workers have ended."""
    found = Counter(effects.read_text().splitlines())
    expected = Counter(expected_lines(orders))
    if found != expected:
        raise Failed(
            f"{(expected - found).total()} effects are missing and "
            f"{(found - expected).total()} are there too often."
        )


@contextmanager
def running(client: Client) -> Iterator[None]:
    """The peer's worker processes, for a while; what they print goes into a file of the job."""
    processes: list[subprocess.Popen[bytes]] = []
    with Path(client.job.folder, "workers.log").open("ab") as log:
        try:
            processes.extend(
                start(arguments, client.job, log) for arguments in client.worker_commands()
            )
            yield
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                end(process)


def start(arguments: Sequence[str], job: Job, log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=job.environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
