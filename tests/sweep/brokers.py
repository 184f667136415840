"""Where messages are while no process has them: they outlive one that is killed."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

from celery import current_app
from celery.worker.request import Request
from kombu import Connection, pools
from redis import Redis
from redis.client import Pipeline

from pm_celery import filesystem
from tests.sweep.points import Points

__all__ = ["Broker", "FolderBroker", "RedisBroker"]


class Broker(ABC):
    """A broker, and a worker that takes its messages one by one."""

    url: str

    def __init__(self) -> None:
        self._connection: Connection | None = None

    @abstractmethod
    def empty(self) -> None:
        """Lose all messages."""

    @abstractmethod
    def watch(self, points: Points) -> None:
        """Let this process pass a point with every call to the broker."""

    def use(self) -> None:
        """Make it the broker of this process, which has not used another yet."""
        # Celery asks this variable first.
        os.environ["CELERY_BROKER_URL"] = self.url
        current_app.conf.broker_transport_options = self.options()

    def options(self) -> dict[str, object]:
        return {}

    def leave(self) -> None:
        """Close what this process has opened."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        pools.reset()

    def work(self) -> int:
        """Run the tasks that are there, one after another, as a worker does; how many there were.

        Each is acknowledged before it runs, as is Celery's default: who is killed has lost it.
        """
        if self._connection is None:
            self._connection = current_app.connection_for_read()
        queue = current_app.amqp.queues[current_app.conf.task_default_queue]
        bound = queue(self._connection.default_channel)
        bound.declare()
        done = 0
        while (message := bound.get(accept=["json"])) is not None:
            request = Request(message, on_ack=message.ack_log_error, app=current_app)
            request.execute()
            done += 1
        return done


class FolderBroker(Broker):
    """The broker that is a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.url = f"{filesystem.ALIAS}://"
        self._folder = folder

    def options(self) -> dict[str, object]:
        return {"folder": str(self._folder)}

    def empty(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def watch(self, points: Points) -> None:
        points.on(filesystem.Channel, "_put", lambda _, queue, *rest: (f"put into {queue}", True))
        points.on(filesystem.Channel, "_get", lambda _, queue, *rest: (f"take from {queue}", True))


class RedisBroker(Broker):
    """Redis. What gathers several messages sends them with a pipeline's one call."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def empty(self) -> None:
        with Redis.from_url(self.url) as client:
            client.flushall()

    def watch(self, points: Points) -> None:
        points.on(Redis, "execute_command", lambda _, *command: _described([command]))
        points.on(
            Pipeline, "execute", lambda pipe, *_: _described(c[0] for c in pipe.command_stack)
        )


def _described(commands: Iterable[tuple[object, ...]]) -> tuple[str, bool]:
    """What is asked of Redis in one round trip, and whether a message comes or goes with it."""
    begun = [command[:2] for command in commands]
    return f"Redis {begun}", any(verb in ("LPUSH", "lpush", "RPOP") for verb, *_ in begun)
