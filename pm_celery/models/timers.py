"""Named moments that instances asked for."""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from pm_celery.models.fields import name_field
from pm_celery.models.instances import Instance

__all__ = ["Timer"]


class TimerQuerySet(models.QuerySet["Timer"]):
    def due(self, now: datetime) -> TimerQuerySet:
        """Those whose moment has come and that are not in the inbox yet."""
        return self.filter(due_at__lte=now, fired_at=None).order_by("due_at")


class Timer(models.Model):
    """A moment that an instance waits for. When it is due, the tick puts it into the inbox (`fired_at`);
    when it was handled, or its instance ends, the row goes.

    Each setting has a token of its own: the inbox row of a timer that was set again, or cancelled, after
    it fired finds another one, or none, and is stale.
    """

    instance = models.ForeignKey(
        Instance,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="timers",
        verbose_name=_("process instance"),
    )
    name = name_field(_("name"))
    token = models.UUIDField(_("token"), default=uuid4, editable=False)
    due_at = models.DateTimeField(_("due at"))
    payload = models.TextField(_("payload"), help_text=_("JSON"), default="null")
    fired_at = models.DateTimeField(_("fired at"), null=True, blank=True)
    correlation_id = models.CharField(_("correlation id"), max_length=255)
    causation_id = models.CharField(_("causation id"), max_length=255, blank=True)

    objects = TimerQuerySet.as_manager()

    class Meta:
        verbose_name = _("timer")
        verbose_name_plural = _("timers")
        default_permissions = ("view",)
        permissions = (
            ("cancel_timer", _("Can cancel a timer")),
            ("fire_timer", _("Can let a timer fire now")),
            ("move_timer", _("Can move a timer")),
        )
        constraints = (
            models.UniqueConstraint(fields=["instance", "name"], name="pm_timer_name_once"),
        )
        indexes = (
            models.Index(
                fields=["due_at"], name="pm_timer_due", condition=Q(fired_at__isnull=True)
            ),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def message_id(self) -> str:
        """The id of the inbox row that this setting becomes when it is due."""
        return f"timer:{self.token}"
