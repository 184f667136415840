"""The brokers that workers' tests run with, told by PM_TEST_BROKER_KIND: `redis`, `rabbitmq` or `folder`.

What a broker cannot do is named in `LACKING`; a test that needs it says so, as in tests/databases.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from kombu import Connection
from kombu.exceptions import ChannelError
from redis import Redis

__all__ = ["LACKING", "NAMES", "Broker", "broker_kind"]

NAMES = {"redis": "Redis", "rabbitmq": "RabbitMQ", "folder": "The folder as broker"}

LACKING: Mapping[str, Mapping[str, str]] = {
    "clients without pm_celery": {
        "folder": "no clients without pm_celery: its transport is a module of the package",
    },
}

# All queues that the tests of workers use.
QUEUES = ("celery", "later", "special", "elsewhere")


def broker_kind() -> str:
    """The broker of this run of the suite."""
    kind = os.environ.get("PM_TEST_BROKER_KIND", "redis")
    if kind not in NAMES:
        raise ValueError(f"PM_TEST_BROKER_KIND is {kind!r}; set it to one of {', '.join(NAMES)}.")
    return kind


class Broker:
    """A broker for one test: where it is, and what lies in it."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url = url
        self.options = dict(options)

    def waiting(self, queue: str) -> int:
        """How many messages lie in a queue."""
        with self._connection() as connection:
            try:
                found = connection.default_channel.queue_declare(queue, passive=True)
            except (ChannelError, *connection.channel_errors):
                return 0  # there is no such queue yet
            return int(found.message_count)

    def empty(self) -> None:
        """Lose every message that no worker has got yet; Redis loses all that it knows."""
        if self.url.startswith("redis"):
            with Redis.from_url(self.url) as client:
                client.flushall()
            return
        for queue in QUEUES:
            with self._connection() as connection:
                try:
                    connection.default_channel.queue_purge(queue)
                except (ChannelError, *connection.channel_errors):
                    continue

    def _connection(self) -> Connection:
        return Connection(self.url, transport_options=self.options)
