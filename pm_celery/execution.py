"""Running a command: its handler, in one transaction with the mark that it ran."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

from django.db import transaction
from django.db.models import F

from pm_celery import clock, redaction, registry, signals, tracing
from pm_celery.conf import get_settings
from pm_celery.decisions import Message, caused_by
from pm_celery.exceptions import (
    CommandDied,
    CommandExpired,
    NoCommandHandler,
    RefusedMessage,
    WorkerLost,
)
from pm_celery.letters import note_failed_attempt
from pm_celery.models import OutboxCommand
from pm_celery.retries import DEFAULT_RETRY, Retry
from pm_celery.settling import die
from pm_celery.statements import statements
from pm_celery.tallies import COMMAND, UNKNOWN, Tallies, write
from pm_celery.transience import is_transient, repeated
from pm_celery.wording import reason_of

__all__ = ["UNKNOWN_HERE", "is_command_id", "run", "run_each"]

# What became of a command that another worker may know: it waits.
UNKNOWN_HERE = "unknown to this release"
_NOT_OURS = "settled or running elsewhere"
# One message of ours holds no more commands.
_MOST_AT_ONCE = 10_000


def run(command_id: str, name: str = "") -> str:
    """Run a command's handler, in one transaction with the mark that it ran; what became of it.

    The body of every command task. A second delivery finds the command done, or locked, and does
    nothing; an id that is no command's, or another one's, does nothing and is announced. Raises what the
    handler raised when that was its last attempt.

    name: of the commands that the task is for, "" for any.
    """
    found = _uuid(command_id)
    if found is None:
        return _refused(name, f"{command_id!r:.80} is no id of a command")
    try:
        outcome = repeated(get_settings().database, lambda: _run_once(found, name))
    except RefusedMessage as refused:
        return _refused(name, str(refused))
    except Exception as error:
        if not is_transient(error):
            raise
        # What never passes is no accident: this run counts, if there is a database to count it in.
        return _run_once(found, name, patient=False)
    if outcome == _NOT_OURS:
        _refuse_unknown([found], name)
    return outcome


def _refused(name: str, why: str) -> str:
    """Say that a message asked for what cannot be, and that nothing was done."""
    task = f"pm_celery.command.{name}" if name else "pm_celery.run_command"
    signals.message_refused.send_robust(sender=OutboxCommand, task=task, why=why)
    return why


def _refuse_unknown(command_ids: Collection[UUID], name: str) -> None:
    """Say which of the ids that were not found dispatched are no command's at all."""
    alias = get_settings().database
    rows = OutboxCommand.objects.using(alias).filter(command_id__in=command_ids)
    for command_id in set(command_ids) - set(rows.values_list("command_id", flat=True)):
        _refused(name, f"no command has the id {command_id}")


def _is_meant(command: OutboxCommand, name: str) -> bool:
    """Whether a task that is for commands of this name may run it; a signature runs elsewhere."""
    return command.kind == "command" and name in ("", command.name)


def is_command_id(text: object) -> bool:
    """Whether a command may have this id."""
    return isinstance(text, str) and _uuid(text) is not None


def _uuid(text: object) -> UUID | None:
    try:
        return UUID(text)  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError):
        return None


class _Failed(Exception):
    def __init__(self, command: OutboxCommand, error: Exception) -> None:
        self.command = command
        self.error = error


def _run_once(command_id: UUID, name: str, *, patient: bool = True) -> str:
    """patient: a lost lock, race or connection is raised, to be repeated, and costs no attempt."""
    counted, attempts = False, 0
    command = None
    alias = get_settings().database
    try:
        with transaction.atomic(using=alias, durable=True):
            # If we die in here, nothing happened; the lease ends, and the tick dispatches it again.
            command = _take(alias, command_id, name)
            if command is None:
                return _NOT_OURS
            attempts = command.attempts
            if command.dispatches == 1:
                return _run_taken(alias, command, counted=False)
            # It was dispatched before, and nobody said what came of it: perhaps it kills its worker.
            if not _count_attempt(alias, command):
                return _NOT_OURS
        counted, attempts = True, command.attempts
        with transaction.atomic(using=alias, durable=True):
            command = _take(alias, command_id, name)
            if command is None or command.attempts != attempts:
                return _NOT_OURS
            return _run_taken(alias, command, counted=True)
    except _Failed as failed:
        if patient and is_transient(failed.error):
            if counted:
                _refund(alias, failed.command)
            raise failed.error from None
        return _note_failure(failed.command, failed.error, counted)
    except Exception as error:
        if command is None or is_transient(error):
            if patient and counted and command is not None:
                # If the server is down now, the attempt is lost; it is up again before they are spent.
                _refund(alias, command)
            raise
        # The database refused, at the commit, what the handler had written.
        command.attempts = attempts
        return _note_failure(command, error, counted)


def _take(alias: str, command_id: UUID, name: str) -> OutboxCommand | None:
    """A dispatched command under its row lock, or None if it is settled, or held by someone else.

    Raises ``RefusedMessage`` for one that the task is not for.
    """
    command = next(iter(statements(alias).take_commands(alias, [command_id])), None)
    if command is not None and not _is_meant(command, name):
        raise RefusedMessage(f"{command_id} is the id of {command.name}")
    return command


def _count_attempt(alias: str, command: OutboxCommand) -> bool:
    """Count a run that is about to begin; False where the attempts are spent, and the command died."""
    if command.attempts >= _retry(command).max_lost_runs:
        die(
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
    if outcome == "done":
        _mark_done(alias, [command], runs=0 if counted else 1)
    else:
        command.save(using=alias, update_fields=["attempts", "due_at"])
        _note_unknown(alias, command)
    return outcome


def _note_unknown(alias: str, command: OutboxCommand) -> None:
    """Count and announce a command that waits for a newer release, as messages that do."""
    counted = Tallies()
    counted.add(command.process, UNKNOWN, detail=command.name)
    write(alias, counted, clock.now())

    signals.unknown_message.send_on_commit(
        alias,
        sender=OutboxCommand,
        process=command.process,
        name=command.name,
        version=command.version,
        message_id=str(command.command_id),
        why=f"this release does not know the command {command.name} v{command.version}",
    )


def _mark_done(alias: str, commands: Sequence[OutboxCommand], *, runs: int) -> None:
    ids = [command.pk for command in commands]
    durations = [command.duration or 0.0 for command in commands]
    tallies = Tallies()
    for command, seconds in zip(commands, durations, strict=True):
        tallies.add_run(command.process, COMMAND, command.name, seconds)
    statements(alias).finish_commands(alias, ids, durations, clock.now(), runs, tallies.as_json())
    for command in commands:
        signals.command_settled.send_on_commit(
            alias,
            sender=OutboxCommand,
            process=command.process,
            key=command.key,
            name=command.name,
            command_id=str(command.command_id),
            status="done",
        )


def _refund(alias: str, command: OutboxCommand) -> None:
    # Of one that is not settled: a commit whose answer was lost may have been one all the same.
    unchanged = OutboxCommand.objects.using(alias).filter(pk=command.pk, attempts=command.attempts)
    unchanged.filter(status="dispatched").update(attempts=F("attempts") - 1)


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
    with tracing.running(command, attempt) as traced:
        try:
            if command.expires_at is not None and command.expires_at <= clock.now():
                raise CommandExpired("Its time was over before it ran.")
            handler = registry.command_handlers.get(command.name)
            declared = registry.messages.get(command.name)
            if declared is None or declared.version < command.version:
                # An older release: another worker may know it.
                command.due_at = clock.now() + get_settings().unknown_message_wait
                command.attempts -= counted
                return UNKNOWN_HERE
            if handler is None:
                raise NoCommandHandler(
                    f"No handler is registered for {command.name}: write @command_handler("
                    f"{declared.cls.__name__}) in a module that AUTODISCOVER imports."
                )
            with caused_by(message):
                arguments = (declared.decode(command.payload, command.version),)
                began = time.perf_counter()
                handler.function(*arguments, *((message,) if handler.takes_message else ()))
                command.duration = time.perf_counter() - began
        except Exception as error:
            traced.fail(error)
            raise _Failed(command, error) from error
    return "done"


def _note_failure(command: OutboxCommand, error: Exception, counted: bool) -> str:
    alias = get_settings().database
    retry = _retry(command)
    attempts = command.attempts if counted else command.attempts + 1
    letter = None
    with transaction.atomic(using=alias, durable=True):
        unchanged = OutboxCommand.objects.using(alias).locked().filter(pk=command.pk)
        locked = unchanged.filter(status="dispatched", attempts=command.attempts).first()
        if locked is None:
            return _NOT_OURS
        locked.attempts = attempts
        hide = redaction.hider(locked.name, locked.process, locked.payload)
        note_failed_attempt(alias, locked, error, attempts, command_pk=locked.pk, hide=hide)
        wait = retry.wait_after(attempts, error)
        if wait is None:
            letter = die(locked, error)
        else:
            locked.status = "pending"
            locked.due_at = clock.now() + wait
            locked.reason = reason_of(error, hide)
            locked.save(using=alias, update_fields=["attempts", "status", "due_at", "reason"])
    if letter is not None:
        # So that Celery, and whatever watches it, sees the task fail.
        if redaction.concerns(locked.name):
            # Celery logs what a task raises: its words and those of its causes may hold what is not shown.
            raise CommandDied(
                f"{letter.exception}: {letter.error} (dead letter {letter.pk})"
            ) from None
        raise error
    signals.command_retried.send_robust(
        sender=OutboxCommand,
        process=locked.process,
        key=locked.key,
        name=locked.name,
        command_id=str(locked.command_id),
        error=error,
        error_text=locked.reason,
        attempts=attempts,
        retry_at=locked.due_at,
    )
    return f"failed in run {attempts}, again at {locked.due_at:%H:%M:%S}"


# -- commands that share a message ------------------------------------------------------------------


def run_each(command_ids: Sequence[str], name: str = "") -> str:
    """Run commands that share a message, several to a transaction; what became of them.

    Each is taken, runs and fails by itself, in a savepoint: one that raises takes no other with it. What
    was dispatched before, and whatever a transaction holds that fails as a whole (a lost connection, a
    refused commit), runs one by one. Raises what a handler raised when that was its last attempt.
    """
    if len(command_ids) > _MOST_AT_ONCE:
        return _refused(name, f"{len(command_ids):,} commands in one message were never sent by us")
    asked = dict.fromkeys(found for command_id in command_ids if (found := _uuid(command_id)))
    if len(asked) < len(command_ids):
        _refused(
            name, f"of {len(command_ids)} ids, {len(command_ids) - len(asked)} are none or double"
        )
    left = list(asked)
    alone: list[UUID] = []
    errors: list[Exception] = []
    while left:
        try:
            round_ = _run_together(left, name)
        except Exception:  # noqa: BLE001 -- nothing of it happened; alone, the culprit is found
            alone += left
            break
        if round_.missing:
            _refuse_unknown(round_.missing, name)
        for failed in round_.failed:
            _gather(errors, partial(_note_failure, failed.command, failed.error, False))
        alone += round_.alone
        left = round_.left
    for command_id in alone:
        _gather(errors, partial(run, str(command_id), name))
    if errors:
        raise errors[0]
    return f"{len(command_ids)} commands, {len(alone)} of them one by one"


def _gather(errors: list[Exception], run: Callable[[], str]) -> None:
    try:
        run()
    except Exception as error:  # noqa: BLE001 -- the others have their turn before it is raised
        errors.append(error)


@dataclass
class _Round:
    """What became of commands in one transaction; ``alone``: to be run one by one."""

    left: list[UUID]
    done: list[OutboxCommand] = field(default_factory=list)
    failed: list[_Failed] = field(default_factory=list)
    alone: list[UUID] = field(default_factory=list)
    missing: set[UUID] = field(default_factory=set)


def _run_together(command_ids: Sequence[UUID], name: str) -> _Round:
    alias = get_settings().database
    end = time.monotonic() + get_settings().batch_seconds
    with transaction.atomic(using=alias, durable=True):
        # If we die in here, nothing happened; the leases end, and each is dispatched again.
        taken = statements(alias).take_commands(alias, command_ids)
        round_ = _Round([command.command_id for command in taken])
        round_.missing = set(command_ids) - set(round_.left)
        for command in taken:
            round_.left.remove(command.command_id)
            if not _is_meant(command, name):
                # Alone, it is refused.
                round_.alone.append(command.command_id)
                continue
            _run_one_of(alias, command, round_)
            if time.monotonic() > end:
                break
        if round_.done:
            _mark_done(alias, round_.done, runs=1)
    return round_


def _run_one_of(alias: str, command: OutboxCommand, round_: _Round) -> None:
    if command.dispatches > 1:
        # Perhaps it kills its worker: its run must be counted, and committed, before.
        round_.alone.append(command.command_id)
        return
    try:
        with transaction.atomic(using=alias):
            outcome = _handle(command, counted=False)
    except _Failed as failed:
        if is_transient(failed.error):
            round_.alone.append(command.command_id)
        else:
            round_.failed.append(failed)
        return
    if outcome == "done":
        round_.done.append(command)
    else:
        command.save(using=alias, update_fields=["due_at"])
        _note_unknown(alias, command)
