"""The statements of the hot path: in SQL for PostgreSQL, through the ORM's bulk calls elsewhere.

Both modules have the same functions; everything else in the package is ordinary Django.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol, cast

from django.db import connections

from pm_celery.rows import (
    Claimed,
    CommandRow,
    InboxMark,
    InboxRow,
    InstanceRow,
    NewMessage,
    TransitionRow,
)

__all__ = ["InstanceKey", "Statements", "statements"]

InstanceKey = tuple[str, str]


class Statements(Protocol):
    """One database's way to say what the engine needs; every function is one statement where it can be."""

    def insert_messages(self, alias: str, rows: Sequence[NewMessage]) -> int | None:
        """Insert messages whose (message id, process) is new; how many, or None if unknown."""

    def claim(
        self,
        alias: str,
        partition: int,
        now: datetime,
        limit: int,
        passed_keys: Collection[InstanceKey],
        passed_ids: Collection[int],
    ) -> list[Claimed]:
        """Due messages of a partition but for those passed over, the longest overdue first."""

    def lock_instances(self, alias: str, keys: Collection[InstanceKey]) -> list[InstanceRow]:
        """Lock those instances that nobody holds; the others are skipped, never waited for."""

    def create_instances(
        self, alias: str, keys: Sequence[tuple[str, str, int]], now: datetime
    ) -> list[InstanceRow]:
        """Insert placeholders for (process, key, partition) that have no row; return those inserted."""

    def lock_messages(self, alias: str, ids: Collection[int]) -> list[InboxRow]:
        """Lock open messages by id, skipping those that somebody holds."""

    def read_open(
        self,
        alias: str,
        keys: Collection[InstanceKey],
        now: datetime,
        limit: int,
        before: int | None,
    ) -> list[InboxRow]:
        """Messages of locked instances in their order: pending ones, due or not, and those that have
        waited for a start event long enough."""

    def update_instances(self, alias: str, rows: Sequence[InstanceRow], now: datetime) -> None:
        """Write instances back."""

    def insert_transitions(self, alias: str, rows: Sequence[TransitionRow]) -> None:
        """Append transitions."""

    def insert_commands(self, alias: str, rows: Sequence[CommandRow]) -> None:
        """Put commands into the outbox."""

    def mark_messages(self, alias: str, marks: Sequence[InboxMark]) -> None:
        """Note what became of messages."""

    def begin_batch(self, alias: str, partition: int, message_ids: str, now: datetime) -> int:
        """Commit the mark that a batch begins; its id."""

    def wake(self, alias: str, partitions: Sequence[int], now: datetime) -> list[int]:
        """Note wake-ups as outstanding; those partitions that had none."""


def statements(alias: str) -> Statements:
    """The statements for the database behind an alias."""
    from pm_celery.statements import portable, postgresql

    module = postgresql if connections[alias].vendor == "postgresql" else portable
    return cast(Statements, module)
