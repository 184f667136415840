"""What happened to one instance, in order: the questions behind its page.

However long an instance's history is, the same number of statements reads at most so many rows of it, each
along an index: transitions by their numbers, all else by the rows' ids or the instance's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Case, F, Q, QuerySet, TextField, Value, When
from django.db.models.functions import Length

from pm_celery.conf import get_settings
from pm_celery.models import (
    DeadLetter,
    FailedAttempt,
    InboxMessage,
    Instance,
    Intervention,
    OutboxCommand,
    Timer,
    Transition,
)
from pm_celery.operations.entries import (
    MOST_SHOWN,
    Act,
    Command,
    FailedRun,
    Letter,
    Message,
    StandingTimer,
    Step,
    Timeline,
    TimerWish,
)
from pm_celery.operations.states import State, diff, initial_state, read_state
from pm_celery.redaction import payload_shown

__all__ = ["ALL", "issued", "state_as_of", "timeline", "wished"]

# What a timeline is made of, for callers who may not see all of it.
ALL = frozenset({"transitions", "messages", "commands", "letters", "timers", "interventions"})
# Characters of a payload or state: of what is longer, a page of a hundred would be of megabytes.
LONGEST_SHOWN = 20_000


def timeline(
    instance: Instance, *, until: int | None = None, parts: Collection[str] = ALL
) -> Timeline:
    """The newest hundred transitions, or those up to number ``until``, and what happened between them.

    parts: of ``ALL``, what is to be read at all.
    """
    total = instance.number
    last = total if until is None else max(min(until, total), min(total, 1))
    found = Timeline(first=max(last - MOST_SHOWN + 1, min(total, 1)), last=last, total=total)
    reader = _Reader(instance, found, frozenset(parts))
    reader.read()
    return found


def state_as_of(instance: Instance, number: int) -> tuple[Transition | None, State]:
    """A transition, and the state that it left; None and the present state if there is none of it."""
    rows = Transition.objects.using(get_settings().database)
    found = rows.filter(instance_id=instance.pk, number=number).first()
    row = found or instance
    return found, read_state(instance.process, row.state, row.state_version)


class _Reader:
    """Fills a timeline, one table after the other."""

    def __init__(self, instance: Instance, found: Timeline, parts: frozenset[str]) -> None:
        self.alias = get_settings().database
        self.instance = instance
        self.found = found
        self.parts = parts
        self.names: dict[tuple[bool, int], str] = {}

    def read(self) -> None:
        rows, before = self._transitions()
        # Whoever may not see transitions gets the newest of all else.
        self.since = before.recorded_at if before else None
        self.until = rows[-1].recorded_at if rows and self.found.later else None
        if rows and self.found.later:
            after = Transition.objects.using(self.alias).filter(
                instance_id=self.instance.pk, number=self.found.last + 1
            )
            self.until = after.values_list("recorded_at", flat=True).first()
        payloads = self._payloads(rows)
        commands = self._commands(rows)
        if "transitions" in self.parts:
            self._add_steps(rows, before, payloads, commands)
        self._add_messages()
        if "letters" in self.parts:
            self._add_letters()
            self._add_failed_runs()
        if "interventions" in self.parts:
            self._add_acts()
        if "timers" in self.parts:
            self._add_timers()
        self.found.entries.sort(key=lambda entry: (entry.at, entry.sort != "step"))

    def _transitions(self) -> tuple[list[Transition], Transition | None]:
        """The page's transitions in order, and the one before them."""
        if "transitions" not in self.parts:
            return [], None
        rows = (
            _without_long(Transition.objects.using(self.alias), "state")
            .filter(
                instance_id=self.instance.pk,
                number__gte=self.found.first - 1,
                number__lte=self.found.last,
            )
            .order_by("number")
        )
        found = list(rows)
        if found and found[0].number < self.found.first:
            return found[1:], found[0]
        return found, None

    def _payloads(self, rows: Sequence[Transition]) -> dict[int, str | None]:
        if "messages" not in self.parts:
            return {}
        ids = [row.inbox_id for row in rows if row.inbox_id is not None]
        messages = _without_long(InboxMessage.objects.using(self.alias), "payload")
        shown = {}
        for message in messages.filter(pk__in=ids):
            if (message.process, message.key) == (self.instance.process, self.instance.key):
                self.names[False, message.pk] = message.name
                shown[message.pk] = _payload(message)
        return shown

    def _commands(self, rows: Sequence[Transition]) -> dict[str, Command]:
        if "commands" not in self.parts:
            return {}
        ids = [id_ for row in rows for id_, _name in issued(row.commands)]
        commands = _without_long(OutboxCommand.objects.using(self.alias), "payload")
        found = {}
        for row in commands.filter(command_id__in=filter(_is_uuid, ids)):
            self.names[True, row.pk] = row.name
            found[str(row.command_id)] = Command(
                id=str(row.command_id),
                name=row.name,
                pk=row.pk,
                status=row.status,
                status_name=row.get_status_display(),
                reason=row.reason,
                attempts=row.attempts,
                dispatches=row.dispatches,
                duration=row.duration,
                due_at=row.due_at,
                issued_at=row.issued_at,
                settled_at=row.settled_at,
                payload=_payload(row),
            )
        return found

    def _add_steps(
        self,
        rows: Sequence[Transition],
        before: Transition | None,
        payloads: dict[int, str | None],
        commands: dict[str, Command],
    ) -> None:
        process = self.instance.process
        state = _state(process, before) if before else initial_state(process)
        causes: dict[str, int] = {}
        for row in rows:
            after = _state(process, row)
            compared = diff(state, after) if state and after else None
            wanted = issued(row.commands)
            step = Step(
                pk=row.pk,
                at=row.recorded_at,
                number=row.number,
                kind=row.kind,
                kind_name=row.get_kind_display(),
                name=row.name,
                handler=row.handler,
                status=row.status,
                status_name=row.get_status_display(),
                attempt=row.attempt,
                duration=row.duration,
                message_id=row.message_id,
                inbox_id=row.inbox_id,
                payload=payloads.get(row.inbox_id or 0),
                correlation_id=row.correlation_id,
                causation_id=row.causation_id,
                caused_by=causes.get(row.causation_id) if row.causation_id else None,
                changes=compared[0] if compared else [],
                total_changes=compared[1] if compared else None,
                commands=[commands.get(id_) or Command(id_, name) for id_, name in wanted],
                timers=wished(row.timers),
            )
            self.found.entries.append(step)
            causes |= {id_: row.number for id_, _name in wanted}
            if row.message_id:
                causes[row.message_id] = row.number
            state = after

    def _add_messages(self) -> None:
        if "messages" not in self.parts:
            return
        inbox = InboxMessage.objects.using(self.alias)
        process, key = self.instance.process, self.instance.key
        rows = list(_without_long(inbox.of_instance(process, key), "payload")[:MOST_SHOWN])
        skipped = _without_long(inbox.skipped_of(process, key), "payload")[:MOST_SHOWN]
        rows += reversed(skipped)
        for row in rows:
            self.names[False, row.pk] = row.name
            self.found.messages.append(
                Message(
                    pk=row.pk,
                    at=row.published_at,
                    kind_name=row.get_kind_display(),
                    name=row.name,
                    status=row.status,
                    status_name=row.get_status_display(),
                    due_at=row.due_at,
                    attempts=row.attempts,
                    reason=row.reason,
                    payload=_payload(row),
                )
            )

    def _add_letters(self) -> None:
        rows = self._between(DeadLetter.objects.using(self.alias), "died_at")
        for row in rows.filter(instance_id=self.instance.pk).defer(
            "payload", "original_payload", "traceback", "failure_handler_error"
        )[:MOST_SHOWN]:
            if row.message_id or row.command_id:
                self.names[row.command_id is not None, row.command_id or row.message_id or 0] = (
                    row.name
                )
            self.found.entries.append(
                Letter(
                    at=row.died_at,
                    pk=row.pk,
                    name=row.name,
                    place_name=row.get_place_display(),
                    handler=row.handler,
                    exception=row.exception,
                    error=row.error[:LONGEST_SHOWN],
                    attempts=row.attempts,
                    status=row.status,
                    status_name=row.get_status_display(),
                    settled_at=row.settled_at,
                    settled_by=row.settled_by,
                    note=row.note,
                )
            )

    def _add_failed_runs(self) -> None:
        messages = [pk for of_command, pk in self.names if not of_command]
        commands = [pk for of_command, pk in self.names if of_command]
        for condition in (Q(message_id__in=messages), Q(command_id__in=commands)):
            rows = FailedAttempt.objects.using(self.alias).filter(condition)
            for row in rows.order_by("-id")[:MOST_SHOWN]:
                of_command = row.command_id is not None
                pk = row.command_id or row.message_id or 0
                self.found.entries.append(
                    FailedRun(
                        at=row.failed_at,
                        number=row.number,
                        name=self.names[of_command, pk],
                        of_command=of_command,
                        handler=row.handler,
                        exception=row.exception,
                        error=row.error,
                    )
                )

    def _add_acts(self) -> None:
        rows = self._between(Intervention.objects.using(self.alias), "at")
        for row in rows.filter(instance_id=self.instance.pk).defer("details")[:MOST_SHOWN]:
            self.found.entries.append(
                Act(
                    at=row.at,
                    verb=row.verb,
                    verb_name=row.get_verb_display(),
                    subject=row.subject,
                    by=row.by,
                    reason=row.reason,
                )
            )

    def _add_timers(self) -> None:
        process = self.instance.process
        rows = Timer.objects.using(self.alias).filter(instance_id=self.instance.pk)
        for row in rows.order_by("due_at")[:MOST_SHOWN]:
            shown = payload_shown(row.name, process, row.payload, kind="timer")
            self.found.timers.append(
                StandingTimer(row.pk, row.name, row.due_at, row.fired_at, shown)
            )

    def _between(self, rows: QuerySet[Any], moment: str) -> QuerySet[Any]:
        """The newest rows that belong to this page of the timeline."""
        if self.since is not None:
            rows = rows.filter(**{f"{moment}__gte": self.since})
        if self.until is not None:
            rows = rows.filter(**{f"{moment}__lt": self.until})
        return rows.order_by("-id")


def _without_long(rows: QuerySet[Any], column: str) -> QuerySet[Any]:
    """Rows with a text in ``shown`` that is null where it is too long for a page of many."""
    short = When(length__lte=LONGEST_SHOWN, then=F(column))
    found: QuerySet[Any] = (
        rows.defer(column)
        .annotate(length=Length(column))
        .annotate(shown=Case(short, default=Value(None), output_field=TextField()))
    )
    return found


def _payload(row: Any) -> str | None:
    if row.shown is None:
        return None
    return payload_shown(row.name, row.process, row.shown, kind=row.kind, version=row.version)


def _state(process: str, row: Any) -> State | None:
    return None if row.shown is None else read_state(process, row.shown, row.state_version)


def issued(commands: str) -> list[tuple[str, str]]:
    """The ids and names of the commands that a transition issued."""
    try:
        return [(str(id_), str(name)) for id_, name in json.loads(commands)]
    except (ValueError, TypeError, RecursionError):
        return []


def wished(timers: str) -> list[TimerWish]:
    """What a transition wanted of timers."""
    try:
        return [
            TimerWish(str(name), datetime.fromisoformat(due) if due else None)
            for name, due in json.loads(timers).items()
        ]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return []


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
