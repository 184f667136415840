"""Fills pm_celery's tables by COPY: instances, their transitions, timers and handled inbox rows.

The instances are those of ``shop.Parcel``, half of them completed. Each has three transitions and the
inbox row of the last one (as after pruning); each that is started has two timers, far in the future.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import psycopg

from pm_celery.keys import partition_of

__all__ = ["Filling", "fill", "main"]

PROCESS = "shop.Parcel"

_BLOCK = 10_000
_SPOKEN_EVERY = 10
_STEPS = 3
_AGE = timedelta(days=30)
_FAR = timedelta(days=3650)
_HANDLERS = {"ParcelPosted": "posted", "ParcelMoved": "moved", "ParcelArrived": "arrived"}
_OPEN = ("ParcelPosted", "ParcelMoved", "ParcelMoved")
_ENDED = ("ParcelPosted", "ParcelMoved", "ParcelArrived")

_COLUMNS = {
    "instance": "id, process, key, partition, status, state, number, correlation_id, started_at, "
    "changed_at, ended_at",
    "transition": "instance_id, number, kind, name, message_id, inbox_id, handler, state, status, "
    "commands, timers, correlation_id, causation_id, attempt, recorded_at",
    "inboxmessage": "id, message_id, kind, name, version, payload, process, key, partition, status, "
    "reason, due_at, attempts, correlation_id, causation_id, depth, occurred_at, published_at, "
    "handled_at",
    "timer": "instance_id, name, token, due_at, payload, correlation_id, causation_id",
}

_Row = tuple[str, str]
"""A table, and a line of COPY's text format for it."""


@dataclass(frozen=True)
class Filling:
    """What to put in.

    ended: every second instance is completed. timers: the names that each started instance sets.
    due_at: their moment (default: ten years from now).
    """

    instances: int
    ended: bool = True
    timers: Sequence[str] = ("reminder", "escalation")
    due_at: datetime | None = None
    seed: str = "filler"


def fill(address: str, filling: Filling, *, quiet: bool = False) -> list[UUID]:
    """Fill the tables, with sequences set and statistics fresh; the keys of the instances."""
    began = time.monotonic()
    random = Random(filling.seed)
    keys = [_uuid(random) for _ in range(filling.instances)]
    with psycopg.connect(address, autocommit=True) as connection:
        first = {table: _last_id(connection, table) + 1 for table in ("instance", "inboxmessage")}
        for start in range(0, len(keys), _BLOCK):
            block = keys[start : start + _BLOCK]
            ids = {table: number + start for table, number in first.items()}
            _copy(connection, _rows(filling, random, block, ids))
            if not quiet and (start // _BLOCK + 1) % _SPOKEN_EVERY == 0:
                _say(f"{start + len(block):,} instances, {time.monotonic() - began:.0f} s")
        _finish(connection)
    if not quiet:
        _say(f"{len(keys):,} instances are there, after {time.monotonic() - began:.0f} s")
    return keys


def _rows(
    filling: Filling, random: Random, keys: Iterable[UUID], first: dict[str, int]
) -> Iterator[_Row]:
    now = datetime.now(UTC)
    past, due_at = now - _AGE, filling.due_at or now + _FAR
    for offset, key in enumerate(keys):
        ended = filling.ended and offset % 2 == 1
        parcel = _Parcel(
            str(key), first["instance"] + offset, first["inboxmessage"] + offset, ended, past
        )
        ids = [str(_uuid(random)) for _ in range(_STEPS)]
        yield from parcel.rows(ids)
        for name in () if ended else filling.timers:
            token, cause = _uuid(random), ids[0]
            line = f"{parcel.id}\t{name}\t{token}\t{due_at}\tnull\t{cause}\t{cause}\n"
            yield "timer", line


@dataclass(frozen=True)
class _Parcel:
    key: str
    id: int
    inbox_id: int
    ended: bool
    moment: datetime

    def rows(self, message_ids: Sequence[str]) -> Iterator[_Row]:
        """The instance, its transitions and the inbox row of the last one, for these messages."""
        names = _ENDED if self.ended else _OPEN
        root, at = message_ids[0], self.moment
        partition = partition_of(PROCESS, self.key)
        status, ended_at = ("completed", at) if self.ended else ("started", r"\N")
        yield (
            "instance",
            f"{self.id}\t{PROCESS}\t{self.key}\t{partition}\t{status}\t{_state(_STEPS)}\t{_STEPS}\t"
            f"{root}\t{at}\t{at}\t{ended_at}\n",
        )
        for number, (name, message_id) in enumerate(zip(names, message_ids, strict=True), 1):
            last = number == _STEPS
            yield (
                "transition",
                f"{self.id}\t{number}\tevent\tshop.{name}\t{message_id}\t"
                f"{self.inbox_id if last else chr(92) + 'N'}\t{_HANDLERS[name]}\t{_state(number)}\t"
                f"{status if last else 'started'}\t[]\t{{}}\t{root}\t\t1\t{at}\n",
            )
        payload = f'{{"parcel_id":"{self.key}","sequence":{_STEPS}}}'
        yield (
            "inboxmessage",
            f"{self.inbox_id}\t{message_ids[-1]}\tevent\tshop.{names[-1]}\t1\t{payload}\t{PROCESS}\t"
            f"{self.key}\t{partition}\thandled\t\t{at}\t1\t{root}\t\t0\t{at}\t{at}\t{at}\n",
        )


def _state(moves: int) -> str:
    return f'{{"moves":{moves},"in_order":true,"reminders":0}}'


def _copy(connection: psycopg.Connection, rows: Iterable[_Row]) -> None:
    lines: dict[str, list[str]] = {table: [] for table in _COLUMNS}
    for table, line in rows:
        lines[table].append(line)
    with connection.transaction(), connection.cursor() as cursor:
        for table, columns in _COLUMNS.items():
            with cursor.copy(f"COPY pm_celery_{table} ({columns}) FROM STDIN") as copy:
                copy.write("".join(lines[table]))


def _last_id(connection: psycopg.Connection, table: str) -> int:
    row = connection.execute(f"SELECT coalesce(max(id), 0) FROM pm_celery_{table}").fetchone()
    assert row is not None
    return int(row[0])


def _finish(connection: psycopg.Connection) -> None:
    for table in _COLUMNS:
        name = f"pm_celery_{table}"
        # Two of the tables were given their ids.
        connection.execute(
            f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), max(id)) FROM {name} "
            "HAVING max(id) IS NOT NULL"
        )
        connection.execute(f"VACUUM (ANALYZE) {name}")
    # What was written is on the disk before anything is measured.
    connection.execute("CHECKPOINT")


def _uuid(random: Random) -> UUID:
    return UUID(int=random.getrandbits(128), version=4)


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.filler",
        description="Fill pm_celery's tables, which must be there, with instances and their rows.",
    )
    parser.add_argument("--instances", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--url", required=True, metavar="postgresql://…")
    parser.add_argument("--seed", default="filler", help="another one gives other keys")
    options = parser.parse_args(arguments)
    fill(options.url, Filling(options.instances, seed=options.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
