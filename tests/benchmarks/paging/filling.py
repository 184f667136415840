"""Fills every table of the package by INSERT … SELECT, in the proportions of a project that has run for a
year. PostgreSQL only.

The instances are shared out among the processes that are registered. Each has five transitions, one handled
message (as after pruning), and one command. What is rare in life is rare here, and old: some statuses are
found among the first thousand rows only, so that a question that walks from the newest row reads all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from django.apps import apps
from django.db import connection

from pm_celery import clock, registry
from pm_celery.definitions import ProcessDefinition
from pm_celery.models import Tally
from pm_celery.tallies import (
    BEGAN,
    BOUNDS,
    COMMAND,
    DIED,
    HANDLED,
    HANDLER,
    OPEN,
    PERIODS,
    RUN_FAILED,
)

__all__ = ["STEPS", "fill"]

#: Transitions of an instance.
STEPS = 5

_STATUS = """
    CASE WHEN i <= least(1000, %(instances)s / 20) THEN 'cancelled'
         WHEN i %% 1000 = 501 THEN 'failed'
         WHEN i %% 100 = 2 THEN 'timed_out'
         WHEN i %% 100 BETWEEN 3 AND 14 THEN 'started'
         ELSE 'completed' END
"""
_MOMENT = "now() - interval '365 days' * (%(instances)s - i) / %(instances)s"

_INSTANCES = f"""
    INSERT INTO pm_celery_instance (id, process, key, partition, status, state, number, correlation_id,
        started_at, changed_at, ended_at, timeout_at)
    SELECT i, %(process)s, md5('key' || i)::uuid, i %% 16, status,
        replace(%(state)s, '"moves":0', '"moves":' || i %% 100000), {STEPS},
        md5('conversation' || i)::uuid, at, at + interval '1 day',
        CASE WHEN status NOT IN ('started', 'failed') THEN at + interval '1 day' END,
        CASE WHEN status = 'started' THEN now() + interval '30 days' * (i %% 97) / 97 END
    FROM (SELECT i, {_STATUS} AS status, {_MOMENT} AS at
          FROM generate_series(%(first)s::bigint, %(instances)s, %(processes)s) AS i) AS made
"""

_TRANSITIONS = f"""
    INSERT INTO pm_celery_transition (instance_id, number, kind, name, message_id, inbox_id, handler, state,
        status, commands, timers, correlation_id, causation_id, attempt, duration, recorded_at)
    SELECT id, n, 'event', (%(events)s::text[])[n], md5('message' || id || '-' || n)::uuid,
        CASE WHEN n = {STEPS} THEN id END, (%(handlers)s::text[])[n], state,
        CASE WHEN n = {STEPS} THEN status ELSE 'started' END,
        CASE WHEN n = {STEPS} THEN '[["' || md5('command' || id)::uuid || '", "' || %(command)s || '"]]'
             ELSE '[]' END,
        '{{}}', correlation_id, '', 1, 0.002, started_at + interval '3 hours' * n
    FROM pm_celery_instance CROSS JOIN generate_series(1, {STEPS}) AS n
    WHERE process = %(process)s
    ORDER BY id, n
"""

_MESSAGES = """
    INSERT INTO pm_celery_inboxmessage (id, message_id, kind, name, version, payload, process, key, partition,
        status, reason, due_at, attempts, correlation_id, causation_id, depth, occurred_at, published_at,
        handled_at)
    SELECT id, message_id, kind, name, 1, '{"sequence":5}', process, key, partition, status, '', due_at, 1,
        correlation_id, '', 0, at, at, CASE WHEN status IN ('handled', 'skipped', 'unmatched') THEN at END
    FROM (
        SELECT id, md5('message' || id || '-' || 5)::uuid AS message_id, 'event' AS kind,
            (%(events)s::text[])[5] AS name, process, key, partition,
            CASE WHEN status = 'failed' THEN 'dead' WHEN id <= 200 THEN 'unmatched'
                 WHEN id <= 400 THEN 'skipped' ELSE 'handled' END AS status,
            changed_at AS due_at, correlation_id, changed_at AS at
        FROM pm_celery_instance WHERE process = %(process)s
        UNION ALL
        SELECT %(instances)s * n + id, md5('open' || id || '-' || n)::uuid,
            CASE WHEN n = 1 THEN 'event' ELSE 'timer' END, (%(events)s::text[])[n], process, key, partition,
            CASE WHEN status = 'failed' THEN 'parked' WHEN id %% 3 = 0 THEN 'waiting' ELSE 'pending' END,
            now() + interval '1 hour' * (id %% 48 - 24), correlation_id, now() - interval '1 hour'
        FROM pm_celery_instance CROSS JOIN generate_series(1, 2) AS n
        WHERE process = %(process)s
          AND (status = 'failed' OR status = 'started' AND id > %(instances)s - %(instances)s / 10)
    ) AS made ORDER BY id
"""

_COMMANDS = """
    INSERT INTO pm_celery_outboxcommand (command_id, kind, name, version, payload, options, process, key,
        instance_id, status, reason, due_at, dispatches, attempts, correlation_id, causation_id, depth,
        duration, issued_at, settled_at)
    SELECT md5('command' || id)::uuid, CASE WHEN id <= 50 THEN 'signature' ELSE 'command' END, %(command)s, 1,
        '{"sequence":5}', '{}', process, key, id, made, '', changed_at, 1, 1, correlation_id,
        md5('message' || id || '-' || 5)::uuid, 0, 0.01, changed_at,
        CASE WHEN made = 'done' THEN changed_at END
    FROM (SELECT *, CASE WHEN id <= 100 THEN 'cancelled' WHEN id %% 2000 = 7 THEN 'dead'
                         WHEN id > %(instances)s - 500 THEN 'pending'
                         WHEN id > %(instances)s - 1000 THEN 'dispatched' ELSE 'done' END AS made
          FROM pm_celery_instance WHERE process = %(process)s) AS instance
    ORDER BY id
"""

_TIMERS = """
    INSERT INTO pm_celery_timer (instance_id, name, token, due_at, payload, fired_at, correlation_id,
        causation_id)
    SELECT id, name, md5(name || id)::uuid, now() + interval '30 days' * (id %% 97) / 97, 'null',
        CASE WHEN id %% 5000 = 3 THEN now() END, correlation_id, ''
    FROM pm_celery_instance CROSS JOIN unnest(ARRAY['reminder', 'escalation']) AS name
    WHERE status = 'started'
    ORDER BY id
"""

_GROUPS = """
    INSERT INTO pm_celery_lettergroup (id, process, place, name, exception, first_at)
    SELECT md5(process || n), process, 'handler', 'shop.Event' || n, 'shop.errors.Error' || n,
        now() - interval '300 days'
    FROM unnest(%(names)s::text[]) AS process CROSS JOIN generate_series(0, 9) AS n
"""

# One instance has gone through ten thousand steps more than the others.
_LONG = f"""
    INSERT INTO pm_celery_transition (instance_id, number, kind, name, message_id, inbox_id, handler, state,
        status, commands, timers, correlation_id, causation_id, attempt, duration, recorded_at)
    SELECT instance_id, {STEPS} + n, kind, name, md5('long' || n)::uuid, NULL, handler, state, status, '[]',
        '{{}}', correlation_id, '', 1, 0.002, recorded_at
    FROM pm_celery_transition CROSS JOIN generate_series(1, 10000) AS n
    WHERE instance_id = 1 AND number = {STEPS};
    UPDATE pm_celery_instance SET number = {STEPS} + 10000 WHERE id = 1
"""

# Every failed instance has an open letter; of those that are settled there are ten times as many.
_LETTERS = """
    INSERT INTO pm_celery_deadletter (message_id, command_id, instance_id, group_id, place, process, key,
        name, message_ref, handler, payload, exception, error, traceback, attempts, failure_handler_error,
        status, died_at, settled_at, settled_by, original_payload, note)
    SELECT id, NULL, id, md5(process || n), 'handler', process, key, 'shop.Event' || n,
        md5('message' || id || '-' || 5)::uuid, 'posted', '{"sequence":5}', 'shop.errors.Error' || n,
        'The warehouse did not answer.', repeat('  File "shop.py", line 5, in posted' || chr(10), 30), 4, '',
        CASE WHEN status = 'failed' THEN 'open' WHEN id %% 2 = 0 THEN 'retried' ELSE 'discarded' END,
        changed_at, CASE WHEN status <> 'failed' THEN changed_at END, '', '', ''
    FROM (SELECT *, id / 1000 %% 10 AS n FROM pm_celery_instance) AS instance
    WHERE status = 'failed' OR id %% 100 = 50
    ORDER BY id
"""

_ATTEMPTS = """
    INSERT INTO pm_celery_failedattempt (message_id, command_id, number, failed_at, handler, exception, error)
    SELECT message_id, NULL, n, died_at - interval '1 minute' * (4 - n), handler, exception, error
    FROM pm_celery_deadletter CROSS JOIN generate_series(1, 4) AS n
"""

_INTERVENTIONS = """
    INSERT INTO pm_celery_intervention (verb, instance_id, process, key, subject, details, by, reason, at)
    SELECT 'retry dead letter', instance_id, process, key, id || ' (' || name || ')', '{}', 'ann',
        'the warehouse is back', settled_at
    FROM pm_celery_deadletter WHERE settled_at IS NOT NULL
"""

_REST = """
    INSERT INTO pm_celery_tallyentry (at, counts)
    SELECT now(), '[["' || (%(names)s::text[])[1] || '", "handled", "", -1, 5, 0.01]]'
    FROM generate_series(1, 500);
    INSERT INTO pm_celery_pause (process, paused_at, paused_by, reason)
    SELECT (%(names)s::text[])[1], now(), 'ann', 'the warehouse burns';
    INSERT INTO pm_celery_bulkaction (verb, conditions, total, done, refused, cursor, last, by, reason,
        asked_at, worked_at, ended_at, stopped_by)
    SELECT 'retry', '{}', 1000, 990, '{"already settled": 10}', 1000, 1000, 'ann', '', now(), now(), now(), ''
    FROM generate_series(1, 3);
    INSERT INTO pm_celery_heartbeat (name, beat_at) VALUES ('tick', now()), ('fold', now());
    INSERT INTO pm_celery_wakeup (lane, outstanding_until) VALUES (16, NULL);
    INSERT INTO pm_celery_batch (message_ids, began_at) VALUES ('[1, 2, 3]', now())
"""


@dataclass(frozen=True)
class _Share:
    """A process, and which instances are its own: each of so many, from the first on."""

    definition: ProcessDefinition
    first: int
    processes: int
    instances: int

    @property
    def values(self) -> dict[str, Any]:
        handlers = self.definition.event_handlers
        names = [declared.name for declared in handlers] or ["shop.Nothing"]
        methods = [handler.method for handler in handlers.values()] or ["nothing"]
        commands = [handler.name for handler in registry.command_handlers] or ["shop.Nothing"]
        return {
            "process": self.definition.name,
            "first": self.first,
            "processes": self.processes,
            "instances": self.instances,
            "state": self.definition.dump(self.definition.initial())[0],
            "events": list(islice(cycle(names), STEPS)),
            "handlers": list(islice(cycle(methods), STEPS)),
            "command": commands[0],
        }


def fill(instances: int, say: Callable[[str], None] = lambda text: None) -> None:
    """Fill the tables, which must be empty, with sequences set; statistics are the caller's."""
    definitions = [found for found in registry.listeners if isinstance(found, ProcessDefinition)]
    shares = [
        _Share(definition, number, len(definitions), instances)
        for number, definition in enumerate(definitions, 1)
    ]
    with connection.cursor() as cursor:
        for statement in (_INSTANCES, _TRANSITIONS, _MESSAGES, _COMMANDS):
            for share in shares:
                cursor.execute(statement, share.values)
                say(f"{share.definition.name}: {cursor.rowcount:,} rows")
        names = {"names": [share.definition.name for share in shares]}
        for statement in (
            *_LONG.split(";"),
            _TIMERS,
            _GROUPS,
            _LETTERS,
            _ATTEMPTS,
            _INTERVENTIONS,
            *_REST.split(";"),
        ):
            cursor.execute(statement, names)
            say(f"{cursor.rowcount:,} rows")
        _tally(cursor, shares)
        for table in _tables():
            cursor.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table} "
                "HAVING max(id) IS NOT NULL"
            )


def analyze() -> None:
    """Fresh statistics and visibility maps, as autovacuum leaves them."""
    with connection.cursor() as cursor:
        for model in apps.get_app_config("pm_celery").get_models():
            cursor.execute(f"VACUUM (ANALYZE) {model._meta.db_table}")


def _tables() -> list[str]:
    """Those whose ids are counted by the database."""
    models = apps.get_app_config("pm_celery").get_models()
    return [
        model._meta.db_table
        for model in models
        if model._meta.pk.get_internal_type().endswith("AutoField")
    ]


def _tally(cursor: Any, shares: list[_Share]) -> None:
    """The sums as the tick has added them up: true ones of statuses and letters, others made up."""
    now = clock.now()
    epoch = now.fromtimestamp(0, now.tzinfo)
    sums: list[Tally] = []

    def add(
        period: int, start: Any, process: str, what: str, detail: str, bucket: int, count: int
    ) -> None:
        sums.append(
            Tally(
                period=period,
                start=start,
                process=process,
                what=what,
                detail=detail,
                bucket=bucket,
                count=count,
                seconds=count / 100 if bucket >= 0 else 0.0,
            )
        )

    cursor.execute("SELECT process, status, count(*) FROM pm_celery_instance GROUP BY 1, 2")
    for process, status, count in cursor.fetchall():
        add(0, epoch, process, status, "", -1, count)
    cursor.execute(
        "SELECT process, group_id, count(*), count(*) FILTER (WHERE status = 'open') "
        "FROM pm_celery_deadletter GROUP BY 1, 2"
    )
    for process, group, count, still_open in cursor.fetchall():
        add(0, epoch, process, DIED, group, -1, count)
        add(0, epoch, process, OPEN, group, -1, still_open)
    for share in shares:
        values = share.values
        for what, details in ((HANDLER, set(values["handlers"])), (COMMAND, {values["command"]})):
            for detail in details:
                for bucket in range(len(BOUNDS) + 1):
                    add(0, epoch, values["process"], what, detail, bucket, 1000 // (bucket + 1))
        for what in (BEGAN, HANDLED, RUN_FAILED):
            add(0, epoch, values["process"], what, "", -1, share.instances)
            for period, kept in PERIODS.items():
                last = int(now.timestamp()) // period
                for number in range(int(kept.total_seconds()) // period):
                    start = now.fromtimestamp((last - number) * period, now.tzinfo)
                    add(period, start, values["process"], what, "", -1, number % 50)
    Tally.objects.bulk_create(sums, batch_size=2000)


def about() -> str:
    """How many rows there are, by the statistics, as JSON."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname, reltuples::bigint FROM pg_class WHERE relname LIKE 'pm_celery_%%' "
            "AND relkind = 'r' AND reltuples > 0 ORDER BY 2 DESC"
        )
        return json.dumps(dict(cursor.fetchall()))
