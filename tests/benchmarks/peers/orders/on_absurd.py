"""The orders on Absurd.

Used: a task per order with two steps and two awaited events, named after the order, on
PostgreSQL; worker processes of the Python SDK, each with as many threads as it may claim tasks at
once, which share the process's connection. The schema comes from the package django-absurd, which
carries Absurd's `absurd.sql` unchanged.
"""

from __future__ import annotations

import sys
import threading
from importlib.metadata import files
from typing import Any

import psycopg
from absurd_sdk import Absurd, TaskContext
from orders.workload import Client, Effects, Job, measure

QUEUE = "orders"
THREADS = 8
POLL_SECONDS = 0.05  # default: 0.25


class OnAbsurd(Client):
    module = "orders.on_absurd"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._connection = psycopg.connect(job.urls["postgres"], autocommit=True)
        self._connection.execute(schema())
        Absurd(self._connection, queue_name=QUEUE).create_queue()
        self._of_thread = threading.local()

    @property
    def _absurd(self) -> Absurd:
        """This thread's: a connection does one thing at a time."""
        if not hasattr(self._of_thread, "absurd"):
            self._of_thread.absurd = Absurd(self.job.urls["postgres"], queue_name=QUEUE)
        absurd: Absurd = self._of_thread.absurd
        return absurd

    def place(self, order_id: str) -> None:
        self._absurd.spawn("order", {"order_id": order_id}, queue=QUEUE)

    def pay(self, order_id: str) -> None:
        self._absurd.emit_event(f"paid:{order_id}", {})

    def deliver(self, order_id: str) -> None:
        self._absurd.emit_event(f"delivered:{order_id}", {})

    def ended(self) -> int:
        query = f"SELECT count(*) FROM absurd.t_{QUEUE} WHERE state = 'completed'"
        row = self._connection.execute(query).fetchone()
        return row[0] if row else 0


def schema() -> str:
    """Absurd's own SQL script."""
    script = next(file for file in files("django-absurd") or () if file.suffix == ".sql")
    return script.read_text()


def work(job: Job) -> None:
    """A worker process."""
    absurd = Absurd(job.urls["postgres"], queue_name=QUEUE)
    effects = Effects(job.effects)

    @absurd.register_task("order")
    def order(params: dict[str, Any], context: TaskContext) -> None:
        order_id = params["order_id"]
        context.step("reserve", lambda: effects.append("reserve", order_id))
        context.await_event(f"paid:{order_id}")
        context.step("ship", lambda: effects.append("ship", order_id))
        context.await_event(f"delivered:{order_id}")

    absurd.start_worker(concurrency=THREADS, poll_interval=POLL_SECONDS)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        work(Job.given())
    else:
        measure(OnAbsurd(Job.given()))
