"""The floor: the engine's rows for the order without commands, by plain psycopg.

One process, no Django, no Celery, no checks of any kind: batches of 500 in one transaction each, arrays and
``unnest``, JSON in and JSON out. What a general engine takes longer than this is the price of its promises.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg

__all__ = ["drain"]

_BATCH = 500
_PARTITIONS = 16

_Row = tuple[Any, ...]

_CLAIM = """
    SELECT id, process, key, name, payload, message_id, correlation_id, causation_id
    FROM pm_celery_inboxmessage
    WHERE partition = %s AND status IN ('pending', 'waiting') AND due_at <= %s
    ORDER BY partition, due_at, id LIMIT %s FOR UPDATE SKIP LOCKED
"""

_LOCK = """
    SELECT instance.id, instance.key, instance.state, instance.number
    FROM unnest(%s::text[], %s::text[]) AS wanted(process, key)
    JOIN pm_celery_instance AS instance
      ON instance.process = wanted.process AND instance.key = wanted.key
    FOR NO KEY UPDATE OF instance
"""

_INSERT = """
    INSERT INTO pm_celery_instance
        (process, key, partition, status, state, number, correlation_id,
         started_at, changed_at, ended_at)
    SELECT process, key, %s, status, state, number, correlation_id, %s, %s, ended_at
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::int[], %s::text[],
                %s::timestamptz[])
      AS new(process, key, status, state, number, correlation_id, ended_at)
    RETURNING id, key
"""

_UPDATE = """
    UPDATE pm_celery_instance AS instance
    SET status = new.status, state = new.state, number = new.number, ended_at = new.ended_at,
        changed_at = %s
    FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::int[], %s::timestamptz[])
      AS new(id, status, state, number, ended_at)
    WHERE instance.id = new.id
"""

_INSERT_TRANSITIONS = """
    INSERT INTO pm_celery_transition
        (instance_id, number, kind, name, message_id, inbox_id, handler, state, status, commands,
         timers, correlation_id, causation_id, attempt, recorded_at)
    SELECT instance_id, number, 'event', name, message_id, inbox_id, handler, state, status, '[]',
           '{}', correlation_id, causation_id, 1, %s
    FROM unnest(%s::bigint[], %s::int[], %s::text[], %s::text[], %s::bigint[], %s::text[],
                %s::text[], %s::text[], %s::text[], %s::text[])
      AS new(instance_id, number, name, message_id, inbox_id, handler, state, status,
             correlation_id, causation_id)
"""

_MARK = """
    UPDATE pm_celery_inboxmessage SET status = 'handled', attempts = 1, handled_at = %s
    WHERE id = ANY(%s)
"""

_HANDLERS = {
    "shop.SilentPlaced": "order_placed",
    "shop.SilentPaid": "order_paid",
    "shop.SilentDelivered": "order_delivered",
}


class _Instance:
    """One order in a batch."""

    def __init__(self, process: str, key: str, correlation_id: str) -> None:
        self.id: int | None = None
        self.process = process
        self.key = key
        self.correlation_id = correlation_id
        self.state: dict[str, Any] = {"order_id": None, "paid": 0, "seen": []}
        self.text = ""
        self.number = 0
        self.status = "started"
        self.ended_at: datetime | None = None

    def apply(self, name: str, payload: str, now: datetime) -> None:
        """What the handlers of ``SilentOrder`` do."""
        event = json.loads(payload)
        if name == "shop.SilentPlaced":
            self.state["order_id"] = event["order_id"]
        elif name == "shop.SilentPaid":
            self.state["paid"] = event["amount"]
        else:
            self.status, self.ended_at = "completed", now
        self.state["seen"].append(event["sequence"])
        self.text = json.dumps(self.state, separators=(",", ":"))
        self.number += 1


def drain(address: str) -> int:
    """Handle everything that is due; how many events that was."""
    handled = 0
    with psycopg.connect(address) as connection:
        for partition in range(_PARTITIONS):
            while done := _batch(connection, partition):
                handled += done
    return handled


def _batch(connection: psycopg.Connection, partition: int) -> int:
    now = datetime.now(UTC)
    with connection.transaction(), connection.cursor() as cursor:
        rows = cursor.execute(_CLAIM, [partition, now, _BATCH]).fetchall()
        if not rows:
            return 0
        instances = _locked(cursor, rows)
        steps = [(instances[row[2]], *_step(instances[row[2]], row, now)) for row in rows]
        _write_instances(cursor, partition, list(instances.values()), now)
        transitions = [(instance.id, *step) for instance, *step in steps]
        cursor.execute(_INSERT_TRANSITIONS, [now, *_arrays(transitions)])
        cursor.execute(_MARK, [now, [row[0] for row in rows]])
    return len(rows)


def _locked(cursor: psycopg.Cursor, rows: Sequence[_Row]) -> dict[str, _Instance]:
    instances = {row[2]: _Instance(row[1], row[2], row[6]) for row in rows}
    processes = [instance.process for instance in instances.values()]
    for pk, key, state, number in cursor.execute(_LOCK, [processes, list(instances)]):
        found = instances[key]
        found.id, found.state, found.number = pk, json.loads(state), number
    return instances


def _step(instance: _Instance, row: _Row, now: datetime) -> _Row:
    """Apply an event; its transition, but for the instance's id, which may not exist yet."""
    pk, _, _, name, payload, message_id, correlation_id, causation_id = row
    instance.apply(name, payload, now)
    outcome = (_HANDLERS[name], instance.text, instance.status)
    return (instance.number, name, message_id, pk, *outcome, correlation_id, causation_id)


def _write_instances(
    cursor: psycopg.Cursor, partition: int, instances: Sequence[_Instance], now: datetime
) -> None:
    known = [
        (found.id, found.status, found.text, found.number, found.ended_at)
        for found in instances
        if found.id is not None
    ]
    if known:
        cursor.execute(_UPDATE, [now, *_arrays(known)])
    fresh = {found.key: found for found in instances if found.id is None}
    if fresh:
        values = [
            (
                new.process,
                new.key,
                new.status,
                new.text,
                new.number,
                new.correlation_id,
                new.ended_at,
            )
            for new in fresh.values()
        ]
        for pk, key in cursor.execute(_INSERT, [partition, now, now, *_arrays(values)]):
            fresh[key].id = pk


def _arrays(rows: Sequence[_Row]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
