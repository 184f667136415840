"""The orders on Restate.

Used: a virtual object keyed by the order, one exclusive handler for each event, the commands as
durable steps (`ctx.run_typed`); events are sent one-way to the server's HTTP ingress; the handlers
are served by Hypercorn over HTTP/2.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import restate
from orders.workload import Client, Effects, Failed, Job, measure

REGISTRATION_SECONDS = 30.0

order = restate.VirtualObject("order")


@functools.cache
def effects() -> Effects:
    return Effects(Job.given().effects)


@order.handler()
async def place(context: restate.ObjectContext) -> None:
    context.set("status", "placed")
    await context.run_typed("reserve", effects().append, command="reserve", order_id=context.key())


@order.handler()
async def pay(context: restate.ObjectContext) -> None:
    context.set("status", "paid")
    await context.run_typed("ship", effects().append, command="ship", order_id=context.key())


@order.handler()
async def deliver(context: restate.ObjectContext) -> None:
    context.set("status", "ended")


app = restate.app([order])


class OnRestate(Client):
    module = "orders.on_restate"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._of_thread = threading.local()

    def worker_commands(self) -> Sequence[Sequence[str]]:
        address = urlsplit(self.job.urls["handlers"]).netloc
        options = ("--bind", address, "--workers", str(self.job.workers))
        return [("-m", "hypercorn", *options, f"{self.module}:app")]

    def begin(self) -> None:
        """Tells the server where the handlers are, as soon as they are there."""
        deadline = time.monotonic() + REGISTRATION_SECONDS
        deployment = {"uri": self.job.urls["handlers"]}
        admin = connect(self.job.urls["admin"])
        while (answer := post(admin, "/deployments", deployment))[0] >= 300:
            if time.monotonic() > deadline:
                raise Failed(f"Restate does not find its handlers: {answer[1]!r}")
            time.sleep(0.1)

    def place(self, order_id: str) -> None:
        self._send(order_id, "place")

    def pay(self, order_id: str) -> None:
        self._send(order_id, "pay")

    def deliver(self, order_id: str) -> None:
        self._send(order_id, "deliver")

    def ended(self) -> int:
        query = (
            "SELECT count(*) AS orders FROM state WHERE service_name = 'order' "
            "AND key = 'status' AND value_utf8 = '\"ended\"'"
        )
        status, answer = post(connect(self.job.urls["admin"]), "/query", {"query": query})
        if status >= 300:
            raise Failed(f"Restate does not tell its state: {answer!r}")
        orders: int = json.loads(answer)["rows"][0]["orders"]
        return orders

    def _send(self, order_id: str, handler: str) -> None:
        """Over this thread's connection; an answer means that the event is stored."""
        if not hasattr(self._of_thread, "ingress"):
            self._of_thread.ingress = connect(self.job.urls["ingress"])
        status, answer = post(self._of_thread.ingress, f"/order/{order_id}/{handler}/send")
        if status >= 300:
            raise Failed(f"Restate refuses an event: {answer!r}")


def connect(url: str) -> HTTPConnection:
    return HTTPConnection(urlsplit(url).netloc)


def post(connection: HTTPConnection, path: str, body: Any = None) -> tuple[int, bytes]:
    headers = {"Accept": "application/json"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    content = None if body is None else json.dumps(body)
    connection.request("POST", path, content, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


if __name__ == "__main__":
    measure(OnRestate(Job.given()))
