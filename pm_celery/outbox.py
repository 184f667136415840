"""The outbox's verbs: dispatch commands to Celery, run them once, and settle what became of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol
from uuid import UUID

from django.db import connections, transaction
from django.db.models import Case as SqlCase
from django.db.models import F, When
from kombu.utils import json as kombu_json

from pm_celery import clock, inbox, registry, signals
from pm_celery.broker import Post, post_office
from pm_celery.conf import get_settings
from pm_celery.decisions import Message, caused_by
from pm_celery.exceptions import CommandExpired, NoCommandHandler, WorkerLost
from pm_celery.keys import partition_of
from pm_celery.letters import announce_death, described
from pm_celery.models import DeadLetter, OutboxCommand, Transition
from pm_celery.models.dead_letters import Place
from pm_celery.models.outbox import UNSETTLED, OutboxQuerySet
from pm_celery.retries import DEFAULT_RETRY, Retry
from pm_celery.rows import NewMessage
from pm_celery.transience import is_transient, repeated

__all__ = ["dispatch", "dispatch_due", "run", "settle_signature"]

RUN_TASK = "pm_celery.run_command"
COMMAND_TASK = "pm_celery.command."
# Signatures carry it, so that Celery's signals tell ours from others without asking the database.
HEADER = "pm_celery_command"
_LONGEST_LEASE = timedelta(hours=1)
# A signature may run where pm_celery is not installed, and nobody would ever say so. Its leases have
# doubled to hours by then.
_MOST_DISPATCHES = 12
_NOT_OURS = "settled or running elsewhere"


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


# -- dispatch ---------------------------------------------------------------------------------------


def dispatch(commands: Sequence[Dispatchable]) -> int:
    """Hand commands whose lease has begun to Celery; how many it took.

    If we die in here, or the broker refuses, the rest is dispatched when the leases end.
    """
    if not commands:
        return 0
    with post_office() as post:
        return sum(
            _send_signature(post, command)
            if command.kind == "signature"
            else _send_command(post, command)
            for command in commands
        )


def _send_command(post: Post, command: Dispatchable) -> bool:
    handler = registry.command_handlers.get(command.name)
    command_id = str(command.command_id)
    return post.send(
        f"{COMMAND_TASK}{command.name}" if handler else RUN_TASK,
        [command_id],
        what=f"{command.name} {command_id}",
        task_id=command_id,
        **{**(handler.message_options if handler else {}), **json.loads(command.options)},
    )


def _send_signature(post: Post, command: Dispatchable) -> bool:
    stored = kombu_json.loads(command.payload)
    command_id = str(command.command_id)
    options = {**stored.get("options", {}), **json.loads(command.options)}
    options["headers"] = {**(options.get("headers") or {}), HEADER: command_id}
    options["task_id"] = command_id
    return post.send(
        stored["task"],
        stored.get("args", ()),
        stored.get("kwargs", {}),
        what=f"{command.name} {command_id}",
        **options,
    )


def dispatch_due(limit: int = 500) -> int:
    """Dispatch what is delayed no longer, backed off, or stranded past its lease; how many rows."""
    settings = get_settings()
    alias = settings.database
    with transaction.atomic(using=alias, durable=True):
        now = clock.now()
        due = list(_locking(alias).due(now)[:limit])
        ready = []
        for command in due:
            if command.expires_at is not None and command.expires_at <= now:
                _die(command, CommandExpired("Its time was over before it was dispatched."))
            elif command.kind == "signature" and command.dispatches >= _MOST_DISPATCHES:
                _die(
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
            lease = min(settings.command_lease * 2 ** min(command.dispatches, 20), _LONGEST_LEASE)
            leases.setdefault(now + lease, []).append(command.pk)
        if ready:
            OutboxCommand.objects.using(alias).filter(pk__in=[c.pk for c in ready]).update(
                status="dispatched",
                dispatches=F("dispatches") + 1,
                due_at=SqlCase(*(When(pk__in=ids, then=until) for until, ids in leases.items())),
            )
    dispatch(ready)
    return len(due)


def _locking(alias: str) -> OutboxQuerySet:
    skip = connections[alias].features.has_select_for_update_skip_locked
    return OutboxCommand.objects.using(alias).select_for_update(skip_locked=skip)


# -- run --------------------------------------------------------------------------------------------


def run(command_id: str) -> str:
    """Run a command's handler, in one transaction with the mark that it ran; what became of it.

    The body of every command task. A second delivery finds the command done, or locked, and does
    nothing. Raises what the handler raised when that was its last attempt.
    """
    try:
        found = UUID(command_id)
    except (ValueError, TypeError, AttributeError):
        return "no command has this id"
    return repeated(get_settings().database, lambda: _run_once(found))


class _Failed(Exception):
    def __init__(self, command: OutboxCommand, error: Exception) -> None:
        self.command = command
        self.error = error


def _run_once(command_id: UUID) -> str:
    counted = False
    command = None
    alias = get_settings().database
    try:
        with transaction.atomic(using=alias, durable=True):
            # If we die in here, nothing happened; the lease ends, and the tick dispatches it again.
            command = _take(alias, command_id)
            if command is None:
                return _NOT_OURS
            if command.dispatches == 1:
                return _run_taken(alias, command, counted=False)
            # It was dispatched before, and nobody said what came of it: perhaps it kills its worker.
            if not _count_attempt(alias, command):
                return _NOT_OURS
        counted, attempts = True, command.attempts
        with transaction.atomic(using=alias, durable=True):
            command = _take(alias, command_id)
            if command is None or command.attempts != attempts:
                return _NOT_OURS
            return _run_taken(alias, command, counted=True)
    except _Failed as failed:
        if is_transient(failed.error):
            if counted:
                _refund(alias, failed.command)
            raise failed.error from None
        return _note_failure(failed.command, failed.error, counted)


def _take(alias: str, command_id: UUID) -> OutboxCommand | None:
    """A dispatched command under its row lock, or None if it is settled, or held by someone else."""
    return _locking(alias).filter(command_id=command_id, status="dispatched").first()


def _count_attempt(alias: str, command: OutboxCommand) -> bool:
    """Count a run that is about to begin; False where the attempts are spent, and the command died."""
    if command.attempts >= _retry(command).max_lost_runs:
        _die(
            command,
            WorkerLost(
                f"{command.attempts} runs began and none of them came back: the worker was killed "
                "each time (out of memory, a segmentation fault, a time limit)."
            ),
        )
        return False
    command.attempts += 1
    command.save(using=alias, update_fields=["attempts"])
    return True


def _run_taken(alias: str, command: OutboxCommand, *, counted: bool) -> str:
    outcome = _handle(command, counted)
    if command.status == "done":
        command.settled_at = clock.now()
        transaction.on_commit(partial(_announce_done, command), using=alias, robust=True)
    columns = ["status", "attempts", "settled_at", "due_at", "reason"]
    command.save(using=alias, update_fields=columns)
    return outcome


def _announce_done(command: OutboxCommand) -> None:
    signals.command_settled.send_robust(
        sender=OutboxCommand,
        name=command.name,
        command_id=str(command.command_id),
        status=command.status,
    )


def _refund(alias: str, command: OutboxCommand) -> None:
    OutboxCommand.objects.using(alias).filter(pk=command.pk, attempts=command.attempts).update(
        attempts=F("attempts") - 1
    )


def _retry(command: OutboxCommand) -> Retry:
    handler = registry.command_handlers.get(command.name)
    return handler.retry if handler else DEFAULT_RETRY


def _handle(command: OutboxCommand, counted: bool) -> str:
    attempt = command.attempts if counted else command.attempts + 1
    message = Message(
        id=str(command.command_id),
        kind="command",
        name=command.name,
        correlation_id=command.correlation_id,
        causation_id=command.causation_id,
        depth=command.depth,
        attempt=attempt,
        occurred_at=command.issued_at,
        published_at=command.issued_at,
    )
    try:
        if command.expires_at is not None and command.expires_at <= clock.now():
            raise CommandExpired("Its time was over before it ran.")
        handler = registry.command_handlers.get(command.name)
        declared = registry.messages.get(command.name)
        if handler is None or declared is None or declared.version < command.version:
            if declared is None or declared.version < command.version:
                # An older release: another worker may know it.
                command.due_at = clock.now() + get_settings().unknown_message_wait
                command.attempts -= counted
                return "unknown to this release"
            raise NoCommandHandler(
                f"No handler is registered for {command.name}: write @command_handler("
                f"{declared.cls.__name__}) in a module that AUTODISCOVER imports."
            )
        with caused_by(message):
            arguments = (declared.decode(command.payload),)
            handler.function(*arguments, *((message,) if handler.takes_message else ()))
    except Exception as error:
        raise _Failed(command, error) from error
    command.status = "done"
    command.attempts = attempt
    command.reason = ""
    return "done"


def _note_failure(command: OutboxCommand, error: Exception, counted: bool) -> str:
    alias = get_settings().database
    retry = _retry(command)
    attempts = command.attempts if counted else command.attempts + 1
    with transaction.atomic(using=alias, durable=True):
        locked = (
            _locking(alias)
            .filter(pk=command.pk, status="dispatched", attempts=command.attempts)
            .first()
        )
        if locked is None:
            return _NOT_OURS
        locked.attempts = attempts
        if retry.is_terminal(error) or attempts >= retry.max_runs:
            _die(locked, error)
        else:
            locked.status = "pending"
            locked.due_at = clock.now() + retry.wait(attempts)
            locked.reason = f"{type(error).__name__}: {described(error)['error'][:1000]}"
            locked.save(using=alias, update_fields=["attempts", "status", "due_at", "reason"])
    if locked.status == "dead":
        # So that Celery, and whatever watches it, sees the task fail.
        raise error
    signals.command_retried.send_robust(
        sender=OutboxCommand,
        name=locked.name,
        command_id=str(locked.command_id),
        error=error,
        attempts=attempts,
        retry_at=locked.due_at,
    )
    return f"failed in run {attempts}, again at {locked.due_at:%H:%M:%S}"


# -- settle -----------------------------------------------------------------------------------------


def _die(command: OutboxCommand, error: BaseException) -> None:
    """A locked command is given up: dead letter, and a notice to the instance that issued it."""
    alias = get_settings().database
    found = described(error)
    now = clock.now()
    command.status = "dead"
    command.reason = f"{found['exception']}: {found['error'][:1000]}"
    command.save(using=alias, update_fields=["status", "reason", "attempts"])
    handler = registry.command_handlers.get(command.name)
    letter = DeadLetter.objects.using(alias).create(
        command=command,
        instance_id=command.instance_id,
        place=Place.SIGNATURE if command.kind == "signature" else Place.COMMAND,
        process=command.process,
        key=command.key,
        name=command.name,
        message_ref=str(command.command_id),
        handler=handler.function.__name__ if handler and command.kind == "command" else "",
        payload=command.payload,
        attempts=command.attempts,
        died_at=now,
        **found,
    )
    announce_death(alias, letter, error)
    if command.instance_id is not None:
        inbox.put([_notice(command, letter, now)])


def _notice(command: OutboxCommand, letter: DeadLetter, now: datetime) -> NewMessage:
    payload = {
        "name": command.name,
        "id": str(command.command_id),
        "exception": letter.exception,
        "error": letter.error,
        "attempts": command.attempts,
        "payload": command.payload if command.kind == "command" else None,
        "letter": letter.pk,
        "issued_in": _issuing_handler(command),
    }
    return NewMessage(
        message_id=f"command-failed:{letter.pk}",
        kind="command_failed",
        name=command.name,
        version=command.version,
        payload=json.dumps(payload),
        process=command.process,
        key=command.key,
        partition=partition_of(command.process, command.key),
        due_at=now,
        correlation_id=command.correlation_id,
        causation_id=str(command.command_id),
        depth=command.depth + 1,
        occurred_at=now,
        published_at=now,
    )


def _issuing_handler(command: OutboxCommand) -> str | None:
    """The method that issued a command."""
    steps = Transition.objects.using(get_settings().database)
    found = steps.filter(instance_id=command.instance_id or 0, message_id=command.causation_id)
    return found.values_list("handler", flat=True).order_by("-number").first()


def extend_signature(command_id: str, seconds: float) -> None:
    """A Celery task of ours has begun: its lease lasts for as long as it may run."""
    OutboxCommand.objects.using(get_settings().database).filter(
        command_id=command_id, status="dispatched"
    ).update(due_at=clock.now() + timedelta(seconds=seconds), attempts=F("attempts") + 1)


def settle_signature(command_id: str, error: BaseException | None) -> None:
    """Celery says what became of a task that an instance sent as a signature."""
    alias = get_settings().database
    with transaction.atomic(using=alias):
        command = (
            OutboxCommand.objects.using(alias)
            .select_for_update()
            .filter(command_id=command_id, status__in=UNSETTLED)
            .first()
        )
        if command is None:
            return
        if error is not None:
            _die(command, error)
            return
        command.status, command.settled_at = "done", clock.now()
        command.save(using=alias, update_fields=["status", "settled_at"])
