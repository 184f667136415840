"""Checks that ask the database: they run with ``manage.py check --database default``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from django.core.checks import CheckMessage, Tags, register
from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor

from pm_celery.checks.reports import TAG, AppConfigs, mistake, warning
from pm_celery.conf import get_settings
from pm_celery.exceptions import SettingsError

__all__ = ["check_database"]

# Beat's tick is late when it did not run for this long.
_TICK_IS_LATE = timedelta(seconds=60)


@register(TAG, Tags.database)
def check_database(
    app_configs: AppConfigs = None, databases: Sequence[str] | None = None, **_: Any
) -> list[CheckMessage]:
    """E045: the tables are migrated. W044: Beat's tick runs. W051: SQLite writes ahead."""
    try:
        alias = get_settings().database
    except SettingsError:
        return []
    # `migrate` runs these checks before it creates the tables; nobody ticks a test database.
    if not databases or alias not in databases or sys.argv[1:2] in (["migrate"], ["test"]):
        return []
    connection = connections[alias]
    try:
        executor = MigrationExecutor(connection)
        targets = [key for key in executor.loader.graph.leaf_nodes() if key[0] == "pm_celery"]
        if executor.migration_plan(targets):
            return [
                mistake(
                    "E045",
                    f"The tables of pm_celery are not migrated in the database {alias!r}.",
                    f"Run: python manage.py migrate pm_celery --database {alias}",
                )
            ]
        return [*_check_tick(), *_check_journal(connection)]
    except DatabaseError as error:
        return [
            mistake("E045", f"The database {alias!r} cannot be read: {error}", "Is it running?")
        ]


def _check_tick() -> Iterator[CheckMessage]:
    from pm_celery import clock, ticks

    last = ticks.last_tick()
    if last is None or clock.now() - last > _TICK_IS_LATE:
        when = "never" if last is None else f"last at {last:%Y-%m-%d %H:%M:%S} UTC"
        yield warning(
            "W044",
            f"Beat's tick does not run ({when}): no timer fires and nothing lost is found again.",
            "Run: celery -A <project> beat, and a worker.",
        )


def _check_journal(connection: BaseDatabaseWrapper) -> Iterator[CheckMessage]:
    if connection.vendor != "sqlite":
        return
    # The file itself says so, whoever set it.
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        mode = str(cursor.fetchone()[0]).lower()
    if mode not in {"wal", "memory"}:
        yield warning(
            "W051",
            f"The SQLite file of {connection.alias!r} has journal_mode {mode}: who reads keeps workers from "
            "writing, and they fail as 'database is locked'.",
            'Set "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" in its OPTIONS.',
        )
