"""Verbs for inbox messages: wake."""

from __future__ import annotations

from django.db import transaction
from django.utils.translation import gettext_lazy as _

from pm_celery import clock
from pm_celery.conf import get_settings
from pm_celery.exceptions import Refused
from pm_celery.models import InboxMessage, Instance, Pause
from pm_celery.models.inbox import InboxStatus
from pm_celery.operations import instances
from pm_celery.operations.interventions import intervene
from pm_celery.rows import NEVER
from pm_celery.wakeups import wake_on_commit

__all__ = ["wake"]


def wake(inbox_id: int, *, by: str = "", reason: str = "") -> None:
    """Have a message that backs off, or is stuck, looked at now. Its attempts are not counted anew.

    inbox_id: the number of its row. Raises ``Refused``, and does nothing, for what is settled, parked, held
    by a pause, waits for a start event, or for its turn behind another message of its instance.
    """
    alias = get_settings().database
    with transaction.atomic(using=alias):
        message, instance = _locked(alias, inbox_id)
        _refuse_what_is_not_to_be_woken(alias, message)
        details = {"was_due_at": message.due_at.isoformat(), "message": message.pk}
        message.due_at = min(message.due_at, clock.at_once())
        message.save(using=alias, update_fields=["due_at"])
        wake_on_commit([message.partition])
        intervene(
            alias,
            "wake message",
            message,
            by=by,
            reason=reason,
            instance=instance,
            process=message.process,
            key=message.key,
            details=details,
        )


def _locked(alias: str, inbox_id: int) -> tuple[InboxMessage, Instance | None]:
    """A message and its instance, if it has one yet; the instance first, as the engine does."""
    rows = InboxMessage.objects.using(alias)
    seen = rows.filter(pk=inbox_id).only("process", "key").first()
    if seen is None:
        raise Refused(_("there is no such message"))
    instance = None
    if seen.process and seen.key:
        known = Instance.objects.using(alias).filter(process=seen.process, key=seen.key)
        pk = known.values_list("pk", flat=True).first()
        instance = instances.locked(pk) if pk is not None else None
    message = rows.select_for_update().filter(pk=inbox_id).first()
    if message is None:
        raise Refused(_("there is no such message"))
    return message, instance


def _refuse_what_is_not_to_be_woken(alias: str, message: InboxMessage) -> None:
    match message.status:
        case "pending":
            pass
        case "dead":
            raise Refused(_("it is a dead letter: retry or discard that"))
        case "parked":
            raise Refused(
                _("it is parked behind a failure: settle the dead letter of its instance")
            )
        case "waiting":
            raise Refused(_("it waits for a start event, and being woken would end its patience"))
        case settled:
            raise Refused(_("already %(status)s"), status=InboxStatus(settled).label)
    if message.due_at == NEVER:
        pauses = Pause.objects.using(alias).filter(process=message.process)
        if pauses.exists():
            raise Refused(_("its process is paused: resume that"))
    if message.process and message.key:
        before = InboxMessage.objects.using(alias).of_instance(message.process, message.key)
        blocking = before.filter(pk__lt=message.pk, status="pending", due_at__gt=clock.now())
        if (first := blocking.values_list("pk", flat=True).first()) is not None:
            raise Refused(
                _("message %(id)s of its instance comes before it: wake that one"), id=first
            )
