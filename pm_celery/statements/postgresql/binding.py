"""Executing a statement: parameters bound by the server, arrays in binary, plans kept for a while."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from django.db import connections
from django.db.backends.postgresql.psycopg_any import is_psycopg3
from django.db.backends.utils import CursorWrapper

from pm_celery.statements import InstanceKey
from pm_celery.statements.prepared import of_this_age, prepared

__all__ = ["WITHOUT_WAITING", "arrays", "columns_of", "fetch", "pairs", "run", "unnest"]

# The commits of wake-ups and marks need not reach the disk: they guard against the death of a worker
# or a broker, and are worth nothing after the server's own.
WITHOUT_WAITING = "SELECT set_config('synchronous_commit', 'off', true)"

_MOMENT, _TEXT, _INT, _BIGINT, _UUID = "timestamptz", "text", "int", "bigint", "uuid"
_SECONDS = "float8"
_TYPES = {
    "id": _BIGINT,
    "instance_id": _BIGINT,
    "inbox_id": _BIGINT,
    "command_id": _UUID,
    "duration": _SECONDS,
    **dict.fromkeys(("version", "partition", "number", "attempt", "attempts"), _INT),
    **dict.fromkeys(("depth", "dispatches", "state_version"), _INT),
    **dict.fromkeys(("due_at", "occurred_at", "published_at", "handled_at", "issued_at"), _MOMENT),
    **dict.fromkeys(("settled_at", "started_at", "ended_at", "timeout_at", "expires_at"), _MOMENT),
}

# Up to so many rows, planning a statement costs as much as running it: it is prepared.
_MOST_PREPARED = 50


def columns_of(row_class: type, *without: str) -> list[str]:
    """The columns of a row class, but for some."""
    return [field.name for field in fields(row_class) if field.name not in without]


def unnest(columns: Iterable[str]) -> str:
    """``unnest(%b::text[], …)``: one array for each column."""
    return f"unnest({', '.join(f'%b::{_TYPES.get(name, _TEXT)}[]' for name in columns)})"


def arrays(rows: Sequence[Any], columns: Sequence[str]) -> list[list[Any]]:
    """The values of rows, an array for each column."""
    values = map(attrgetter(*columns), rows)
    return [list(column) for column in zip(*values, strict=True)]


def pairs(keys: Collection[InstanceKey]) -> tuple[list[str], list[str]]:
    """The processes, and the keys."""
    return [process for process, _ in keys], [key for _, key in keys]


def _execute(alias: str, query: str, parameters: Sequence[Any], rows: int) -> CursorWrapper:
    connection = connections[alias]
    if not is_psycopg3:
        cursor: CursorWrapper = connection.cursor()
        cursor.execute(query.replace("%b", "%s"), parameters)
        return cursor
    connection.ensure_connection()
    plain = _binary_cursor(connection.connection)
    wrap = connection.make_debug_cursor if connection.queries_logged else connection.make_cursor
    cursor = wrap(plain)
    if rows > _MOST_PREPARED:
        cursor.execute(query, parameters)
        return cursor
    with prepared(connection):
        cursor.execute(of_this_age(query), parameters)
    return cursor


def _binary_cursor(connection: Any) -> Any:
    from psycopg import Cursor
    from psycopg.pq import Format

    cursor = Cursor(connection)
    cursor.format = Format.BINARY
    return cursor


def fetch(
    alias: str, query: str, parameters: Sequence[Any], rows: int = 1
) -> list[tuple[Any, ...]]:
    """What a statement about so many rows finds."""
    with _execute(alias, query, parameters, rows) as cursor:
        found: list[tuple[Any, ...]] = cursor.fetchall()
    return found


def run(alias: str, query: str, parameters: Sequence[Any], rows: int = 1) -> int:
    """Execute a statement about so many rows; how many it changed."""
    with _execute(alias, query, parameters, rows) as cursor:
        return int(cursor.rowcount)
