"""The stage: a PostgreSQL, a broker, tables; and the ways to take them down."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.servers import PostgresServer, RabbitMqServer, RedisServer

__all__ = ["BROKERS", "Stage"]

BROKERS: dict[str, type[RedisServer | RabbitMqServer]] = {
    "redis": RedisServer,
    "rabbitmq": RabbitMqServer,
}
_QUEUE = "celery"


class Stage:
    """Servers and tables between ``with`` and its end; Django is set up from then on."""

    def __init__(self, broker: str, pm_celery: str, *, sync: bool = True) -> None:
        self.broker = BROKERS[broker](install=True)
        self.postgres = PostgresServer(install=True, durable=sync)
        self.folder = Path()
        self._pm_celery = pm_celery
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            # Not in TMPDIR, which may be closed to the accounts that servers run as.
            self.folder = Path(tempfile.mkdtemp(prefix="pm-celery-chaos-", dir="/tmp"))
            self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._stack.enter_context(self.broker)
            self._stack.enter_context(self.postgres)
            self.postgres.create_database("chaos")
            os.environ |= {
                "DJANGO_SETTINGS_MODULE": "tests.chaos.settings",
                "PM_CHAOS_PORT": str(self.postgres.port),
                "PM_CHAOS_BROKER": self.broker.url,
                "PM_CHAOS_PM_CELERY": self._pm_celery,
            }
            _set_up_django()
            self._stack.callback(_close_connections)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def empty_broker(self) -> int:
        """Take all messages away that a broker holds; how many, as far as it says."""
        if isinstance(self.broker, RedisServer):
            from redis import Redis

            with Redis.from_url(self.broker.url) as client:
                waiting = int(client.llen(_QUEUE)) + int(client.hlen("unacked"))
                client.flushall()
            return waiting
        from kombu import Connection

        with Connection(self.broker.url) as connection:
            channel: Any = connection.default_channel
            return int(channel.queue_purge(_QUEUE) or 0)


def _set_up_django() -> None:
    import django
    from django.core.management import call_command

    # The current Celery app from now on: publishing in this process uses it.
    import tests.chaos.celery_app  # noqa: F401

    django.setup()
    sys.stderr.write("Creating the tables ...\n")
    call_command("migrate", run_syncdb=True, verbosity=0)


def _close_connections() -> None:
    from django.db import connections

    connections.close_all()
