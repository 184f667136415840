"""What happens after a run that failed: wait and retry, or die, fail the instance, and tell it."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime

from django.db import transaction
from django.db.models import F, Q

from pm_celery import clock, inbox, notices, redaction, registry, signals
from pm_celery.conf import get_settings
from pm_celery.deciding import retry_of
from pm_celery.definitions import ProcessDefinition
from pm_celery.exceptions import WorkerLost
from pm_celery.keys import partition_of
from pm_celery.letters import announce_death, note_failed_attempt, open_letter
from pm_celery.models import DeadLetter, InboxMessage, Instance
from pm_celery.models.dead_letters import Place
from pm_celery.outcomes import status_row
from pm_celery.policies import PolicyDefinition
from pm_celery.rows import NEVER, InboxRow
from pm_celery.statements import InstanceKey, statements
from pm_celery.tallies import BEGAN, Tallies
from pm_celery.wording import Hide, described, reason_of, summary

__all__ = ["count_attempt", "note", "note_unrecordable", "refund"]


# -- counting before the run ------------------------------------------------------------------------


def count_attempt(keys: Collection[InstanceKey], ids: Collection[int]) -> InboxRow | None:
    """Count, and commit, a run of the first message of one case that is about to begin.

    None where there is nothing to run: the message waits or is gone, another worker counts it, or its
    attempts are spent and it is dead now.
    """
    alias = get_settings().database
    now = clock.now()
    row = _head(alias, keys, ids, now)
    if row is None:
        return None
    listener = registry.listeners.get(row.process)
    if now < row.due_at < NEVER or listener is None:
        if not isinstance(listener, PolicyDefinition):
            until = row.due_at if listener else now + get_settings().unknown_message_wait
            _hold(alias, row, now, until)
        return None
    if row.attempts >= retry_of(listener, row).max_lost_runs:
        _die(row, "", _lost(row), row.attempts)
        return None
    if not _compare_and_set(alias, row, attempts=row.attempts + 1):
        return None
    return _row(alias, row.id)


def _lost(row: InboxRow) -> WorkerLost:
    return WorkerLost(
        f"{row.attempts} runs of {row.name} {row.message_id} began and none of them came back: the "
        "worker was killed each time (out of memory, a segmentation fault, a time limit)."
    )


def refund(row: InboxRow) -> None:
    """Give back an attempt that did not run."""
    InboxMessage.objects.using(get_settings().database).open().filter(
        pk=row.id, attempts=row.attempts
    ).update(attempts=F("attempts") - 1)


def _head(
    alias: str, keys: Collection[InstanceKey], ids: Collection[int], now: datetime
) -> InboxRow | None:
    """The message whose turn it is: the first of the instance that is not merely waiting for a start."""
    for process, key in keys:
        first = (
            InboxMessage.objects.using(alias)
            .of_instance(process, key)
            .filter(Q(status="pending") | Q(status="waiting", due_at__lte=now))
            .values_list("pk", flat=True)
            .first()
        )
        return None if first is None else _row(alias, first)
    for id_ in ids:
        return _row(alias, id_)
    return None


def _row(alias: str, id_: int) -> InboxRow | None:
    columns = list(InboxRow.__dataclass_fields__)
    found = InboxMessage.objects.using(alias).open().filter(pk=id_).values_list(*columns).first()
    return None if found is None else InboxRow(*found)


def _hold(alias: str, head: InboxRow, now: datetime, until: datetime) -> None:
    """Let everything that is due behind a waiting message wait with it."""
    rows = InboxMessage.objects.using(alias).of_instance(head.process, head.key)
    rows.open().filter(due_at__lte=now).update(due_at=until)


def _compare_and_set(alias: str, row: InboxRow, **values: object) -> bool:
    """Change a row that nobody else has changed since it was read."""
    return bool(
        InboxMessage.objects.using(alias)
        .open()
        .filter(pk=row.id, attempts=row.attempts)
        .update(**values)
    )


# -- after the run ----------------------------------------------------------------------------------


def note(row: InboxRow, handler: str, error: Exception, *, counted: bool) -> None:
    """A run raised: set the message back until its next attempt, or let it die."""
    settings = get_settings()
    listener = registry.listeners.get(row.process)
    if listener is None:
        return
    attempts = row.attempts if counted else row.attempts + 1
    retry = retry_of(listener, row)
    wait = retry.wait_after(attempts, error)
    if wait is None:
        _die(row, handler, error, attempts)
        return
    alias = settings.database
    due = clock.now() + wait
    hide = _hider(row, _state(alias, row))
    reason = reason_of(error, hide)
    values = {"attempts": attempts, "due_at": due, "status": "pending", "reason": reason}
    with transaction.atomic(using=alias):
        noted = _compare_and_set(alias, row, **values)
        if noted:
            note_failed_attempt(
                alias, row, error, attempts, message_pk=row.id, handler=handler, hide=hide
            )
    if noted:
        signals.message_retried.send_robust(
            sender=InboxMessage,
            process=row.process,
            key=row.key,
            name=row.name,
            message_id=row.message_id,
            error=error,
            error_text=reason,
            attempts=attempts,
            retry_at=due,
        )


def _hider(row: InboxRow, state: str) -> Hide:
    return redaction.hider(row.name, row.process, row.payload, kind=row.kind, state=state)


def _state(alias: str, row: InboxRow) -> str:
    """The state that an error may quote, if any of it is not to be shown."""
    if not row.key or not redaction.concerns(row.process):
        return ""
    owners = Instance.objects.using(alias).filter(process=row.process, key=row.key)
    return owners.values_list("state", flat=True).first() or ""


def note_unrecordable(
    keys: Collection[InstanceKey], ids: Collection[int], error: Exception
) -> None:
    """What a case decided cannot be written: that is the failure of its first message."""
    row = _head(get_settings().database, keys, ids, clock.now())
    if row is None:
        raise error
    note(row, "", error, counted=False)


def _die(row: InboxRow, handler: str, error: Exception, attempts: int) -> None:
    """The attempts are spent: a dead letter; the instance fails, and its failure handler is called.

    All of it is one transaction. If we die before its commit, the message is run, or killed, again.
    """
    alias = get_settings().database
    with transaction.atomic(using=alias, durable=True):
        listener = registry.listeners.get(row.process)
        instance = None
        if isinstance(listener, ProcessDefinition):
            instance = _lock_instance(alias, row, listener)
        now = clock.now()
        state = instance.state if instance else ""
        hide = _hider(row, state)
        reason = reason_of(error, hide)
        if instance is not None and instance.ended_at is not None:
            # An operator has cancelled it meanwhile.
            skipped = f"the instance is {instance.status}"
            _compare_and_set(alias, row, status="skipped", reason=skipped, handled_at=now)
            return
        if not _compare_and_set(
            alias, row, status="dead", attempts=attempts, reason=reason, handled_at=None
        ):
            transaction.set_rollback(True, using=alias)
            return
        note_failed_attempt(
            alias, row, error, attempts, message_pk=row.id, handler=handler, hide=hide
        )
        if row.kind == "failure":
            _note_on_letter(alias, row, error, state)
            return
        letter = open_letter(
            alias,
            row,
            error,
            place=Place.POLICY if isinstance(listener, PolicyDefinition) else Place.HANDLER,
            attempts=attempts,
            message_pk=row.id,
            instance_id=instance.pk if instance else None,
            handler=handler,
            state=state,
        )
        if instance is not None and isinstance(listener, ProcessDefinition):
            record_status(
                alias, instance, status="failed", kind="failed", name=row.name, now=now, cause=row
            )
            if listener.failure_handler:
                notice = notices.failed(
                    row,
                    letter=letter.pk,
                    exception=letter.exception,
                    error=letter.error,
                    attempts=attempts,
                    now=now,
                    at_once=clock.at_once(),
                )
                inbox.put([notice])


def _lock_instance(alias: str, row: InboxRow, listener: ProcessDefinition) -> Instance:
    """The instance, locked; created where its very first message fails."""
    now = clock.now()
    Instance.objects.using(alias).bulk_create(
        [
            Instance(
                process=row.process,
                key=row.key,
                partition=partition_of(row.process, row.key),
                status="failed",
                state=listener.dump(listener.initial())[0],
                state_version=listener.state_version,
                number=0,
                correlation_id=row.correlation_id,
                started_at=now,
                changed_at=now,
                timeout_at=now + listener.timeout if listener.timeout else None,
            )
        ],
        ignore_conflicts=True,
    )
    return Instance.objects.using(alias).select_for_update().get(process=row.process, key=row.key)


def record_status(
    alias: str,
    instance: Instance,
    *,
    status: str,
    kind: str,
    name: str,
    now: datetime,
    cause: InboxRow | None = None,
    ended: bool = False,
) -> None:
    """Change the status of a locked instance; every change of status is a transition of its own."""
    tallies = Tallies()
    if instance.number == 0:
        tallies.add(instance.process, BEGAN)
    tallies.move(instance.process, instance.status if instance.number else "", status)
    instance.number += 1
    instance.status = status
    instance.changed_at = now
    if ended:
        instance.ended_at, instance.timeout_at = now, None
    instance.save(
        using=alias, update_fields=["number", "status", "changed_at", "ended_at", "timeout_at"]
    )
    statements(alias).record(
        alias,
        now,
        transitions=[status_row(instance, kind, name, cause)],
        counts=tallies.as_json(),
    )


def _note_on_letter(alias: str, row: InboxRow, error: Exception, state: str) -> None:
    """The failure handler failed too: that is written on the letter, and goes no further."""
    letter = DeadLetter.objects.using(alias).filter(pk=json.loads(row.payload)["letter"]).first()
    if letter is None:
        return
    found = described(error, _hider(row, state))
    letter.failure_handler_error = found["traceback"] or f"{found['exception']}: {found['error']}"
    letter.save(using=alias, update_fields=["failure_handler_error"])
    announce_death(alias, letter, error, summary(found["exception"], found["error"]))
