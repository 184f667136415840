"""The hot path through the ORM's bulk calls, for SQLite and MariaDB."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from django.db import connections, transaction
from django.db.models import Case, F, Q, QuerySet, When

from pm_celery.models import (
    Batch,
    InboxMessage,
    Instance,
    OutboxCommand,
    Pause,
    TallyEntry,
    Transition,
    Wakeup,
)
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

InstanceKey = tuple[str, str]
Row = TypeVar("Row")

# Each key is a pair of parameters in an OR; SQLite's parser and MariaDB's planner have their limits.
_KEYS_AT_ONCE = 200
# How many characters of long texts a statement holds. MariaDB's servers take 16 MiB as they come, and hang up
# on more, which looks like a lost connection. In UTF-8, or escaped, a character is four bytes at most.
_TEXT_AT_ONCE = 500_000
# Stands for a partition in a query that is compiled once and asked of several.
_ANY_PARTITION = 32_767
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


def _portions(rows: Sequence[Row], most: int, text: str) -> Iterable[list[Row]]:
    """Rows in portions of at most so many, and of texts that one statement may hold."""
    portion: list[Row] = []
    length = 0
    for row in rows:
        length += len(getattr(row, text))
        if portion and (len(portion) == most or length > _TEXT_AT_ONCE):
            yield portion
            portion, length = [], len(getattr(row, text))
        portion.append(row)
    if portion:
        yield portion


def insert_messages(alias: str, rows: Sequence[NewMessage]) -> int | None:
    for portion in _portions(rows, 1000, "payload"):
        InboxMessage.objects.using(alias).bulk_create(
            [InboxMessage(**asdict(row)) for row in portion], ignore_conflicts=True
        )
    return None


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
    if attended_until > now:
        marks = Wakeup.objects.using(alias).filter(lane=lane)
        if marks.filter(outstanding_until__gt=now, outstanding_until__lte=attended_until).exists():
            return Claim(is_attended=True)
    due = InboxMessage.objects.using(alias).due(_ANY_PARTITION, now)
    if passed:
        due = due.exclude(pk__in=passed)
    rows = due.values_list("id", "process", "key", "attempts", "reason")
    first = partitions[0]
    most = limit - limit // 4
    found = _of_partitions(alias, rows[:most], partitions, most)
    is_full = len(found) == most
    if is_full:
        # There is a backlog: a quarter of the batch is for the newest, so that they get through.
        newest = rows.order_by("-due_at", "-id")[: limit // 4]
        overdue = set(found)
        found += [row for row in _of_partitions(alias, newest, [first]) if row not in overdue]
    if not found:
        return Claim()
    found += _of_partitions(alias, rows.order_by("-due_at", "-id")[:1], others)
    claimed = [
        Claimed(id_, process, key, attempts > 0 or reason == SUSPECT)
        for id_, process, key, attempts, reason in found
    ]
    left = _left_over(alias, began_before)
    _set_outstanding(alias, lane, awake_until)
    untried = [row.id for row in claimed if not row.tried]
    mark = begin_batch(alias, json.dumps(untried), now) if untried else None
    paused = Pause.objects.using(alias).filter(resumed_at=None).exists()
    return Claim(claimed, mark, is_full, left, is_any_paused=paused)


def _left_over(alias: str, began_before: datetime) -> list[int]:
    left = Batch.objects.using(alias).filter(began_at__lte=began_before)
    if not left.exists():
        return []
    with transaction.atomic(using=alias, durable=True):
        return list(_locked(left).values_list("id", flat=True))


def _of_partitions(
    alias: str, rows: QuerySet[Any, Any], partitions: Sequence[int], most: int | None = None
) -> list[tuple[Any, ...]]:
    """What a query for ``_ANY_PARTITION`` finds in each of these, one after the other, in one statement.

    In SQL, because in a union of the ORM's the parts may have no LIMIT on SQLite, and because to compile
    a query takes longer than to run it."""
    if not partitions or rows.query.is_empty():
        return []
    query, values = rows.query.get_compiler(using=alias).as_sql()
    parts = [f"SELECT * FROM ({query}) AS part_{partition}" for partition in partitions]
    limit = "" if most is None else f" LIMIT {most:d}"
    # By its place: the id of a message that was passed over may be the same number.
    at = values.index(_ANY_PARTITION)
    parameters = [
        value for partition in partitions for value in (*values[:at], partition, *values[at + 1 :])
    ]
    with connections[alias].cursor() as cursor:
        cursor.execute(" UNION ALL ".join(parts) + limit, parameters)
        return [tuple(row) for row in cursor.fetchall()]


def lock_instances(
    alias: str, keys: Sequence[tuple[str, str, int]], now: datetime, mark: int | None
) -> list[InstanceRow]:
    if mark is not None:
        Batch.objects.using(alias).filter(pk=mark).delete()
    pairs = [key[:2] for key in keys]
    known = _lock_instances(alias, pairs)
    missing = set(pairs) - {(row.process, row.key) for row in known}
    if missing and connections[alias].features.has_select_for_update_skip_locked:
        # What somebody holds is there. To insert it all the same would be to wait for him.
        missing -= _existing(alias, missing)
    if not missing:
        return known
    _create_instances(alias, [key for key in keys if key[:2] in missing], now)
    # Placeholders are never committed, so one that is seen and not locked is ours.
    return known + [row for row in _lock_instances(alias, missing) if row.number == 0]


def _lock_instances(alias: str, keys: Collection[InstanceKey]) -> list[InstanceRow]:
    return [
        InstanceRow(*row)
        for chunk in _chunks(keys)
        for row in _locked(Instance.objects.using(alias))
        .filter(_any_of(chunk))
        .values_list(*_INSTANCE)
    ]


def _existing(alias: str, keys: Collection[InstanceKey]) -> set[InstanceKey]:
    return {
        row
        for chunk in _chunks(keys)
        for row in Instance.objects.using(alias)
        .filter(_any_of(chunk))
        .values_list("process", "key")
    }


def _locked(rows: QuerySet[Any]) -> QuerySet[Any]:
    skip = connections[rows.db].features.has_select_for_update_skip_locked
    return rows.select_for_update(skip_locked=skip)


def _create_instances(alias: str, keys: Sequence[tuple[str, str, int]], now: datetime) -> None:
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


def lock_messages(alias: str, ids: Collection[int]) -> list[InboxRow]:
    return [
        InboxRow(*row)
        for row in _locked(InboxMessage.objects.using(alias).open())
        .filter(pk__in=ids)
        .order_by("id")
        .values_list(*_INBOX)
    ]


def read_open(
    alias: str, keys: Collection[InstanceKey], now: datetime, each: int, before: int | None
) -> list[InboxRow]:
    rows: list[InboxRow] = []
    for chunk in _chunks(keys):
        found = InboxMessage.objects.using(alias).of_instances().filter(_any_of(chunk))
        found = found.filter(Q(status="pending") | Q(status="waiting", due_at__lte=now))
        if before is not None:
            found = found.filter(pk__lt=before)
        # How many of each instance is not said without a window; the whole chunk shares its bound.
        bound = found.order_by("id").values_list(*_INBOX)[: each * len(chunk)]
        rows += [InboxRow(*row) for row in bound]
    return sorted(rows, key=operator.attrgetter("id"))


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
    if instances:
        _update_instances(alias, instances, now)
    for steps in _portions(transitions, 500, "state"):
        Transition.objects.using(alias).bulk_create(
            [Transition(**asdict(row), recorded_at=now) for row in steps]
        )
    for issued in _portions(commands, 500, "payload"):
        OutboxCommand.objects.using(alias).bulk_create(
            [OutboxCommand(**asdict(row)) for row in issued]
        )
    _mark_messages(alias, marks)
    if counts:
        TallyEntry.objects.using(alias).create(at=now, counts=counts)


def _update_instances(alias: str, rows: Sequence[InstanceRow], now: datetime) -> None:
    columns = (
        "status",
        "state",
        "state_version",
        "number",
        "correlation_id",
        "started_at",
        "ended_at",
        "timeout_at",
    )
    for portion in _portions(rows, 50, "state"):
        Instance.objects.using(alias).bulk_update(
            [Instance(**asdict(row), changed_at=now) for row in portion],
            [*columns, "changed_at"],
        )


def _mark_messages(alias: str, marks: Sequence[InboxMark]) -> None:
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


def begin_batch(alias: str, message_ids: str, now: datetime) -> int:
    mark = Batch.objects.using(alias).create(message_ids=message_ids, began_at=now)
    return int(mark.pk)


def take_commands(alias: str, command_ids: Sequence[UUID]) -> list[OutboxCommand]:
    rows = OutboxCommand.objects.using(alias).locked().order_by("id")
    return list(rows.filter(command_id__in=command_ids, status="dispatched"))


def finish_commands(
    alias: str,
    ids: Sequence[int],
    durations: Sequence[float],
    now: datetime,
    runs: int,
    counts: str,
) -> None:
    took = Case(*(When(pk=pk, then=seconds) for pk, seconds in zip(ids, durations, strict=True)))
    OutboxCommand.objects.using(alias).filter(pk__in=ids).update(
        status="done", attempts=F("attempts") + runs, settled_at=now, reason="", duration=took
    )
    TallyEntry.objects.using(alias).create(at=now, counts=counts)


def wake(alias: str, lanes: Sequence[int], now: datetime, until: datetime) -> list[int]:
    # It looks before it writes: most often there is one outstanding, and SQLite lets one write at a time.
    known = dict(
        Wakeup.objects.using(alias).filter(lane__in=lanes).values_list("lane", "outstanding_until")
    )
    woken = []
    for lane in lanes:
        before = known.get(lane)
        if before is None or before <= now:
            _set_outstanding(alias, lane, until)
            woken.append(lane)
    return woken


def _set_outstanding(alias: str, lane: int, until: datetime) -> None:
    rows = Wakeup.objects.using(alias)
    if not rows.filter(lane=lane).update(outstanding_until=until):
        # Two at once are two wake-ups, of which one finds nothing to do.
        rows.bulk_create([Wakeup(lane=lane, outstanding_until=until)], ignore_conflicts=True)


def rest(alias: str, lane: int) -> None:
    Wakeup.objects.using(alias).filter(lane=lane).update(outstanding_until=None)


def due_partitions(alias: str, partitions: Sequence[int], now: datetime) -> list[int]:
    due = InboxMessage.objects.using(alias).due(_ANY_PARTITION, now).values_list("partition")
    return [row[0] for row in _of_partitions(alias, due[:1], partitions)]
