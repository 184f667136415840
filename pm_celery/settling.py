"""Settling commands: what became of them, for good, and who hears of it."""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction
from django.db.models import F

from pm_celery import clock, inbox, letters, notices, redaction, registry
from pm_celery.conf import get_settings
from pm_celery.models import DeadLetter, OutboxCommand, Transition
from pm_celery.models.dead_letters import Place
from pm_celery.wording import described, summary

__all__ = ["die", "extend_signature", "settle_signature"]


def die(command: OutboxCommand, error: BaseException) -> DeadLetter:
    """A locked command is given up: dead letter, and a notice to the instance that issued it."""
    alias = get_settings().database
    found = described(error, redaction.hider(command.name, command.process, command.payload))
    now = clock.now()
    command.status = "dead"
    command.reason = summary(found["exception"], found["error"])
    command.save(using=alias, update_fields=["status", "reason", "attempts"])
    handler = registry.command_handlers.get(command.name)
    letter = DeadLetter(
        command=command,
        instance_id=command.instance_id,
        place=Place.SIGNATURE if command.kind == "signature" else Place.COMMAND,
        process=command.process,
        key=command.key,
        name=command.name,
        message_ref=str(command.command_id),
        handler=handler.function.__name__ if handler and command.kind == "command" else "",
        payload=redaction.payload_shown(
            command.name, command.process, command.payload, version=command.version
        ),
        attempts=command.attempts,
        **found,
    )
    letters.write(alias, letter, error, command.trace)
    if command.instance_id is not None:
        notice = notices.command_failed(
            command,
            letter=letter.pk,
            exception=letter.exception,
            error=letter.error,
            attempts=command.attempts,
            issued_in=_issuing_handler(command),
            now=now,
            at_once=clock.at_once(),
        )
        inbox.put([notice])
    return letter


def _issuing_handler(command: OutboxCommand) -> str | None:
    """The method that issued a command."""
    steps = Transition.objects.using(get_settings().database)
    found = steps.filter(instance_id=command.instance_id or 0, message_id=command.causation_id)
    return found.values_list("handler", flat=True).order_by("-number").first()


def extend_signature(command_id: str, seconds: float) -> None:
    """A Celery task of ours has begun: its lease lasts for as long as it may run."""
    OutboxCommand.objects.using(get_settings().database).filter(
        command_id=command_id, kind="signature", status="dispatched"
    ).update(due_at=clock.now() + timedelta(seconds=seconds), attempts=F("attempts") + 1)


def settle_signature(command_id: str, error: BaseException | None) -> None:
    """Celery says what became of a task that an instance sent as a signature."""
    alias = get_settings().database
    with transaction.atomic(using=alias):
        command = (
            OutboxCommand.objects.using(alias)
            .select_for_update()
            .unsettled()
            .filter(command_id=command_id, kind="signature")
            .first()
        )
        if command is None:
            return
        if error is not None:
            die(command, error)
            return
        command.status, command.settled_at = "done", clock.now()
        command.save(using=alias, update_fields=["status", "settled_at"])
