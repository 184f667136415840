"""The database of a run: empty before it, and free of the dead after it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from django.apps import apps
from django.db import connection

__all__ = ["Database", "PostgresDatabase", "SqliteDatabase", "database_for"]


class Database:
    """The tests' database, used by one process after another."""

    def prepare(self) -> None:
        """Done before a run, outside of its processes."""

    def empty(self) -> None:
        """Done at the start of a run, by its first process."""

    def use(self) -> None:
        """Done first by every process of a run."""


class SqliteDatabase(Database):
    """A file of its own, copied from one with empty tables."""

    def __init__(self, folder: Path) -> None:
        self._empty = folder / "empty.sqlite3"
        self._file = folder / "sweep.sqlite3"
        connection.close()
        shutil.copy(connection.settings_dict["NAME"], self._empty)

    def prepare(self) -> None:
        for rest in ("-wal", "-shm"):
            Path(f"{self._file}{rest}").unlink(missing_ok=True)
        shutil.copy(self._empty, self._file)

    def use(self) -> None:
        connection.settings_dict["NAME"] = str(self._file)


class PostgresDatabase(Database):
    """The server's database. Who is killed goes on there until the server notices."""

    def use(self) -> None:
        end = time.monotonic() + 20
        with connection.cursor() as cursor:
            while True:
                cursor.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )
                if cursor.fetchone() == (0,):
                    return
                assert time.monotonic() < end, "somebody is connected to the tests' database"
                time.sleep(0.002)

    def empty(self) -> None:
        tables = [
            model._meta.db_table
            for app in ("pm_celery", "testapp")
            for model in apps.get_app_config(app).get_models()
        ]
        with connection.cursor() as cursor:
            cursor.execute("; ".join(f'DELETE FROM "{table}"' for table in tables))


def database_for(folder: Path) -> Database:
    return PostgresDatabase() if connection.vendor == "postgresql" else SqliteDatabase(folder)
