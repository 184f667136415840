"""Record: write what was decided, one statement for each table, in the engine's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.db import connections
from django.db.models import Q

from pm_celery import clock
from pm_celery.cases import Case, Step
from pm_celery.decisions import TimerSet
from pm_celery.letters import open_letter
from pm_celery.models import Instance, OutboxCommand, Timer
from pm_celery.models.dead_letters import Place
from pm_celery.models.inbox import InboxMessage
from pm_celery.outcomes import (
    CANCELLED_BY_PROCESS,
    cancelled_commands,
    command_rows,
    timers_left,
    transition_row,
)
from pm_celery.rows import CommandRow, InboxMark, InstanceRow, TransitionRow
from pm_celery.statements import statements
from pm_celery.tallies import BEGAN, HANDLED, HANDLER, UNKNOWN, Tallies

__all__ = ["Recorded", "record", "skip_parked"]

_COUNTED = frozenset({HANDLED, "skipped", "unmatched"})


@dataclass(slots=True)
class Recorded:
    """What a transaction wrote, for dispatching and for the news."""

    transitions: list[TransitionRow] = field(default_factory=list)
    commands: list[CommandRow] = field(default_factory=list)
    marks: list[InboxMark] = field(default_factory=list)

    def to_dispatch(self) -> list[CommandRow]:
        return [command for command in self.commands if command.status == "dispatched"]


def record(alias: str, cases: Sequence[Case], now: datetime) -> Recorded:
    """Write the cases' outcomes. If we die in here, the transaction dies with us: nothing was said."""
    recorded = Recorded()
    changed: list[InstanceRow] = []
    unused: list[int] = []
    for case in cases:
        recorded.marks += case.marks.values()
        recorded.commands += command_rows(case, now)
        if case.instance is not None:
            recorded.transitions += [transition_row(case.instance, step) for step in case.steps]
        if case.instance is not None and case.steps:
            changed.append(case.instance)
        elif case.instance is not None and case.instance.number == 0:
            unused.append(case.instance.id)
    _cancel_commands(alias, cases, now)
    if unused:
        Instance.objects.using(alias).filter(pk__in=unused).delete()
    statements(alias).record(
        alias,
        now,
        instances=changed,
        transitions=recorded.transitions,
        commands=recorded.commands,
        marks=recorded.marks,
        counts=_tallies(cases).as_json(),
    )
    _write_timers(alias, cases)
    for case in cases:
        _write_waits(alias, case, now)
        for row, error in case.unmatched:
            open_letter(
                alias, row, error, place=Place.UNMATCHED, attempts=row.attempts, message_pk=row.id
            )
        if case.ended_here and case.instance and case.steps[-1].row.kind == "failure":
            instance = case.instance
            skip_parked(alias, instance.process, instance.key, instance.status, now)
    return recorded


def _tallies(cases: Sequence[Case]) -> Tallies:
    tallies = Tallies()
    for case in cases:
        if not case.rows:
            continue
        process = case.rows[0].process
        for mark in case.marks.values():
            if mark.status in _COUNTED:
                tallies.add(process, mark.status)
        for row in case.unknown:
            tallies.add(process, UNKNOWN, detail=row.name)
        for step in case.steps:
            if step.decision.handler:
                tallies.add_run(process, HANDLER, step.decision.handler, step.duration)
        if case.instance is not None and case.steps:
            if not case.status_before:
                tallies.add(process, BEGAN)
            tallies.move(process, case.status_before, case.instance.status)
    return tallies


def _write_waits(alias: str, case: Case, now: datetime) -> None:
    if case.held_until is None and not case.releases_waiting:
        return
    first = case.rows[0]
    rows = InboxMessage.objects.using(alias).of_instance(first.process, first.key)
    if case.held_until is not None:
        # All of them, also those that the batch did not read: what is due is claimed again and again.
        rows.open().filter(due_at__lte=now).update(due_at=case.held_until)
    if case.releases_waiting:
        rows.filter(status="waiting").update(status="pending", due_at=clock.at_once(), reason="")


def _cancel_commands(alias: str, cases: Sequence[Case], now: datetime) -> None:
    """Cancel delayed commands that earlier batches stored."""
    for case in cases:
        wanted = cancelled_commands(case)
        if wanted and case.instance is not None:
            OutboxCommand.objects.using(alias).filter(
                Q(command_id__in=[name for name in wanted if _is_uuid(name)]) | Q(name__in=wanted),
                instance_id=case.instance.id,
                status="pending",
                dispatches=0,
            ).update(status="cancelled", settled_at=now, reason=CANCELLED_BY_PROCESS)


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _write_timers(alias: str, cases: Sequence[Case]) -> None:
    ended: list[int] = []
    set_: list[Timer] = []
    gone: dict[str, list[int]] = {}
    for case in cases:
        if case.instance is None:
            continue
        if case.ended_here:
            ended.append(case.instance.id)
            continue
        for name, left in timers_left(case).items():
            if left is None:
                gone.setdefault(name, []).append(case.instance.id)
            else:
                set_.append(_timer(case.instance, *left))
    timers = Timer.objects.using(alias)
    if ended:
        timers.filter(instance_id__in=ended).delete()
    for name, ids in gone.items():
        timers.filter(name=name, instance_id__in=ids).delete()
    if set_:
        # A timer that is moved loses its `fired_at`: the inbox row of its old moment is stale then.
        target = connections[alias].features.supports_update_conflicts_with_target
        timers.bulk_create(
            set_,
            update_conflicts=True,
            update_fields=[
                "token",
                "due_at",
                "payload",
                "fired_at",
                "correlation_id",
                "causation_id",
            ],
            unique_fields=["instance", "name"] if target else None,
        )


def _timer(instance: InstanceRow, step: Step, timer: TimerSet) -> Timer:
    return Timer(
        instance_id=instance.id,
        name=timer.name,
        due_at=timer.due_at,
        payload=timer.payload,
        correlation_id=step.row.correlation_id,
        causation_id=step.row.message_id,
    )


def skip_parked(alias: str, process: str, key: str, status: str, now: datetime) -> None:
    """What was parked behind a failure has nowhere to go once its instance has ended."""
    InboxMessage.objects.using(alias).of_instance(process, key).filter(status="parked").update(
        status="skipped", reason=f"the instance is {status}", handled_at=now
    )
