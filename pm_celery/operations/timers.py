"""Verbs for timers: fire, move, cancel."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.utils.translation import gettext_lazy as _

from pm_celery import clock, inbox
from pm_celery.conf import get_settings
from pm_celery.exceptions import Refused
from pm_celery.models import Instance, Timer
from pm_celery.operations.instances import locked
from pm_celery.operations.interventions import intervene
from pm_celery.rows import NEVER
from pm_celery.timers import timer_message

__all__ = ["cancel", "fire", "move"]


def cancel(timer_id: int, *, by: str = "", reason: str = "") -> None:
    """Let a timer not fire. Raises ``Refused`` if it is gone or its handler runs already."""
    alias = get_settings().database
    with transaction.atomic(using=alias):
        timer, instance = _locked(alias, timer_id)
        timer.delete(using=alias)
        intervene(alias, "cancel timer", timer, by=by, reason=reason, instance=instance)


def fire(timer_id: int, *, by: str = "", reason: str = "") -> None:
    """Let a timer fire now instead of later. Raises ``Refused`` if it is gone or has fired."""
    alias = get_settings().database
    with transaction.atomic(using=alias):
        timer, instance = _locked(alias, timer_id, fired=False)
        now = clock.now()
        details = {"was_due_at": timer.due_at.isoformat()}
        timer.due_at, timer.fired_at = min(timer.due_at, clock.at_once()), now
        timer.save(using=alias, update_fields=["due_at", "fired_at"])
        inbox.put([timer_message(timer, instance, now)])
        intervene(
            alias, "fire timer", timer, by=by, reason=reason, instance=instance, details=details
        )


def move(timer_id: int, due_at: datetime, *, by: str = "", reason: str = "") -> None:
    """Let a timer fire at another moment, with its time zone. Raises ``Refused`` if it is gone or has fired,
    and for a moment that databases cannot keep or give back."""
    if due_at.tzinfo is None:
        raise Refused(_("give a moment with its time zone"))
    if due_at >= NEVER:
        raise Refused(_("the moment is too far away"))
    alias = get_settings().database
    with transaction.atomic(using=alias):
        timer, instance = _locked(alias, timer_id, fired=False)
        details = {"was_due_at": timer.due_at.isoformat(), "due_at": due_at.isoformat()}
        timer.due_at = due_at
        timer.save(using=alias, update_fields=["due_at"])
        intervene(
            alias, "move timer", timer, by=by, reason=reason, instance=instance, details=details
        )


def _locked(alias: str, timer_id: int, *, fired: bool = True) -> tuple[Timer, Instance]:
    """A timer and its instance, locked: the instance first, as the engine does. Raises ``Refused``.

    The engine reads timers under their instance's lock: who holds it may be firing this one.
    """
    seen = Timer.objects.using(alias).filter(pk=timer_id).first()
    if seen is None:
        raise Refused(_("it was handled or cancelled already"))
    instance = locked(seen.instance_id)
    timer = Timer.objects.using(alias).select_for_update().filter(pk=timer_id).first()
    if timer is None:
        raise Refused(_("it was handled or cancelled already"))
    if timer.fired_at is not None and not fired:
        raise Refused(_("it has fired already"))
    return timer, instance
