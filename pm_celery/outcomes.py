"""Outcomes: what was decided, as rows to write. Nothing is read from or written to a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

from pm_celery import registry
from pm_celery.cases import Case, Step
from pm_celery.conf import get_settings
from pm_celery.decisions import IssuedCommand, TimerSet
from pm_celery.messages import LONGEST_NAME
from pm_celery.rows import CommandRow, InboxRow, InstanceRow, TransitionRow

__all__ = [
    "CANCELLED_BY_PROCESS",
    "cancelled_commands",
    "command_rows",
    "status_row",
    "timers_left",
    "transition_row",
]

CANCELLED_BY_PROCESS = "cancelled by the process"


class Changed(Protocol):
    """An instance whose status was changed by something else than a handler."""

    @property
    def id(self) -> int: ...
    @property
    def number(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def state_version(self) -> int: ...
    @property
    def status(self) -> str: ...
    @property
    def correlation_id(self) -> str: ...


def transition_row(instance: InstanceRow, step: Step) -> TransitionRow:
    """One handled message, as the history keeps it."""
    row, decision = step.row, step.decision
    timers = {
        name: timer.due_at.isoformat() if timer else None for name, timer in decision.timers.items()
    }
    return TransitionRow(
        instance_id=instance.id,
        number=step.number,
        kind=row.kind,
        name=row.name,
        message_id=row.message_id,
        inbox_id=row.id,
        handler=decision.handler,
        state=decision.state,
        state_version=instance.state_version,
        status=decision.status,
        commands=_as_json([[command.command_id, command.name] for command in decision.commands]),
        timers=_as_json(timers),
        correlation_id=row.correlation_id,
        causation_id=row.causation_id,
        attempt=max(row.attempts, 1),
        duration=step.duration if decision.handler else None,
    )


def status_row(
    instance: Changed, kind: str, name: str, cause: InboxRow | None = None
) -> TransitionRow:
    """A change of status by something else than a handler: it is a transition of its own.

    cause: the message that failed, where that is why.
    """
    return TransitionRow(
        instance_id=instance.id,
        number=instance.number,
        kind=kind,
        name=name[:LONGEST_NAME],
        message_id=cause.message_id if cause else "",
        inbox_id=cause.id if cause else None,
        handler="",
        state=instance.state,
        state_version=instance.state_version,
        status=instance.status,
        commands="[]",
        timers="{}",
        correlation_id=instance.correlation_id,
        causation_id=cause.causation_id if cause else "",
        attempt=max(cause.attempts, 1) if cause else 1,
        duration=None,
    )


def _as_json(value: list[Any] | dict[str, Any]) -> str:
    # Most are empty, and json.dumps takes longer over that than the rest of the row.
    return json.dumps(value) if value else "[]" if isinstance(value, list) else "{}"


# -- commands ---------------------------------------------------------------------------------------


def command_rows(case: Case, now: datetime) -> list[CommandRow]:
    """The commands that a case has issued, without those of earlier batches."""
    rows: list[CommandRow] = []
    for step in case.steps:
        wanted = step.decision.cancelled_commands
        rows = [_cancelled(row, now) if _is_meant(row, wanted) else row for row in rows]
        rows += [_command_row(case, step, command, now) for command in step.decision.commands]
    return rows


def cancelled_commands(case: Case) -> list[str]:
    """The ids and names of commands that a case wants cancelled, of earlier batches too."""
    return [name for step in case.steps for name in step.decision.cancelled_commands]


def _is_meant(row: CommandRow, wanted: Sequence[str]) -> bool:
    return row.status == "pending" and (row.name in wanted or row.command_id in wanted)


def _cancelled(row: CommandRow, now: datetime) -> CommandRow:
    return replace(row, status="cancelled", settled_at=now, reason=CANCELLED_BY_PROCESS)


def _command_row(case: Case, step: Step, command: IssuedCommand, now: datetime) -> CommandRow:
    row = step.row
    expires = command.expires
    if expires is None and command.kind == "command":
        handler = registry.command_handlers.get(command.name)
        expires = handler.expires if handler else None
    return CommandRow(
        command_id=command.command_id,
        kind=command.kind,
        name=command.name,
        version=command.version,
        payload=command.payload,
        options=command.options,
        process=row.process,
        key=row.key,
        instance_id=case.instance.id if case.instance else None,
        # Without a delay it is dispatched right after this commit, so its lease begins here: that saves
        # an update. If we die before, the lease ends and the tick dispatches it.
        status="pending" if command.delay else "dispatched",
        due_at=now + (command.delay or get_settings().command_lease),
        expires_at=now + expires if expires else None,
        dispatches=0 if command.delay else 1,
        correlation_id=row.correlation_id,
        causation_id=row.message_id,
        depth=row.depth,
        issued_at=now,
        trace=step.trace,
    )


# -- timers -----------------------------------------------------------------------------------------


def timers_left(case: Case) -> dict[str, tuple[Step, TimerSet] | None]:
    """For each timer that a case touched, how it is to stand now, and which step set it; None for gone."""
    left: dict[str, tuple[Step, TimerSet] | None] = dict.fromkeys(case.spent_timers)
    for step in case.steps:
        for name, timer in step.decision.timers.items():
            left[name] = None if timer is None else (step, timer)
    return left
