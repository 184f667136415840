"""Pruning: what has ended and settled long ago is removed, in batches.

What is kept for long lies in front of what may go, in the only order that an index gives: by when it
ended. So Beat's prune begins where the last one came to (`_Marks`), and goes through all of it once a day,
for what could not go when it was passed: an open letter has been settled since, or somebody held it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from django.db.models import Exists, OuterRef

from pm_celery import clock, registry, signals
from pm_celery.conf import get_settings
from pm_celery.definitions import ProcessDefinition
from pm_celery.durations import Duration, parse_duration
from pm_celery.export import in_handfuls, keeper
from pm_celery.keeping import Retention
from pm_celery.models import (
    DeadLetter,
    Heartbeat,
    InboxMessage,
    Instance,
    Intervention,
    OutboxCommand,
    Tally,
)
from pm_celery.removal import (
    remove_commands,
    remove_instances,
    remove_messages,
    remove_rows,
    spared,
)
from pm_celery.walking import portions

__all__ = ["Pruned", "prune", "remove"]

_ALL_OF_IT_EVERY = timedelta(days=1)
# What is exported is in memory, and locked meanwhile.
_MOST_EXPORTED = 100
_MOST_TRANSITIONS = 5000

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Pruned:
    """What a prune removed, or would have: instances by process and status, and rows that belonged to no
    instance. ``spared``: those that were old enough and had an open letter or an unsettled command."""

    instances: Counter[tuple[str, str]] = field(default_factory=Counter)
    loose: int = 0
    spared: int = 0

    @property
    def total(self) -> int:
        """How many instances."""
        return self.instances.total()


def prune(older_than: Duration | None = None, *, batch: int = 500) -> int:
    """Remove ended instances with all that belongs to them, and what belongs to no instance, once it
    was settled longer ago than ``older_than`` (default ``PM_CELERY["RETENTION"]``); how many instances.

    Never an instance with an open dead letter or an unsettled command. An event whose row is gone would
    be handled again if it were published again with its id.
    """
    if older_than is not None:
        return remove(older_than, batch=batch).total
    kept = get_settings().retention
    return _Prune(kept, batch=batch, marks=_Marks.of(kept)).run().total if kept.ages else 0


def remove(
    older_than: Duration | None = None,
    *,
    process: str = "",
    status: str = "",
    dry_run: bool = False,
    batch: int = 500,
    progress: Progress | None = None,
) -> Pruned:
    """The same by hand, for one process or status, or for all; from the beginning.

    older_than: instead of what the settings say.
    dry_run: remove nothing, and say what would be removed.
    progress: is told after each portion how many rows were looked at, and how many instances removed.
    """
    kept = get_settings().retention
    if older_than is not None:
        kept = Retention.of(parse_duration(older_than))
    return _Prune(
        kept, process=process, status=status, dry_run=dry_run, batch=batch, progress=progress
    ).run()


# -- where the last one came to ---------------------------------------------------------------------


@dataclass(slots=True)
class _Marks:
    """For each walk, the moment up to which it has looked. Other rules have other marks: they begin anew."""

    prefix: str
    is_full: bool
    moments: dict[str, datetime]

    @classmethod
    def of(cls, kept: Retention) -> _Marks:
        beats = Heartbeat.objects.using(get_settings().database)
        now = clock.now()
        prefix = f"prune {kept.fingerprint} "
        ours = beats.filter(name__startswith="prune ")
        moments = {beat.name: beat.beat_at for beat in ours}
        outdated = [name for name in moments if not name.startswith(prefix)]
        if outdated:
            ours.filter(name__in=outdated).delete()
        began = moments.get(f"{prefix}all")
        is_full = began is None or began <= now - _ALL_OF_IT_EVERY
        marks = cls(prefix, is_full, {} if is_full else moments)
        if is_full:
            # Before the first portion: one that dies on its way goes on from there within the day.
            ours.filter(name__startswith=prefix).delete()
            marks.set("all", now)
        return marks

    def get(self, walk: str) -> datetime | None:
        return self.moments.get(self.prefix + walk)

    def set(self, walk: str, moment: datetime) -> None:
        Heartbeat.objects.using(get_settings().database).update_or_create(
            name=self.prefix + walk, defaults={"beat_at": moment.astimezone(UTC)}
        )


# -- one prune --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Prune:
    kept: Retention
    batch: int
    process: str = ""
    status: str = ""
    dry_run: bool = False
    progress: Progress | None = None
    marks: _Marks | None = None
    alias: str = field(default_factory=lambda: get_settings().database)
    looked_at: int = 0
    pruned: Pruned = field(default_factory=Pruned)

    def run(self) -> Pruned:
        now = clock.now()
        for age in self.kept.ages:
            self._instances(age, now - age)
        for age in self.kept.ages if not self.status else ():
            self._messages(age, now - age)
            self._commands(age, now - age)
        if not self.status and (self.marks is None or self.marks.is_full):
            self._letters_and_interventions(now)
            if not self.dry_run:
                # Sums of what no longer exists; one that changes meanwhile is no longer 0.
                Tally.objects.using(self.alias).filter(period=0, count=0, seconds=0)._raw_delete(
                    self.alias
                )
        if not self.dry_run and (self.pruned.total or self.pruned.loose):
            signals.pruned.send_robust(
                sender=Instance,
                instances=self.pruned.total,
                rows=self.pruned.loose,
                spared=self.pruned.spared,
            )
        return self.pruned

    def _is_due(self, age: timedelta, process: str, status: str = "") -> bool:
        if (self.process and process != self.process) or (self.status and status != self.status):
            return False
        return self.kept.age_of(process, status) == age

    def _walk(
        self, rows: Any, order: str, age: timedelta, before: datetime, *columns: str
    ) -> Iterator[list[dict[str, Any]]]:
        """Portions of what settled before a moment, from where the last prune came to."""
        walk = f"{rows.model._meta.model_name} {int(age.total_seconds())}"
        since = self.marks.get(walk) if self.marks else None
        old = rows.filter(**{f"{order}__lt": before})
        for portion in portions(old, order, *columns, since=since):
            yield portion
            self.looked_at += len(portion)
            if self.marks:
                # After it was worked off: if we die before, it is looked at again.
                self.marks.set(walk, portion[-1][order])
            if self.progress:
                self.progress(self.looked_at, self.pruned.total)

    def _instances(self, age: timedelta, before: datetime) -> None:
        keep = None if self.dry_run else keeper()
        most = min(self.batch, _MOST_EXPORTED) if keep else self.batch
        rows = Instance.objects.using(self.alias)
        for portion in self._walk(
            rows.all(), "ended_at", age, before, "process", "status", "number"
        ):
            due = [row for row in portion if self._is_due(age, row["process"], row["status"])]
            weights = [(row["pk"], row["number"]) for row in due]
            for ids in in_handfuls(weights, most, _MOST_TRANSITIONS):
                if self.dry_run:
                    left = spared(self.alias, ids)
                    removed = Counter(
                        (row["process"], row["status"])
                        for row in due
                        if row["pk"] in set(ids) - left
                    )
                else:
                    removed = remove_instances(self.alias, ids, keep)
                self.pruned.instances += removed
                self.pruned.spared += len(ids) - removed.total()

    def _messages(self, age: timedelta, before: datetime) -> None:
        """Of policies, unmatched, skipped, routed on; not of a process, which go with its instance."""
        rows = InboxMessage.objects.using(self.alias)
        living = Instance.objects.filter(process=OuterRef("process"), key=OuterRef("key"))
        for portion in self._walk(rows.all(), "handled_at", age, before, "process", "status"):
            old = [
                row["pk"]
                for row in portion
                if self._is_due(age, row["process"]) and not _has_transition(row)
            ]
            for ids in _slices(old, self.batch):
                loose = rows.filter(pk__in=ids).exclude(Exists(living))
                self._remove(remove_messages, list(loose.values_list("pk", flat=True)))

    def _commands(self, age: timedelta, before: datetime) -> None:
        """Of policies."""
        rows = OutboxCommand.objects.using(self.alias)
        for portion in self._walk(rows.all(), "settled_at", age, before, "process", "instance_id"):
            old = [
                row["pk"]
                for row in portion
                if row["instance_id"] is None and self._is_due(age, row["process"])
            ]
            for ids in _slices(old, self.batch):
                self._remove(remove_commands, ids)

    def _letters_and_interventions(self, now: datetime) -> None:
        """What no instance takes with it. No index tells when these were settled, and they are few."""
        for model, moment in ((DeadLetter, "settled_at"), (Intervention, "at")):
            rows = model._default_manager.using(self.alias).filter(instance__isnull=True)
            for portion in portions(rows, "pk", "process", moment):
                old = [
                    row["pk"]
                    for row in portion
                    if (age := self.kept.age_of(row["process"])) is not None
                    and (not self.process or row["process"] == self.process)
                    and row[moment] is not None
                    and row[moment] < now - age
                ]
                for ids in _slices(old, self.batch):
                    self._remove(partial(remove_rows, model), ids)

    def _remove(self, remover: Callable[[str, list[int]], None], ids: list[int]) -> None:
        self.pruned.loose += len(ids)
        if ids and not self.dry_run:
            remover(self.alias, ids)


def _has_transition(row: dict[str, Any]) -> bool:
    """Whether it goes with its instance: so nobody need ask for each whether that is still there."""
    return row["status"] == "handled" and isinstance(
        registry.listeners.get(row["process"]), ProcessDefinition
    )


def _slices(ids: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
