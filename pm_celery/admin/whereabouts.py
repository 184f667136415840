"""Filters that say where a message, command or timer is on its road, and how late it is.

Each choice is a question that an index answers, of at most so many rows: the longest overdue, or the next.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.timesince import timesince
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pm_celery import clock
from pm_celery.keys import PARTITIONS
from pm_celery.models import DeadLetter
from pm_celery.rows import NEVER

__all__ = ["CommandFilter", "MessageFilter", "TimerFilter", "lateness"]

# How many rows a choice shows at most, and how many of each partition of the inbox.
MOST = 1600
_MOST_EACH = MOST // PARTITIONS
_MOST_LETTERS = 200
# Among how many of the last that were settled those with one status are looked for.
_LATELY = 5000


def lateness(due_at: datetime) -> str:
    """How late something is, or how long it waits, in words."""
    if due_at == NEVER:
        return _("held by a pause")
    now = clock.now()
    if abs((due_at - now).total_seconds()) < 60:
        return _("due now")
    if due_at < now:
        return _("%(time)s late") % {"time": timesince(due_at, now)}
    return _("in %(time)s") % {"time": timesince(now, due_at)}


class _Filter(admin.SimpleListFilter):
    title = gettext_lazy("where it is")
    parameter_name = "where"
    choices_told: tuple[tuple[str, Any], ...] = ()

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        return self.choices_told

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        choice = self.value()
        if choice not in dict(self.choices_told):
            return queryset
        rows = queryset.model._default_manager.using(queryset.db)
        # Ids first: the list's own order would let a planner walk the whole table for them.
        return queryset.filter(pk__in=list(self.ids(rows, choice, clock.now())))

    def ids(self, rows: Any, choice: str, now: datetime) -> Iterable[int]:
        raise NotImplementedError


class MessageFilter(_Filter):
    choices_told = (
        ("due", gettext_lazy("due")),
        ("backing_off", gettext_lazy("backing off")),
        ("unknown", gettext_lazy("not known to this release")),
        ("waiting", gettext_lazy("waiting for a start event")),
        ("held", gettext_lazy("held by a pause")),
        ("parked", gettext_lazy("parked behind a failure")),
        ("dead", gettext_lazy("dead")),
        ("handled", gettext_lazy("handled lately")),
        ("skipped", gettext_lazy("skipped lately")),
        ("unmatched", gettext_lazy("unmatched lately")),
        ("discarded", gettext_lazy("discarded lately")),
    )
    # In words of the index of what is due.
    conditions = {
        "due": lambda now: Q(due_at__lte=now),
        "backing_off": lambda now: Q(
            due_at__gt=now, due_at__lt=NEVER, status="pending", attempts__gt=0
        ),
        "unknown": lambda now: Q(due_at__gt=now, due_at__lt=NEVER, status="pending", attempts=0),
        "waiting": lambda now: Q(due_at__gt=now, due_at__lt=NEVER, status="waiting"),
        "held": lambda now: Q(due_at=NEVER),
    }

    def ids(self, rows: Any, choice: str, now: datetime) -> Iterable[int]:
        if choice == "dead":
            return _of_letters(rows.db, "message_id")
        if choice == "parked":
            return self._parked(rows)
        if choice not in self.conditions:
            return _lately(rows, "handled_at", choice)
        found = rows.open().filter(self.conditions[choice](now)).order_by("due_at", "id")
        of_partition = (
            found.filter(partition=partition).values_list("pk", flat=True)[:_MOST_EACH]
            for partition in range(PARTITIONS)
        )
        return [pk for ids in of_partition for pk in ids]

    def _parked(self, rows: Any) -> Iterable[int]:
        """What is parked, behind the newest letters: no index tells it from all that is open."""
        letters = DeadLetter.objects.using(rows.db).open().order_by("-died_at")
        failed = letters.filter(instance_id__isnull=False, command_id=None)
        keys: dict[str, set[str]] = {}
        for process, key in failed.values_list("process", "key")[:_MOST_LETTERS]:
            keys.setdefault(process, set()).add(key)
        found: list[int] = []
        for process, of_process in keys.items():
            parked = rows.of_instances().filter(process=process, key__in=of_process)
            found += parked.filter(status="parked").values_list("pk", flat=True)[:MOST]
        return found[:MOST]


class CommandFilter(_Filter):
    choices_told = (
        ("due", gettext_lazy("due")),
        ("delayed", gettext_lazy("delayed")),
        ("backing_off", gettext_lazy("backing off")),
        ("leased", gettext_lazy("leased: handed to Celery")),
        ("lost", gettext_lazy("lost: its lease has ended")),
        ("dead", gettext_lazy("dead")),
        ("done", gettext_lazy("done lately")),
        ("cancelled", gettext_lazy("cancelled lately")),
        ("discarded", gettext_lazy("discarded lately")),
    )
    conditions = {
        "due": lambda now: Q(due_at__lte=now, status="pending"),
        "delayed": lambda now: Q(due_at__gt=now, status="pending", dispatches=0),
        "backing_off": lambda now: Q(due_at__gt=now, status="pending", dispatches__gt=0),
        "leased": lambda now: Q(due_at__gt=now, status="dispatched"),
        "lost": lambda now: Q(due_at__lte=now, status="dispatched"),
    }

    def ids(self, rows: Any, choice: str, now: datetime) -> Iterable[int]:
        if choice == "dead":
            return _of_letters(rows.db, "command_id")
        if choice not in self.conditions:
            return _lately(rows, "settled_at", choice)
        found = rows.unsettled().filter(self.conditions[choice](now)).order_by("due_at", "id")
        return list(found.values_list("pk", flat=True)[:MOST])


class TimerFilter(_Filter):
    choices_told = (("due", gettext_lazy("due")), ("coming", gettext_lazy("coming")))

    def ids(self, rows: Any, choice: str, now: datetime) -> Iterable[int]:
        is_due = Q(due_at__lte=now) if choice == "due" else Q(due_at__gt=now)
        found = rows.filter(is_due, fired_at=None).order_by("due_at")
        return list(found.values_list("pk", flat=True)[:MOST])


def _lately(rows: Any, settled_at: str, status: str) -> Iterable[int]:
    settled = rows.filter(**{f"{settled_at}__isnull": False}).order_by(f"-{settled_at}")
    found = settled.values_list("pk", "status")[:_LATELY]
    return [pk for pk, its_status in found if its_status == status][:MOST]


def _of_letters(alias: str, column: str) -> Iterable[int]:
    letters = DeadLetter.objects.using(alias).open().order_by("-died_at")
    found = letters.filter(**{f"{column}__isnull": False}).values_list(column, flat=True)
    return list(found[:MOST])
