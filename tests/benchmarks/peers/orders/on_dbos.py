"""The orders on DBOS Transact.

Used: a workflow per order, enqueued by a `DBOSClient`, that receives its events with `recv_async`
and whose commands are steps; worker processes that all serve the queue, with the message listener
of PostgreSQL.
"""

from __future__ import annotations

import sys
import time

import psycopg
from dbos import DBOS, DBOSClient, DBOSConfig
from orders.workload import Client, Effects, Job, measure

APPLICATION = "orders"
VERSION = "1"
QUEUE = "orders"
THREADS = 8  # default: no limit
QUEUE_SECONDS = 0.05  # default: 1
WAIT_SECONDS = 7 * 24 * 3600.0


class OnDbos(Client):
    module = "orders.on_dbos"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        # Creates the tables, once, before several workers would.
        launch(job, "setup")
        DBOS.destroy()
        self._connection = psycopg.connect(job.urls["postgres"], autocommit=True)
        self._client = DBOSClient(
            system_database_url=sqlalchemy_url(job), application_name=APPLICATION
        )

    def place(self, order_id: str) -> None:
        self._client.enqueue(
            {
                "queue_name": QUEUE,
                "workflow_name": "order",
                "workflow_id": order_id,
                "app_version": VERSION,
            },
            order_id,
        )

    def pay(self, order_id: str) -> None:
        self._client.send(order_id, None, topic="paid")

    def deliver(self, order_id: str) -> None:
        self._client.send(order_id, None, topic="delivered")

    def ended(self) -> int:
        query = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'"
        row = self._connection.execute(query).fetchone()
        return row[0] if row else 0


@DBOS.step()
async def reserve(order_id: str) -> None:
    effects().append("reserve", order_id)


@DBOS.step()
async def ship(order_id: str) -> None:
    effects().append("ship", order_id)


@DBOS.workflow(name="order")
async def order(order_id: str) -> None:
    await reserve(order_id)
    await DBOS.recv_async("paid", timeout_seconds=WAIT_SECONDS)
    await ship(order_id)
    await DBOS.recv_async("delivered", timeout_seconds=WAIT_SECONDS)


_effects: list[Effects] = []


def effects() -> Effects:
    if not _effects:
        _effects.append(Effects(Job.given().effects))
    return _effects[0]


def launch(job: Job, executor: str) -> None:
    config: DBOSConfig = {
        "name": APPLICATION,
        "system_database_url": sqlalchemy_url(job),
        "application_version": VERSION,
        "executor_id": executor,
        "max_executor_threads": THREADS,
        "log_level": "WARNING",
    }
    DBOS(config=config)
    DBOS.launch()
    DBOS.register_queue(QUEUE, polling_interval_sec=QUEUE_SECONDS)


def sqlalchemy_url(job: Job) -> str:
    return job.urls["postgres"].replace("postgresql://", "postgresql+psycopg://")


def work(job: Job, executor: str) -> None:
    """A worker process."""
    launch(job, executor)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        work(Job.given(), sys.argv[2])
    else:
        measure(OnDbos(Job.given()))
