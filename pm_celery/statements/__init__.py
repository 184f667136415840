"""The statements of the hot path: in SQL for PostgreSQL, through the ORM's bulk calls elsewhere.

Both modules have the same functions; everything else in the package is ordinary Django.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, cast
from uuid import UUID

from django.db import connections

from pm_celery.rows import (
    Claim,
    CommandRow,
    InboxMark,
    InboxRow,
    InstanceRow,
    NewMessage,
    TransitionRow,
)

if TYPE_CHECKING:
    from pm_celery.models import OutboxCommand

__all__ = ["CHANNEL", "InstanceKey", "Statements", "statements"]

InstanceKey = tuple[str, str]
# Of PostgreSQL's NOTIFY.
CHANNEL = "pm_celery"


class Statements(Protocol):
    """One database's way to say what the engine needs; every function is one statement where it can be."""

    def insert_messages(self, alias: str, rows: Sequence[NewMessage]) -> int | None:
        """Insert messages whose (message id, process) is new; how many, or None if unknown."""

    def claim(
        self,
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
        """Due messages but for those passed over, by id, the first partition's before those of the next; in
        a backlog of the first, most are the longest overdue, some the newest. The newest one of each of the
        others is taken along.

        Where there are any, it commits the mark that a batch of those not tried before begins, and until
        when the lane's wake-up is outstanding; and finds the marks, of batches that began before, that
        nobody holds. Nothing is claimed where the lane's wake-up is outstanding, but not beyond
        ``attended_until``: then a worker is there. It tells whether any process is paused."""

    def lock_instances(
        self, alias: str, keys: Sequence[tuple[str, str, int]], now: datetime, mark: int | None
    ) -> list[InstanceRow]:
        """End the mark; lock the instances (process, key, partition) that nobody holds, skipping the
        others; insert placeholders for those that have no row."""

    def lock_messages(self, alias: str, ids: Collection[int]) -> list[InboxRow]:
        """Lock open messages by id, skipping those that somebody holds."""

    def read_open(
        self,
        alias: str,
        keys: Collection[InstanceKey],
        now: datetime,
        each: int,
        before: int | None,
    ) -> list[InboxRow]:
        """Messages of locked instances in their order, so many of each: pending ones, due or not, and
        those that have waited for a start event long enough."""

    def record(
        self,
        alias: str,
        now: datetime,
        *,
        instances: Sequence[InstanceRow] = (),
        transitions: Sequence[TransitionRow] = (),
        commands: Sequence[CommandRow] = (),
        marks: Sequence[InboxMark] = (),
        counts: str = "",
    ) -> None:
        """Write instances back, append transitions, put commands into the outbox, note what became of
        messages, and what all that adds to the tallies: what was decided in one transaction at one
        moment."""

    def begin_batch(self, alias: str, message_ids: str, now: datetime) -> int:
        """Commit the mark that a batch begins; its id."""

    def take_commands(self, alias: str, command_ids: Sequence[UUID]) -> list[OutboxCommand]:
        """Lock dispatched commands, skipping those that somebody holds; in the order of issue."""

    def finish_commands(
        self,
        alias: str,
        ids: Sequence[int],
        durations: Sequence[float],
        now: datetime,
        runs: int,
        counts: str,
    ) -> None:
        """Mark commands as done, after runs that took so many seconds and so many of which were not counted
        before; and what that adds to the tallies."""

    def wake(self, alias: str, lanes: Sequence[int], now: datetime, until: datetime) -> list[int]:
        """Note wake-ups as outstanding until then; those lanes that had none."""

    def notify(self, alias: str, lanes: Sequence[int], now: datetime, until: datetime) -> list[int]:
        """The same, and tell listeners of those that had none. On PostgreSQL only."""

    def rest(self, alias: str, lane: int) -> None:
        """Commit that the lane's wake-up is outstanding no longer."""

    def due_partitions(self, alias: str, partitions: Sequence[int], now: datetime) -> list[int]:
        """Those of them in which something is due: one probe of an index for each."""


def statements(alias: str) -> Statements:
    """The statements for the database behind an alias."""
    # Not both: one of them needs psycopg, which is there only where PostgreSQL is the database.
    if connections[alias].vendor == "postgresql":
        from pm_celery.statements import postgresql

        return cast(Statements, postgresql)
    from pm_celery.statements import portable

    return cast(Statements, portable)
