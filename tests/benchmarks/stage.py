"""The stage: a database and a Redis of our own, tables, and an empty start for every run."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis import Redis

from tests.benchmarks.shop.effects import FILE_VARIABLE, RUN_VARIABLE, Effects
from tests.benchmarks.workers import QUEUE, Workers
from tests.servers import MariaDbServer, PostgresServer, RedisServer, Server

__all__ = ["Stage"]

_NAME = "benchmark"
_HELD = "held"


class Stage:
    """Servers and tables between ``with`` and its end; Django is set up from then on."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.redis = RedisServer(install=True)
        self.server: Server | None = None
        self.folder = Path()
        self._stack = ExitStack()
        self._runs = 0

    def __enter__(self) -> Self:
        with self._stack:
            self.folder = Path(tempfile.mkdtemp(prefix="pm-celery-benchmark-"))
            self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._stack.enter_context(self.redis)
            os.environ |= {
                "DJANGO_SETTINGS_MODULE": "tests.benchmarks.settings",
                "PM_BENCH_DATABASE": self.database,
                "PM_BENCH_BROKER": self.redis.url,
                **self._start_database(),
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

    def reset(self) -> Effects:
        """Empty all tables and the broker; the effects of the run that comes. No worker may run."""
        from django.apps import apps
        from django.core.management.color import no_style
        from django.db import connection

        tables = [
            model._meta.db_table
            for label in ("pm_celery", "shop")
            for model in apps.get_app_config(label).get_models()
        ]
        flush = connection.ops.sql_flush(no_style(), tables, reset_sequences=True)
        connection.ops.execute_sql_flush(flush)
        with self._redis() as client:
            client.flushdb()
        self._runs += 1
        run = f"run-{self._runs}"
        effects = Effects(self.folder / f"{run}.effects", run)
        os.environ |= {FILE_VARIABLE: str(effects.path), RUN_VARIABLE: run}
        return effects

    def hold_backlog(self) -> None:
        """Put aside what is in the queue, so that workers can start and find nothing."""
        with self._redis() as client:
            client.rename(QUEUE, _HELD)

    def release_backlog(self) -> None:
        """Put it back, all at once; workers that wait for the queue wake up at that moment."""
        with self._redis() as client:
            client.rename(_HELD, QUEUE)

    def queued(self, queue: str) -> int:
        """How many messages are in a queue."""
        with self._redis() as client:
            return int(client.llen(queue))

    def workers(self, number: int = 1, **options: Any) -> Workers:
        """Workers, to be entered."""
        return Workers(self.folder, number=number, **options)

    def groups(self, **pids: Sequence[int]) -> dict[str, Sequence[int]]:
        """The process groups to meter: those given, the database, the broker."""
        database = [_pid(self.server)] if self.server else []
        return {**pids, "database": database, "broker": [_pid(self.redis)]}

    def database_version(self) -> str:
        """The database's name and version."""
        from django.db import connection

        version = ".".join(map(str, connection.get_database_version()))
        return f"{self.server.title if self.server else 'SQLite'} {version}"

    def redis_version(self) -> str:
        """Redis's version."""
        with self._redis() as client:
            return str(client.info("server")["redis_version"])

    @property
    def postgres(self) -> PostgresServer | None:
        """The PostgreSQL, where it is the database."""
        return self.server if isinstance(self.server, PostgresServer) else None

    def _redis(self) -> Redis:
        return Redis.from_url(self.redis.url)

    def _start_database(self) -> dict[str, str]:
        if self.database == "sqlite":
            return {"PM_BENCH_NAME": str(self.folder / "benchmark.sqlite3")}
        kind = PostgresServer if self.database == "postgres" else MariaDbServer
        server: PostgresServer | MariaDbServer = kind(install=True)
        self._stack.enter_context(server)
        server.create_database(_NAME)
        self.server = server
        return {
            "PM_BENCH_NAME": _NAME,
            "PM_BENCH_HOST": server.host,
            "PM_BENCH_PORT": str(server.port),
            "PM_BENCH_USER": server.user,
        }


def _set_up_django() -> None:
    import django
    from django.core.management import call_command

    # The current Celery app from now on: publishing in this process uses it.
    import tests.benchmarks.celery_app  # noqa: F401

    django.setup()
    sys.stderr.write("Creating the tables ...\n")
    call_command("migrate", run_syncdb=True, verbosity=0)


def _close_connections() -> None:
    from django.db import connections

    connections.close_all()


def _pid(server: Server) -> int:
    assert server.pid is not None, f"{server.title} does not run"
    return server.pid
