"""The hot path in PostgreSQL's SQL: arrays in, ``unnest``, one statement for each step of the heart.

Measured against the ORM's bulk calls, this takes a sixth to a tenth of a worker's CPU. Parameters are
bound by the server, and arrays go there in binary: written as text by the client, they were two thirds
of a batch's CPU. What is executed here passes Django's wrappers (errors, query log) like any query.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

from django.db import connections
from django.db.backends.postgresql.psycopg_any import is_psycopg3
from django.db.backends.utils import CursorWrapper

from pm_celery.models import OutboxCommand
from pm_celery.rows import (
    SUSPECT,
    Claim,
    Claimed,
    CommandRow,
    InboxMark,
    InboxRow,
    InstanceRow,
    NewMessage,
    TransitionRow,
)
from pm_celery.statements import CHANNEL
from pm_celery.statements.prepared import of_this_age, prepared

InstanceKey = tuple[str, str]

_MOMENT, _TEXT, _INT, _BIGINT, _UUID = "timestamptz", "text", "int", "bigint", "uuid"
_TYPES = {
    "id": _BIGINT,
    "instance_id": _BIGINT,
    "inbox_id": _BIGINT,
    "command_id": _UUID,
    **dict.fromkeys(("version", "partition", "number", "attempt", "attempts"), _INT),
    **dict.fromkeys(("depth", "dispatches"), _INT),
    **dict.fromkeys(("due_at", "occurred_at", "published_at", "handled_at", "issued_at"), _MOMENT),
    **dict.fromkeys(("settled_at", "started_at", "ended_at", "timeout_at", "expires_at"), _MOMENT),
}

# Up to so many rows, planning a statement costs as much as running it: it is prepared.
_MOST_PREPARED = 50
# One event at a time is the rule in web requests; arrays would take longer to make than a list of values.
_FEW = 5


def _columns(row_class: type, *without: str) -> list[str]:
    return [field.name for field in fields(row_class) if field.name not in without]


def _unnest(columns: Iterable[str]) -> str:
    """``unnest(%b::text[], …)``: one array for each column."""
    return f"unnest({', '.join(f'%b::{_TYPES.get(name, _TEXT)}[]' for name in columns)})"


def _arrays(rows: Sequence[Any], columns: Sequence[str]) -> list[list[Any]]:
    values = map(attrgetter(*columns), rows)
    return [list(column) for column in zip(*values, strict=True)]


def _pairs(keys: Collection[InstanceKey]) -> tuple[list[str], list[str]]:
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


def _fetch(
    alias: str, query: str, parameters: Sequence[Any], rows: int = 1
) -> list[tuple[Any, ...]]:
    with _execute(alias, query, parameters, rows) as cursor:
        found: list[tuple[Any, ...]] = cursor.fetchall()
    return found


def _run(alias: str, query: str, parameters: Sequence[Any], rows: int = 1) -> int:
    with _execute(alias, query, parameters, rows) as cursor:
        return int(cursor.rowcount)


_NEW_MESSAGE = _columns(NewMessage)
_INBOX = _columns(InboxRow)
_INSTANCE = _columns(InstanceRow)
_INSTANCE_WRITTEN = _columns(InstanceRow, "process", "key", "partition")
_TRANSITION = _columns(TransitionRow)
_COMMAND = _columns(CommandRow)
_MARK = _columns(InboxMark)
_OUTBOX = [field.attname for field in OutboxCommand._meta.concrete_fields]

_INSERT_MESSAGES = f"""
    INSERT INTO pm_celery_inboxmessage ({", ".join(_NEW_MESSAGE)}, attempts)
    SELECT *, 0 FROM {_unnest(_NEW_MESSAGE)}
    ON CONFLICT (message_id, process) DO NOTHING
"""

_ONE_MESSAGE = f"({', '.join(['%s'] * len(_NEW_MESSAGE))}, 0)"
_INSERT_FEW_MESSAGES = f"""
    INSERT INTO pm_celery_inboxmessage ({", ".join(_NEW_MESSAGE)}, attempts)
    VALUES {{messages}}
    ON CONFLICT (message_id, process) DO NOTHING
"""

# The commits of wake-ups and marks need not reach the disk: they guard against the death of a worker
# or a broker, and are worth nothing after the server's own.
_WITHOUT_WAITING = "SELECT set_config('synchronous_commit', 'off', true)"

_CLAIMED = f"id, process, key, attempts > 0 OR reason = '{SUSPECT}' AS tried"

# What is due, the mark that a batch of it begins, and that of its wake-up; and the older marks that nobody
# holds. Where the first partition has a backlog, three quarters are the longest overdue, and one quarter is
# the newest; and the newest one of some others is taken along, so that fresh events get through. ORDER BY
# starts with the partition, or the planner walks the primary key instead of pm_inbox_due.
_CLAIM = f"""
    WITH quick AS MATERIALIZED ({_WITHOUT_WAITING}),
    attended AS MATERIALIZED (
        SELECT FROM pm_celery_wakeup
        WHERE lane = %s AND outstanding_until > %s AND outstanding_until <= %s
    ), overdue AS (
        SELECT message.* FROM unnest(%b::int[]) AS looked(at)
        CROSS JOIN LATERAL (
            SELECT {_CLAIMED} FROM pm_celery_inboxmessage AS message
            WHERE partition = looked.at AND status IN ('pending', 'waiting') AND due_at <= %s {{passed}}
            ORDER BY partition, due_at, id LIMIT %s
        ) AS message WHERE NOT EXISTS (SELECT FROM attended) LIMIT %s
    ), newest AS (
        SELECT {_CLAIMED} FROM pm_celery_inboxmessage AS message
        WHERE partition = %s AND status IN ('pending', 'waiting') AND due_at <= %s {{passed}}
          AND (SELECT count(*) FROM overdue) >= %s
        ORDER BY partition DESC, due_at DESC, id DESC LIMIT %s
    ), newest_of_others AS (
        SELECT message.* FROM unnest(%b::int[]) AS looked(at)
        CROSS JOIN LATERAL (
            SELECT {_CLAIMED} FROM pm_celery_inboxmessage AS message
            WHERE partition = looked.at AND status IN ('pending', 'waiting') AND due_at <= %s {{passed}}
            ORDER BY partition DESC, due_at DESC, id DESC LIMIT 1
        ) AS message WHERE EXISTS (SELECT FROM overdue)
    ), claimed AS (
        SELECT * FROM overdue UNION SELECT * FROM newest UNION SELECT * FROM newest_of_others
    ), mark AS (
        INSERT INTO pm_celery_batch (message_ids, began_at)
        SELECT json_agg(claimed.id)::text, %s FROM claimed, quick
        WHERE NOT tried HAVING count(*) > 0
        RETURNING id
    ), awake AS (
        INSERT INTO pm_celery_wakeup (lane, outstanding_until)
        SELECT %s, %s FROM quick WHERE EXISTS (SELECT FROM claimed)
        ON CONFLICT (lane) DO UPDATE SET outstanding_until = EXCLUDED.outstanding_until
    ), left_over AS (
        SELECT id FROM pm_celery_batch WHERE began_at <= %s FOR UPDATE SKIP LOCKED
    )
    SELECT id, process, key, tried, (SELECT id FROM mark), (SELECT count(*) FROM overdue),
           (SELECT array_agg(id) FROM left_over),
           EXISTS (SELECT FROM attended)
    FROM (VALUES (true)) AS once LEFT JOIN claimed ON true
"""
_PASSED = "AND id <> ALL(%b::bigint[])"

# An array whose length the planner does not see is taken for one of ten. Of one that it sees, it makes a new
# plan each time, because that of a single key seems cheaper than the prepared one.
_HIDDEN_TEXTS = "(SELECT %b::text[])"

# Ends the batch's mark, locks the instances that nobody holds, and creates those that are missing: the
# unique constraint settles the race of two first events. Sorted, so that two workers that create the
# same ones wait for each other in one order only. NO KEY: what refers to an instance need not wait.
_LOCK_INSTANCES = f"""
    WITH unmarked AS (DELETE FROM pm_celery_batch WHERE id = %s),
    found AS MATERIALIZED (
        SELECT wanted.*, known.id
        FROM unnest({_HIDDEN_TEXTS}, {_HIDDEN_TEXTS}, (SELECT %b::int[])) AS wanted(process, key, partition)
        LEFT JOIN LATERAL (
            SELECT id FROM pm_celery_instance AS instance
            WHERE instance.process = wanted.process AND instance.key = wanted.key LIMIT 1
        ) AS known ON true
    ), locked AS (
        SELECT {", ".join(_INSTANCE)} FROM pm_celery_instance
        WHERE id = ANY(ARRAY(SELECT id FROM found)) FOR NO KEY UPDATE SKIP LOCKED
    ), created AS (
        INSERT INTO pm_celery_instance
            (process, key, partition, status, state, number, correlation_id, started_at, changed_at)
        SELECT process, key, partition, 'started', '', 0, '', %s, %s FROM found
        WHERE id IS NULL
        ORDER BY process, key
        ON CONFLICT (process, key) DO NOTHING
        RETURNING {", ".join(_INSTANCE)}
    )
    SELECT * FROM locked UNION ALL SELECT * FROM created
"""

# Rows that are asked for by their ids. Their status is compared as an expression, which is the condition of
# no partial index: where statistics say that next to nothing is open, the planner would read such an index
# from end to end, for each row.
_LOCK_MESSAGES = f"""
    SELECT {", ".join(_INBOX)} FROM pm_celery_inboxmessage
    WHERE id = ANY(%b) AND status || '' IN ('pending', 'waiting')
    ORDER BY id FOR UPDATE SKIP LOCKED
"""

# So many of each instance, so that a long queue of one leaves the others their place. What is parked is
# named and left out, so that the condition is that of pm_inbox_of_instance, and not of pm_inbox_due too.
_READ_OPEN = f"""
    SELECT {", ".join(f"message.{name}" for name in _INBOX)}
    FROM unnest({_HIDDEN_TEXTS}, {_HIDDEN_TEXTS}) AS wanted(process, key)
    CROSS JOIN LATERAL (
        SELECT * FROM pm_celery_inboxmessage AS message
        WHERE message.process = wanted.process AND message.key = wanted.key
          AND message.process > '' AND message.status IN ('pending', 'waiting', 'parked')
          AND message.status <> 'parked'
          AND (message.status = 'pending' OR message.due_at <= %s) {{before}}
        ORDER BY message.id LIMIT %s
    ) AS message
    ORDER BY message.id
"""

# Hidden for another reason too: of an array that it sees, the planner would make a scan of the whole table,
# while that has less than some hundred thousand rows.
_BY_INDEX = "{} = ANY(ARRAY(SELECT * FROM unnest(%b::bigint[])))"

_UPDATE_INSTANCES = f"""
    UPDATE pm_celery_instance AS instance
    SET {", ".join(f"{name} = new.{name}" for name in _INSTANCE_WRITTEN[1:])}, changed_at = %s
    FROM {_unnest(_INSTANCE_WRITTEN)} AS new({", ".join(_INSTANCE_WRITTEN)})
    WHERE instance.id = new.id AND {_BY_INDEX.format("instance.id")}
"""

_INSERT_TRANSITIONS = f"""
    INSERT INTO pm_celery_transition (recorded_at, {", ".join(_TRANSITION)})
    SELECT %s, * FROM {_unnest(_TRANSITION)}
"""

_INSERT_COMMANDS = f"""
    INSERT INTO pm_celery_outboxcommand ({", ".join(_COMMAND)}, attempts)
    SELECT *, 0 FROM {_unnest(_COMMAND)}
"""

# What most messages become.
_MARK_HANDLED = f"""
    UPDATE pm_celery_inboxmessage
    SET status = 'handled', reason = '', handled_at = %s, attempts = GREATEST(attempts, 1)
    WHERE {_BY_INDEX.format("id")}
"""

_MARK_MESSAGES = f"""
    UPDATE pm_celery_inboxmessage AS message
    SET {", ".join(f"{name} = mark.{name}" for name in _MARK[1:])}
    FROM {_unnest(_MARK)} AS mark({", ".join(_MARK)})
    WHERE message.id = mark.id AND {_BY_INDEX.format("message.id")}
"""

_TAKE_COMMANDS = f"""
    SELECT {", ".join(_OUTBOX)} FROM pm_celery_outboxcommand
    WHERE command_id = ANY(ARRAY(SELECT * FROM unnest(%b::uuid[])))
      AND status || '' = 'dispatched'
    ORDER BY id FOR UPDATE SKIP LOCKED
"""

_FINISH_COMMANDS = f"""
    UPDATE pm_celery_outboxcommand
    SET status = 'done', attempts = attempts + %s, settled_at = %s, reason = ''
    WHERE {_BY_INDEX.format("id")}
"""

_BEGIN_BATCH = f"""
    INSERT INTO pm_celery_batch (message_ids, began_at)
    SELECT %s, %s FROM ({_WITHOUT_WAITING}) AS quick RETURNING id
"""

# It looks before it writes, because most often there is one outstanding, and a statement that writes
# nothing costs half.
_WAKE = f"""
    INSERT INTO pm_celery_wakeup AS known (lane, outstanding_until)
    SELECT lane, %s FROM (VALUES {{wanted}}) AS wanted(lane), ({_WITHOUT_WAITING}) AS quick
    WHERE NOT EXISTS (SELECT FROM pm_celery_wakeup AS woken
                      WHERE woken.lane = wanted.lane AND woken.outstanding_until > %s)
    ORDER BY lane
    ON CONFLICT (lane) DO UPDATE SET outstanding_until = EXCLUDED.outstanding_until
    WHERE known.outstanding_until IS NULL OR known.outstanding_until <= %s
    RETURNING lane {{told}}
"""

_REST = f"""
    UPDATE pm_celery_wakeup SET outstanding_until = NULL FROM ({_WITHOUT_WAITING}) AS quick
    WHERE lane = %s
"""

_DUE_PARTITIONS = """
    SELECT looked.at FROM unnest(%b::int[]) AS looked(at)
    WHERE EXISTS (SELECT FROM pm_celery_inboxmessage AS message
                  WHERE message.partition = looked.at
                    AND status IN ('pending', 'waiting') AND due_at <= %s)
"""


def insert_messages(alias: str, rows: Sequence[NewMessage]) -> int | None:
    if len(rows) > _FEW:
        return _run(alias, _INSERT_MESSAGES, _arrays(rows, _NEW_MESSAGE), len(rows))
    query = _INSERT_FEW_MESSAGES.format(messages=", ".join([_ONE_MESSAGE] * len(rows)))
    values = attrgetter(*_NEW_MESSAGE)
    # Not prepared, in the caller's transaction: behind a pooler that nobody told of, that would break it.
    with connections[alias].cursor() as cursor:
        cursor.execute(query, [value for row in rows for value in values(row)])
        return int(cursor.rowcount)


def claim(
    alias: str,
    lane: int,
    partitions: Sequence[int],
    others: Sequence[int],
    now: datetime,
    limit: int,
    passed: Collection[int],
    awake_until: datetime,
    attended_until: datetime,
    began_before: datetime,
) -> Claim:
    but_for = [list(passed)] if passed else []
    first, looked = partitions[0], list(partitions)
    newest = limit // 4
    overdue = limit - newest
    rows = _fetch(
        alias,
        _CLAIM.format(passed=_PASSED if passed else ""),
        [
            *(lane, now, attended_until),
            *(looked, now, *but_for, overdue, overdue),
            *(first, now, *but_for, overdue, newest),
            *(list(others), now, *but_for),
            now,
            *(lane, awake_until),
            began_before,
        ],
    )
    *_, mark, longest_overdue, left, is_attended = rows[0]
    if rows[0][0] is None:
        return Claim(is_attended=is_attended)
    return Claim(
        [Claimed(*row[:4]) for row in rows],
        mark,
        longest_overdue >= overdue,
        left or [],
    )


def lock_instances(
    alias: str, keys: Sequence[tuple[str, str, int]], now: datetime, mark: int | None
) -> list[InstanceRow]:
    columns = [list(column) for column in zip(*keys, strict=True)]
    rows = _fetch(alias, _LOCK_INSTANCES, [mark, *columns, now, now], len(keys))
    return [InstanceRow(*row) for row in rows]


def lock_messages(alias: str, ids: Collection[int]) -> list[InboxRow]:
    return [InboxRow(*row) for row in _fetch(alias, _LOCK_MESSAGES, [list(ids)], len(ids))]


def read_open(
    alias: str, keys: Collection[InstanceKey], now: datetime, each: int, before: int | None
) -> list[InboxRow]:
    bound = [] if before is None else [before]
    query = _READ_OPEN.format(before="AND message.id < %s" if bound else "")
    rows = _fetch(alias, query, [*_pairs(keys), now, *bound, each], len(keys))
    return [InboxRow(*row) for row in rows]


def record(
    alias: str,
    now: datetime,
    *,
    instances: Sequence[InstanceRow] = (),
    transitions: Sequence[TransitionRow] = (),
    commands: Sequence[CommandRow] = (),
    marks: Sequence[InboxMark] = (),
) -> None:
    handled = [mark for mark in marks if mark.status == "handled"]
    others = [mark for mark in marks if mark.status != "handled"]
    parts: list[tuple[str, list[Any]]] = []
    if instances:
        columns = _arrays(instances, _INSTANCE_WRITTEN)
        parts.append((_UPDATE_INSTANCES, [now, *columns, columns[0]]))
    if transitions:
        parts.append((_INSERT_TRANSITIONS, [now, *_arrays(transitions, _TRANSITION)]))
    if commands:
        parts.append((_INSERT_COMMANDS, _arrays(commands, _COMMAND)))
    if handled:
        parts.append((_MARK_HANDLED, [handled[0].handled_at, [mark.id for mark in handled]]))
    if others:
        columns = _arrays(others, _MARK)
        parts.append((_MARK_MESSAGES, [*columns, columns[0]]))
    if parts:
        # They touch different rows, so that they may share one round trip, and one snapshot.
        steps = ", ".join(f"step_{n} AS ({query})" for n, (query, _) in enumerate(parts))
        most = max(len(instances), len(transitions), len(commands), len(marks))
        values = [value for _, values in parts for value in values]
        _run(alias, f"WITH {steps} SELECT", values, most)


def begin_batch(alias: str, message_ids: str, now: datetime) -> int:
    return int(_fetch(alias, _BEGIN_BATCH, [message_ids, now])[0][0])


def take_commands(alias: str, command_ids: Sequence[UUID]) -> list[OutboxCommand]:
    rows = _fetch(alias, _TAKE_COMMANDS, [list(command_ids)], len(command_ids))
    return [OutboxCommand.from_db(alias, _OUTBOX, row) for row in rows]


def finish_commands(alias: str, ids: Sequence[int], now: datetime, runs: int) -> None:
    _run(alias, _FINISH_COMMANDS, [runs, now, list(ids)], len(ids))


def wake(
    alias: str, lanes: Sequence[int], now: datetime, until: datetime, told: str = ""
) -> list[int]:
    query = _WAKE.format(wanted=", ".join(["(%s::int)"] * len(lanes)), told=told)
    return [row[0] for row in _fetch(alias, query, [until, *lanes, now, now])]


def notify(alias: str, lanes: Sequence[int], now: datetime, until: datetime) -> list[int]:
    # In the statement's own transaction, which does not wait for the disk: commits that notify happen one
    # after the other in the whole server.
    return wake(alias, lanes, now, until, f", pg_notify('{CHANNEL}', lane::text)")


def rest(alias: str, lane: int) -> None:
    _run(alias, _REST, [lane])


def due_partitions(alias: str, partitions: Sequence[int], now: datetime) -> list[int]:
    return [row[0] for row in _fetch(alias, _DUE_PARTITIONS, [list(partitions), now])]
