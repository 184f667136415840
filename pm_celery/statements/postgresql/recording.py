"""Insert, record, and what executing commands needs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

from django.db import connections

from pm_celery.models import OutboxCommand
from pm_celery.rows import CommandRow, InboxMark, InstanceRow, NewMessage, TransitionRow
from pm_celery.statements.postgresql.binding import arrays, columns_of, fetch, run, unnest

__all__ = ["finish_commands", "insert_messages", "record", "take_commands"]

# One event at a time is the rule in web requests; arrays would take longer to make than a list of values.
_FEW = 5

_NEW_MESSAGE = columns_of(NewMessage)
_INSTANCE_WRITTEN = columns_of(InstanceRow, "process", "key", "partition")
_TRANSITION = columns_of(TransitionRow)
_COMMAND = columns_of(CommandRow)
_MARK = columns_of(InboxMark)
_OUTBOX = [field.attname for field in OutboxCommand._meta.concrete_fields]

_INSERT_MESSAGES = f"""
    INSERT INTO pm_celery_inboxmessage ({", ".join(_NEW_MESSAGE)}, attempts)
    SELECT *, 0 FROM {unnest(_NEW_MESSAGE)}
    ON CONFLICT (message_id, process) DO NOTHING
"""

_ONE_MESSAGE = f"({', '.join(['%s'] * len(_NEW_MESSAGE))}, 0)"
_INSERT_FEW_MESSAGES = f"""
    INSERT INTO pm_celery_inboxmessage ({", ".join(_NEW_MESSAGE)}, attempts)
    VALUES {{messages}}
    ON CONFLICT (message_id, process) DO NOTHING
"""

# Hidden for another reason too: of an array that it sees, the planner would make a scan of the whole table,
# while that has less than some hundred thousand rows.
_BY_INDEX = "{} = ANY(ARRAY(SELECT * FROM unnest(%b::bigint[])))"

_UPDATE_INSTANCES = f"""
    UPDATE pm_celery_instance AS instance
    SET {", ".join(f"{name} = new.{name}" for name in _INSTANCE_WRITTEN[1:])}, changed_at = %s
    FROM {unnest(_INSTANCE_WRITTEN)} AS new({", ".join(_INSTANCE_WRITTEN)})
    WHERE instance.id = new.id AND {_BY_INDEX.format("instance.id")}
"""

_INSERT_TRANSITIONS = f"""
    INSERT INTO pm_celery_transition (recorded_at, {", ".join(_TRANSITION)})
    SELECT %s, * FROM {unnest(_TRANSITION)}
"""

_INSERT_COMMANDS = f"""
    INSERT INTO pm_celery_outboxcommand ({", ".join(_COMMAND)}, attempts)
    SELECT *, 0 FROM {unnest(_COMMAND)}
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
    FROM {unnest(_MARK)} AS mark({", ".join(_MARK)})
    WHERE message.id = mark.id AND {_BY_INDEX.format("message.id")}
"""

_TAKE_COMMANDS = f"""
    SELECT {", ".join(_OUTBOX)} FROM pm_celery_outboxcommand
    WHERE command_id = ANY(ARRAY(SELECT * FROM unnest(%b::uuid[])))
      AND status || '' = 'dispatched'
    ORDER BY id FOR UPDATE SKIP LOCKED
"""

_INSERT_COUNTS = "INSERT INTO pm_celery_tallyentry (at, counts) VALUES (%s, %s)"

_FINISH_COMMANDS = f"""
    WITH counted AS ({_INSERT_COUNTS})
    UPDATE pm_celery_outboxcommand AS command
    SET status = 'done', attempts = attempts + %s, settled_at = %s, reason = '', duration = ran.duration
    FROM {unnest(["id", "duration"])} AS ran(id, duration)
    WHERE command.id = ran.id AND {_BY_INDEX.format("command.id")}
"""


def insert_messages(alias: str, rows: Sequence[NewMessage]) -> int | None:
    if len(rows) > _FEW:
        return run(alias, _INSERT_MESSAGES, arrays(rows, _NEW_MESSAGE), len(rows))
    query = _INSERT_FEW_MESSAGES.format(messages=", ".join([_ONE_MESSAGE] * len(rows)))
    values = attrgetter(*_NEW_MESSAGE)
    # Not prepared, in the caller's transaction: behind a pooler that nobody told of, that would break it.
    with connections[alias].cursor() as cursor:
        cursor.execute(query, [value for row in rows for value in values(row)])
        return int(cursor.rowcount)


def record(
    alias: str,
    now: datetime,
    *,
    instances: Sequence[InstanceRow] = (),
    transitions: Sequence[TransitionRow] = (),
    commands: Sequence[CommandRow] = (),
    marks: Sequence[InboxMark] = (),
    counts: str = "",
) -> None:
    handled = [mark for mark in marks if mark.status == "handled"]
    others = [mark for mark in marks if mark.status != "handled"]
    parts: list[tuple[str, list[Any]]] = []
    if instances:
        columns = arrays(instances, _INSTANCE_WRITTEN)
        parts.append((_UPDATE_INSTANCES, [now, *columns, columns[0]]))
    if transitions:
        parts.append((_INSERT_TRANSITIONS, [now, *arrays(transitions, _TRANSITION)]))
    if commands:
        parts.append((_INSERT_COMMANDS, arrays(commands, _COMMAND)))
    if handled:
        parts.append((_MARK_HANDLED, [handled[0].handled_at, [mark.id for mark in handled]]))
    if others:
        columns = arrays(others, _MARK)
        parts.append((_MARK_MESSAGES, [*columns, columns[0]]))
    if counts:
        parts.append((_INSERT_COUNTS, [now, counts]))
    if parts:
        # They touch different rows, so that they may share one round trip, and one snapshot.
        steps = ", ".join(f"step_{n} AS ({query})" for n, (query, _) in enumerate(parts))
        most = max(len(instances), len(transitions), len(commands), len(marks))
        values = [value for _, values in parts for value in values]
        run(alias, f"WITH {steps} SELECT", values, most)


def take_commands(alias: str, command_ids: Sequence[UUID]) -> list[OutboxCommand]:
    rows = fetch(alias, _TAKE_COMMANDS, [list(command_ids)], len(command_ids))
    return [OutboxCommand.from_db(alias, _OUTBOX, row) for row in rows]


def finish_commands(
    alias: str,
    ids: Sequence[int],
    durations: Sequence[float],
    now: datetime,
    runs: int,
    counts: str,
) -> None:
    ran = [list(ids), list(durations)]
    run(alias, _FINISH_COMMANDS, [now, counts, runs, now, *ran, ran[0]], len(ids))
