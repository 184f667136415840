"""Claim and lock, and the marks of wake-ups and batches that go with them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from pm_celery.rows import SUSPECT, Claim, Claimed, InboxRow, InstanceRow
from pm_celery.statements import CHANNEL, InstanceKey
from pm_celery.statements.postgresql.binding import (
    WITHOUT_WAITING,
    columns_of,
    fetch,
    pairs,
    run,
)

__all__ = [
    "begin_batch",
    "claim",
    "due_partitions",
    "lock_instances",
    "lock_messages",
    "notify",
    "read_open",
    "rest",
    "wake",
]

_INBOX = columns_of(InboxRow)
_INSTANCE = columns_of(InstanceRow)

_CLAIMED = f"id, process, key, attempts > 0 OR reason = '{SUSPECT}' AS tried"

# What is due, the mark that a batch of it begins, and that of its wake-up; and the older marks that nobody
# holds. Where the first partition has a backlog, three quarters are the longest overdue, and one quarter is
# the newest; and the newest one of some others is taken along, so that fresh events get through. ORDER BY
# starts with the partition, or the planner walks the primary key instead of pm_inbox_due.
_CLAIM = f"""
    WITH quick AS MATERIALIZED ({WITHOUT_WAITING}),
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
           EXISTS (SELECT FROM pm_celery_pause WHERE resumed_at IS NULL),
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

_BEGIN_BATCH = f"""
    INSERT INTO pm_celery_batch (message_ids, began_at)
    SELECT %s, %s FROM ({WITHOUT_WAITING}) AS quick RETURNING id
"""

# It looks before it writes, because most often there is one outstanding, and a statement that writes
# nothing costs half.
_WAKE = f"""
    INSERT INTO pm_celery_wakeup AS known (lane, outstanding_until)
    SELECT lane, %s FROM (VALUES {{wanted}}) AS wanted(lane), ({WITHOUT_WAITING}) AS quick
    WHERE NOT EXISTS (SELECT FROM pm_celery_wakeup AS woken
                      WHERE woken.lane = wanted.lane AND woken.outstanding_until > %s)
    ORDER BY lane
    ON CONFLICT (lane) DO UPDATE SET outstanding_until = EXCLUDED.outstanding_until
    WHERE known.outstanding_until IS NULL OR known.outstanding_until <= %s
    RETURNING lane {{told}}
"""

_REST = f"""
    UPDATE pm_celery_wakeup SET outstanding_until = NULL FROM ({WITHOUT_WAITING}) AS quick
    WHERE lane = %s
"""

_DUE_PARTITIONS = """
    SELECT looked.at FROM unnest(%b::int[]) AS looked(at)
    WHERE EXISTS (SELECT FROM pm_celery_inboxmessage AS message
                  WHERE message.partition = looked.at
                    AND status IN ('pending', 'waiting') AND due_at <= %s)
"""


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
    rows = fetch(
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
    *_, mark, longest_overdue, left, is_any_paused, is_attended = rows[0]
    if rows[0][0] is None:
        return Claim(is_attended=is_attended)
    return Claim(
        [Claimed(*row[:4]) for row in rows],
        mark,
        longest_overdue >= overdue,
        left or [],
        is_any_paused=is_any_paused,
    )


def lock_instances(
    alias: str, keys: Sequence[tuple[str, str, int]], now: datetime, mark: int | None
) -> list[InstanceRow]:
    columns = [list(column) for column in zip(*keys, strict=True)]
    rows = fetch(alias, _LOCK_INSTANCES, [mark, *columns, now, now], len(keys))
    return [InstanceRow(*row) for row in rows]


def lock_messages(alias: str, ids: Collection[int]) -> list[InboxRow]:
    return [InboxRow(*row) for row in fetch(alias, _LOCK_MESSAGES, [list(ids)], len(ids))]


def read_open(
    alias: str, keys: Collection[InstanceKey], now: datetime, each: int, before: int | None
) -> list[InboxRow]:
    bound = [] if before is None else [before]
    query = _READ_OPEN.format(before="AND message.id < %s" if bound else "")
    rows = fetch(alias, query, [*pairs(keys), now, *bound, each], len(keys))
    return [InboxRow(*row) for row in rows]


def begin_batch(alias: str, message_ids: str, now: datetime) -> int:
    return int(fetch(alias, _BEGIN_BATCH, [message_ids, now])[0][0])


def wake(
    alias: str, lanes: Sequence[int], now: datetime, until: datetime, told: str = ""
) -> list[int]:
    query = _WAKE.format(wanted=", ".join(["(%s::int)"] * len(lanes)), told=told)
    return [row[0] for row in fetch(alias, query, [until, *lanes, now, now])]


def notify(alias: str, lanes: Sequence[int], now: datetime, until: datetime) -> list[int]:
    # In the statement's own transaction, which does not wait for the disk: commits that notify happen one
    # after the other in the whole server.
    return wake(alias, lanes, now, until, f", pg_notify('{CHANNEL}', lane::text)")


def rest(alias: str, lane: int) -> None:
    run(alias, _REST, [lane])


def due_partitions(alias: str, partitions: Sequence[int], now: datetime) -> list[int]:
    return [row[0] for row in fetch(alias, _DUE_PARTITIONS, [list(partitions), now])]
