"""Verbs for commands in the outbox: dispatch, cancel."""

from __future__ import annotations

from django.db import connections, transaction
from django.utils.translation import gettext_lazy as _

from pm_celery import clock, outbox
from pm_celery.conf import get_settings
from pm_celery.exceptions import Refused
from pm_celery.models import Instance, OutboxCommand
from pm_celery.models.outbox import UNSETTLED, CommandStatus
from pm_celery.operations import instances
from pm_celery.operations.interventions import intervene

__all__ = ["cancel", "dispatch"]


def dispatch(outbox_id: int, *, by: str = "", reason: str = "") -> None:
    """Hand a command to Celery now: one that is delayed, backs off, or whose message may be lost.

    outbox_id: the number of its row. Raises ``Refused`` for what is settled, expired or running, and for a
    Celery signature whose lease lasts: it could run twice at a time, and a command cannot. Also where Celery
    does not take it now; then its lease has begun all the same.
    """
    alias = get_settings().database
    taken: list[int] = []
    with transaction.atomic(using=alias):
        command = _locked(alias, outbox_id)
        now = clock.now()
        _refuse_settled(command)
        if command.expires_at is not None and command.expires_at <= now:
            raise Refused(_("its time is over: it expired before it ran"))
        if command.status == "dispatched" and command.kind == "signature" and command.due_at > now:
            raise Refused(_("its Celery task may still run: it counts as lost when its lease ends"))
        details = {"was_due_at": command.due_at.isoformat(), "status": command.status}
        command.status, command.dispatches = "dispatched", command.dispatches + 1
        command.due_at = now + outbox.lease_after(command.dispatches - 1)
        command.save(using=alias, update_fields=["status", "dispatches", "due_at"])
        _intervene(alias, "dispatch command", command, by, reason, details)
        # If we die before it is sent, the lease ends, and the tick dispatches it again.
        transaction.on_commit(
            lambda: taken.append(outbox.dispatch([command])), using=alias, robust=True
        )
    # Nothing is known yet inside of a caller's transaction.
    if taken == [0]:
        raise Refused(_("the broker did not take it: the tick tries again when its lease ends"))


def cancel(outbox_id: int, *, by: str = "", reason: str = "") -> None:
    """Let a command that was never dispatched not run; its process is not told. Raises ``Refused``."""
    alias = get_settings().database
    with transaction.atomic(using=alias):
        command = _locked(alias, outbox_id)
        _refuse_settled(command)
        if command.dispatches:
            raise Refused(_("it was dispatched already, and may have run"))
        command.status, command.settled_at = "cancelled", clock.now()
        command.reason = f"cancelled by {by or 'an operator'}"
        command.save(using=alias, update_fields=["status", "settled_at", "reason"])
        _intervene(alias, "cancel command", command, by, reason, {})


def _refuse_settled(command: OutboxCommand) -> None:
    if command.status == CommandStatus.DEAD:
        raise Refused(_("it is a dead letter: retry or discard that"))
    if command.status not in UNSETTLED:
        raise Refused(_("already %(status)s"), status=CommandStatus(command.status).label)


def _locked(alias: str, outbox_id: int) -> OutboxCommand:
    """A command under its lock; its instance's first, as the engine does. Raises ``Refused``."""
    rows = OutboxCommand.objects.using(alias)
    seen = rows.filter(pk=outbox_id).only("instance_id").first()
    if seen is None:
        raise Refused(_("there is no such command"))
    if seen.instance_id and _is_there(alias, seen.instance_id):
        instances.locked(seen.instance_id)
    command = rows.locked().filter(pk=outbox_id).first()
    if command is None and connections[alias].features.has_select_for_update_skip_locked:
        raise Refused(_("it is running, or being dispatched, at this moment"))
    if command is None:
        raise Refused(_("there is no such command"))
    return command


def _is_there(alias: str, instance_id: int) -> bool:
    return Instance.objects.using(alias).filter(pk=instance_id).exists()


def _intervene(
    alias: str, verb: str, command: OutboxCommand, by: str, reason: str, details: dict[str, str]
) -> None:
    known = command.instance_id and _is_there(alias, command.instance_id)
    intervene(
        alias,
        verb,
        command,
        by=by,
        reason=reason,
        instance=command.instance if known else None,
        process=command.process,
        key=command.key,
        details={**details, "command": str(command.command_id)},
    )
