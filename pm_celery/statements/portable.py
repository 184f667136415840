"""The hot path through the ORM's bulk calls, for SQLite and MariaDB."""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from django.db import connections
from django.db.models import Q

from pm_celery.models import (
    Batch,
    InboxMessage,
    Instance,
    OutboxCommand,
    Transition,
    Wakeup,
)
from pm_celery.rows import (
    Claimed,
    CommandRow,
    InboxMark,
    InboxRow,
    InstanceRow,
    NewMessage,
    TransitionRow,
)

InstanceKey = tuple[str, str]

# Each key is a pair of parameters in an OR; SQLite's parser and MariaDB's planner have their limits.
_KEYS_AT_ONCE = 200
_INBOX = [field.name for field in fields(InboxRow)]
_INSTANCE = [field.name for field in fields(InstanceRow)]


def _any_of(keys: Iterable[InstanceKey]) -> Q:
    by_process: dict[str, list[str]] = {}
    for process, key in keys:
        by_process.setdefault(process, []).append(key)
    return functools.reduce(
        operator.or_, (Q(process=process, key__in=keys) for process, keys in by_process.items())
    )


def _chunks(keys: Collection[InstanceKey]) -> Iterable[list[InstanceKey]]:
    listed = list(keys)
    for start in range(0, len(listed), _KEYS_AT_ONCE):
        yield listed[start : start + _KEYS_AT_ONCE]


def insert_messages(alias: str, rows: Sequence[NewMessage]) -> int | None:
    InboxMessage.objects.using(alias).bulk_create(
        [InboxMessage(**asdict(row)) for row in rows], ignore_conflicts=True, batch_size=1000
    )
    return None


def claim(
    alias: str,
    partition: int,
    now: datetime,
    limit: int,
    passed_keys: Collection[InstanceKey],
    passed_ids: Collection[int],
) -> list[Claimed]:
    due = InboxMessage.objects.using(alias).due(partition, now)
    if passed_keys:
        due = due.exclude(_any_of(passed_keys))
    if passed_ids:
        due = due.exclude(pk__in=passed_ids)
    return [Claimed(*row) for row in due.values_list("id", "process", "key", "attempts")[:limit]]


def lock_instances(alias: str, keys: Collection[InstanceKey]) -> list[InstanceRow]:
    return [
        InstanceRow(*row)
        for chunk in _chunks(keys)
        for row in Instance.objects.using(alias)
        .select_for_update(
            skip_locked=connections[alias].features.has_select_for_update_skip_locked
        )
        .filter(_any_of(chunk))
        .values_list(*_INSTANCE)
    ]


def create_instances(
    alias: str, keys: Sequence[tuple[str, str, int]], now: datetime
) -> list[InstanceRow]:
    Instance.objects.using(alias).bulk_create(
        [
            Instance(
                process=process,
                key=key,
                partition=partition,
                status="started",
                state="",
                number=0,
                correlation_id="",
                started_at=now,
                changed_at=now,
            )
            for process, key, partition in sorted(keys)
        ],
        ignore_conflicts=True,
    )
    # Placeholders are never committed, so one that is seen and not locked is ours.
    return [row for row in lock_instances(alias, [key[:2] for key in keys]) if row.number == 0]


def lock_messages(alias: str, ids: Collection[int]) -> list[InboxRow]:
    return [
        InboxRow(*row)
        for row in InboxMessage.objects.using(alias)
        .select_for_update(
            skip_locked=connections[alias].features.has_select_for_update_skip_locked
        )
        .open()
        .filter(pk__in=ids)
        .order_by("id")
        .values_list(*_INBOX)
    ]


def read_open(
    alias: str, keys: Collection[InstanceKey], now: datetime, limit: int, before: int | None
) -> list[InboxRow]:
    rows: list[InboxRow] = []
    for chunk in _chunks(keys):
        found = InboxMessage.objects.using(alias).unsettled().filter(_any_of(chunk))
        found = found.filter(Q(status="pending") | Q(status="waiting", due_at__lte=now))
        if before is not None:
            found = found.filter(pk__lt=before)
        rows += [InboxRow(*row) for row in found.order_by("id").values_list(*_INBOX)[:limit]]
    return sorted(rows, key=operator.attrgetter("id"))


def update_instances(alias: str, rows: Sequence[InstanceRow], now: datetime) -> None:
    columns = (
        "status",
        "state",
        "number",
        "correlation_id",
        "started_at",
        "ended_at",
        "timeout_at",
    )
    Instance.objects.using(alias).bulk_update(
        [Instance(**asdict(row), changed_at=now) for row in rows],
        [*columns, "changed_at"],
        batch_size=50,
    )


def insert_transitions(alias: str, rows: Sequence[TransitionRow]) -> None:
    _insert(Transition, alias, rows)


def insert_commands(alias: str, rows: Sequence[CommandRow]) -> None:
    _insert(OutboxCommand, alias, rows)


def _insert(model: Any, alias: str, rows: Sequence[Any]) -> None:
    model._default_manager.using(alias).bulk_create(
        [model(**asdict(row)) for row in rows], batch_size=500
    )


def mark_messages(alias: str, marks: Sequence[InboxMark]) -> None:
    # Most marks of a batch are alike: one statement for each kind of mark beats a CASE for each row.
    alike: dict[tuple[Any, ...], list[int]] = {}
    different: list[InboxMark] = []
    for mark in marks:
        if mark.status == "handled":
            alike.setdefault((mark.status, mark.attempts, mark.handled_at), []).append(mark.id)
        else:
            different.append(mark)
    rows = InboxMessage.objects.using(alias)
    for (status, attempts, handled_at), ids in alike.items():
        rows.filter(pk__in=ids).update(
            status=status, attempts=attempts, handled_at=handled_at, reason=""
        )
    if different:
        rows.bulk_update(
            [InboxMessage(**asdict(mark)) for mark in different],
            ["status", "reason", "due_at", "attempts", "handled_at"],
            batch_size=100,
        )


def begin_batch(alias: str, partition: int, message_ids: str, now: datetime) -> int:
    mark = Batch.objects.using(alias).create(
        partition=partition, message_ids=message_ids, began_at=now
    )
    return int(mark.pk)


def wake(alias: str, partitions: Sequence[int], now: datetime) -> list[int]:
    connection = connections[alias]
    ignore = "INSERT IGNORE INTO" if connection.vendor == "mysql" else "INSERT OR IGNORE INTO"
    table = connection.ops.quote_name(Wakeup._meta.db_table)
    woken = []
    with connection.cursor() as cursor:
        for partition in partitions:
            cursor.execute(
                f"{ignore} {table} ({connection.ops.quote_name('partition')}, woken_at) VALUES (%s, %s)",
                [partition, connection.ops.adapt_datetimefield_value(now)],
            )
            if cursor.rowcount == 1:
                woken.append(partition)
    return woken
