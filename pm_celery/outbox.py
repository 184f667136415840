"""The outbox's verb: dispatch commands to Celery."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from django.db import transaction
from django.db.models import Case as SqlCase
from django.db.models import F, When
from kombu.utils import json as kombu_json

from pm_celery import clock, registry, tracing
from pm_celery.broker import Post, post_office
from pm_celery.conf import get_settings
from pm_celery.exceptions import CommandExpired, WorkerLost
from pm_celery.models import OutboxCommand
from pm_celery.settling import die

__all__ = ["dispatch", "dispatch_due", "lease_after"]

RUN_TASK = "pm_celery.run_command"
# Signatures carry it, so that Celery's signals tell ours from others without asking the database.
HEADER = "pm_celery_command"
_LONGEST_LEASE = timedelta(hours=1)
# A signature may run where pm_celery is not installed, and nobody would ever say so. Its leases have
# doubled to hours by then.
_MOST_DISPATCHES = 12


class Dispatchable(Protocol):
    """A command as dispatching needs it: a row of the batch, or of the table."""

    @property
    def command_id(self) -> str | UUID: ...
    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def payload(self) -> str: ...
    @property
    def options(self) -> str: ...
    @property
    def trace(self) -> str: ...


def dispatch(commands: Sequence[Dispatchable]) -> int:
    """Hand commands whose lease has begun to Celery; how many it took.

    If we die in here, or the broker refuses, the rest is dispatched when the leases end.
    """
    if not commands:
        return 0
    taken = 0
    shared: dict[tuple[str, str], list[Dispatchable]] = {}
    with tracing.dispatching(commands), post_office(len(commands)) as post:
        for command in commands:
            if command.kind == "signature":
                taken += _send_signature(post, command)
            elif _may_share_a_message(command):
                shared.setdefault((command.name, command.options), []).append(command)
            else:
                taken += _send_commands(post, [command])
        size = get_settings().commands_per_message
        for alike in shared.values():
            for start in range(0, len(alike), size):
                taken += _send_commands(post, alike[start : start + size])
    return taken


def _may_share_a_message(command: Dispatchable) -> bool:
    handler = registry.command_handlers.get(command.name)
    return (
        get_settings().commands_per_message > 1
        and handler is not None
        and handler.may_share_a_message
        and "time_limit" not in command.options
    )


def _send_commands(post: Post, commands: Sequence[Dispatchable]) -> int:
    """Send one message for commands of one handler, with the options that they share."""
    first = commands[0]
    handler = registry.command_handlers.get(first.name)
    ids = [str(command.command_id) for command in commands]
    options = {**(handler.message_options if handler else {}), **json.loads(first.options)}
    if len(ids) == 1:
        options["task_id"] = ids[0]
    with tracing.descending(first.trace if len(ids) == 1 else ""):
        sent = post.send(
            handler.task_name if handler else RUN_TASK,
            [ids[0] if len(ids) == 1 else ids],
            what=f"{first.name} {ids[0]}" + (f" and {len(ids) - 1} others" if len(ids) > 1 else ""),
            argsrepr=f"({ids[0]!r},)" if len(ids) == 1 else f"({len(ids)} commands)",
            kwargsrepr="{}",
            **options,
        )
    return len(ids) if sent else 0


def _send_signature(post: Post, command: Dispatchable) -> bool:
    stored = kombu_json.loads(command.payload)
    command_id = str(command.command_id)
    options = {**stored.get("options", {}), **json.loads(command.options)}
    options["headers"] = {**(options.get("headers") or {}), HEADER: command_id}
    options["task_id"] = command_id
    with tracing.descending(command.trace):
        return post.send(
            stored["task"],
            stored.get("args", ()),
            stored.get("kwargs", {}),
            what=f"{command.name} {command_id}",
            **options,
        )


def lease_after(dispatches: int) -> timedelta:
    """How long a command that was dispatched so often before may take until it counts as lost."""
    return min(get_settings().command_lease * (1 << min(dispatches, 20)), _LONGEST_LEASE)


def dispatch_due(limit: int = 500) -> int:
    """Dispatch what is delayed no longer, backed off, or stranded past its lease; how many rows."""
    alias = get_settings().database
    now = clock.now()
    if not OutboxCommand.objects.using(alias).due(now).exists():
        return 0
    with transaction.atomic(using=alias, durable=True):
        due = list(OutboxCommand.objects.using(alias).locked().due(now)[:limit])
        ready = []
        for command in due:
            if command.expires_at is not None and command.expires_at <= now:
                die(command, CommandExpired("Its time was over before it was dispatched."))
            elif command.kind == "signature" and command.dispatches >= _MOST_DISPATCHES:
                die(
                    command,
                    WorkerLost(
                        f"It was dispatched {command.dispatches} times and never reported back: does "
                        "a worker consume its queue, know its task, and have pm_celery installed?"
                    ),
                )
            else:
                ready.append(command)
        leases: dict[datetime, list[int]] = {}
        for command in ready:
            leases.setdefault(now + lease_after(command.dispatches), []).append(command.pk)
        if ready:
            OutboxCommand.objects.using(alias).filter(pk__in=[c.pk for c in ready]).update(
                status="dispatched",
                dispatches=F("dispatches") + 1,
                due_at=SqlCase(*(When(pk__in=ids, then=until) for until, ids in leases.items())),
            )
    dispatch(ready)
    return len(due)
