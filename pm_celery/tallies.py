"""Tallies: how many of what, counted where it happens, so that no page and no monitor need count rows.

Whoever changes rows writes one entry of what that adds (`Tallies.as_json`), in the same transaction. The
tick adds entries up (`fold`); who reads adds those that are not folded yet, the newest 5,000 at most. So, as
long as the tick runs, every sum is exact at every moment, and costs the same however many rows there are.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connections, transaction
from django.db.models import Sum

from pm_celery import clock
from pm_celery.conf import get_settings
from pm_celery.models import Heartbeat, Tally, TallyEntry

__all__ = [
    "BEGAN",
    "BOUNDS",
    "COMMAND",
    "DIED",
    "FOLD",
    "HANDLED",
    "HANDLER",
    "OPEN",
    "PERIODS",
    "RUN_FAILED",
    "UNKNOWN",
    "Asked",
    "Counted",
    "Tallies",
    "ever",
    "fold",
    "over_time",
    "read",
    "write",
]

# What is counted, besides the number of instances in each status, which go by the status' name.
BEGAN = "began"  # instances
HANDLED = "handled"  # messages; likewise "skipped" and "unmatched"
RUN_FAILED = "run_failed"  # runs of handlers and command handlers that raised
DIED = "died"  # dead letters that were opened; detail: their group
OPEN = "open"  # dead letters that are open now; detail: their group
UNKNOWN = "unknown"  # messages that a worker's release did not know; detail: their name
HANDLER = "handler"  # runs of handlers, by duration; detail: the method
COMMAND = "command"  # runs of command handlers, by duration; detail: the command

#: Upper bounds of the durations in buckets, in seconds; the last bucket has none.
BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
_NO_BUCKET = -1

#: What is drawn over time is also added up by periods, in seconds: each with how long its sums are kept.
PERIODS = {
    60: timedelta(minutes=75),
    900: timedelta(hours=27),
    3600: timedelta(days=8),
}
_OVER_TIME = frozenset({BEGAN, HANDLED, RUN_FAILED, DIED, UNKNOWN})
_EVER = 0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

FOLD = "fold"
_FOLD_EVERY = timedelta(seconds=5)
_MOST_AT_ONCE = 5000
# Where so many come between two foldings, they are folded at each tick: who reads adds no more than 5,000.
_MANY = 1000

Key = tuple[str, str, str, int]  # process, what, detail, bucket


@dataclass(frozen=True, slots=True)
class Counted:
    """A sum: of what, in which process, since when; ``seconds`` for durations."""

    process: str
    what: str
    detail: str
    bucket: int
    start: datetime
    count: int
    seconds: float


@dataclass(slots=True)
class Tallies:
    """What one transaction adds."""

    sums: dict[Key, list[float]] = field(default_factory=dict)

    def add(self, process: str, what: str, count: int = 1, detail: str = "") -> None:
        self._add((process, what, detail, _NO_BUCKET), count, 0.0)

    def add_run(self, process: str, what: str, detail: str, seconds: float) -> None:
        """A run of a handler or command handler that took so long."""
        self._add((process, what, detail, bisect_left(BOUNDS, seconds)), 1, seconds)

    def move(self, process: str, before: str, after: str) -> None:
        """An instance changed its status; "" for one that was not there before, or is gone."""
        if before != after:
            if before:
                self.add(process, before, -1)
            if after:
                self.add(process, after)

    def _add(self, key: Key, count: int, seconds: float) -> None:
        found = self.sums.get(key)
        if found is None:
            self.sums[key] = [count, seconds]
        else:
            found[0] += count
            found[1] += seconds

    def as_json(self) -> str:
        """For an entry's ``counts``; "" if there is nothing to write down."""
        rows = [
            [*key, count, round(seconds, 6)]
            for key, (count, seconds) in self.sums.items()
            if count or seconds
        ]
        return json.dumps(rows, ensure_ascii=False) if rows else ""


def write(alias: str, tallies: Tallies, now: datetime) -> None:
    """Write an entry, in the caller's transaction."""
    if counts := tallies.as_json():
        TallyEntry.objects.using(alias).create(at=now, counts=counts)


# -- adding up --------------------------------------------------------------------------------------


def fold() -> int:
    """Add entries up, if nobody has for some seconds or there are many; how many. The tick does it.

    Sums and entries change in one transaction: if we die, nothing happened.
    """
    alias = get_settings().database
    now = clock.now()
    beats = Heartbeat.objects.using(alias).filter(name=FOLD)
    waiting = TallyEntry.objects.using(alias).order_by("id").values_list("pk")
    if beats.filter(beat_at__gt=now - _FOLD_EVERY).exists() and not waiting[_MANY : _MANY + 1]:
        return 0
    Heartbeat.objects.using(alias).bulk_create(
        [Heartbeat(name=FOLD, beat_at=_EPOCH)], ignore_conflicts=True
    )
    skip = connections[alias].features.has_select_for_update_skip_locked
    with transaction.atomic(using=alias):
        # Its lock keeps a second tick out.
        beat = beats.select_for_update(skip_locked=skip).first()
        if beat is None:
            return 0
        entries = list(TallyEntry.objects.using(alias).order_by("id")[:_MOST_AT_ONCE])
        sums: dict[tuple[Any, ...], list[float]] = {}
        for entry in entries:
            for period, start, key, count, seconds in _sums_of(entry):
                total = sums.setdefault((period, start, *key), [0, 0.0])
                total[0] += count
                total[1] += seconds
        _add(alias, sums)
        TallyEntry.objects.using(alias).filter(pk__in=[entry.pk for entry in entries]).delete()
        for period, kept in PERIODS.items():
            Tally.objects.using(alias).filter(period=period, start__lt=now - kept).delete()
        # Once more at the next tick, if there was more than we took.
        beats.update(beat_at=now if len(entries) < _MOST_AT_ONCE else now - _FOLD_EVERY)
    return len(entries)


def _sums_of(entry: TallyEntry) -> Iterator[tuple[int, datetime, Key, int, float]]:
    for process, what, detail, bucket, count, seconds in json.loads(entry.counts):
        key = (process, what, detail, bucket)
        yield _EVER, _EPOCH, key, count, seconds
        if what in _OVER_TIME:
            for period in PERIODS:
                yield period, _start(entry.at, period), key, count, seconds


def _start(at: datetime, period: int) -> datetime:
    if period == _EVER:
        return _EPOCH
    return datetime.fromtimestamp(int(at.timestamp()) // period * period, UTC)


_COLUMNS = ("period", "start", "process", "what", "detail", "bucket", "count", "seconds")


def _add(alias: str, sums: dict[tuple[Any, ...], list[float]]) -> None:
    """Add to sums, or begin them. The ORM's upserts overwrite, so this is SQL."""
    connection = connections[alias]
    quote = connection.ops.quote_name
    table = quote(Tally._meta.db_table)
    if connection.vendor == "mysql":
        changes = [f"{quote(c)} = {quote(c)} + VALUES({quote(c)})" for c in _COLUMNS[-2:]]
        rule = f"ON DUPLICATE KEY UPDATE {', '.join(changes)}"
    else:
        unique = ", ".join(map(quote, Tally._meta.constraints[0].fields))  # type: ignore[attr-defined]
        changes = [f"{quote(c)} = {table}.{quote(c)} + EXCLUDED.{quote(c)}" for c in _COLUMNS[-2:]]
        rule = f"ON CONFLICT ({unique}) DO UPDATE SET {', '.join(changes)}"
    fields: list[Any] = [Tally._meta.get_field(name) for name in _COLUMNS]
    one = f"({', '.join(['%s'] * len(_COLUMNS))})"
    rows = [(*key, int(count), seconds) for key, (count, seconds) in sorted(sums.items())]
    with connection.cursor() as cursor:
        for portion in _portions(rows, 500):
            values = [
                column.get_db_prep_save(value, connection)
                for row in portion
                for column, value in zip(fields, row, strict=True)
            ]
            cursor.execute(
                f"INSERT INTO {table} ({', '.join(map(quote, _COLUMNS))}) "
                f"VALUES {', '.join([one] * len(portion))} {rule}",
                values,
            )


def _portions(rows: list[Any], most: int) -> Iterable[list[Any]]:
    for start in range(0, len(rows), most):
        yield rows[start : start + most]


# -- reading ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """A question: sums of what, over periods of so many seconds (0: since ever) that began then or later;
    ``summed``: of all processes and details together."""

    what: frozenset[str]
    period: int = _EVER
    since: datetime = _EPOCH
    summed: bool = False

    def key(self, start: datetime, key: Key) -> tuple[Any, ...]:
        process, what, detail, bucket = key
        return (
            (start, "", what, "", bucket) if self.summed else (start, process, what, detail, bucket)
        )


def ever(what: Collection[str]) -> list[Counted]:
    """Sums since ever, for each process, detail and bucket."""
    return read(Asked(frozenset(what)))[0]


def over_time(what: Collection[str], period: int, since: datetime) -> list[Counted]:
    """Sums over periods of so many seconds (one of ``PERIODS``) that began at that moment or later."""
    return read(Asked(frozenset(what), period, since))[0]


def read(*questions: Asked) -> list[list[Counted]]:
    """Answer several questions about the same moment, and read what is not added up yet once for all."""
    alias = get_settings().database
    asked = [replace(one, since=_start(one.since, one.period)) for one in questions]
    beats = Heartbeat.objects.using(alias).filter(name=FOLD).values_list("beat_at", flat=True)
    for _ in range(3):
        before = beats.first()
        answers = [_folded(alias, one) for one in asked]
        _add_unfolded(alias, asked, answers)
        # Folded between the two questions, entries would be counted twice, or not at all.
        if beats.first() == before:
            break
    return [_counted(sums) for sums in answers]


def _add_unfolded(
    alias: str, asked: Collection[Asked], answers: Collection[dict[tuple[Any, ...], list[float]]]
) -> None:
    """Add what entries hold. There may be thousands: what nobody asked for is passed over at once."""
    askers: dict[str, list[tuple[Asked, dict[tuple[Any, ...], list[float]]]]] = {}
    for one, sums in zip(asked, answers, strict=True):
        for what in one.what if one.period == _EVER else one.what & _OVER_TIME:
            askers.setdefault(what, []).append((one, sums))
    entries = TallyEntry.objects.using(alias).order_by("-id").values_list("at", "counts")
    for at, counts in entries[:_MOST_AT_ONCE]:
        starts = {one.period: _start(at, one.period) for one in asked}
        for process, what, detail, bucket, count, seconds in json.loads(counts):
            for one, sums in askers.get(what, ()):
                start = starts[one.period]
                if start >= one.since:
                    key = one.key(start, (process, what, detail, bucket))
                    total = sums.setdefault(key, [0, 0.0])
                    total[0] += count
                    total[1] += seconds


def _counted(sums: dict[tuple[Any, ...], list[float]]) -> list[Counted]:
    return [
        Counted(process, counted, detail, bucket, start, int(count), seconds)
        for (start, process, counted, detail, bucket), (count, seconds) in sums.items()
        if count or seconds
    ]


def _folded(alias: str, asked: Asked) -> dict[tuple[Any, ...], list[float]]:
    rows: Any = Tally.objects.using(alias)
    rows = rows.filter(period=asked.period, start__gte=asked.since, what__in=asked.what)
    if asked.summed:
        by = rows.values_list("start", "what", "bucket")
        found = by.annotate(Sum("count"), Sum("seconds")).order_by()
        return {(row[0], "", row[1], "", row[2]): [int(row[3]), row[4]] for row in found}
    columns = ("start", "process", "what", "detail", "bucket", "count", "seconds")
    return {row[:5]: [row[5], row[6]] for row in rows.values_list(*columns)}
