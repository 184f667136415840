"""Commands that wait to be dispatched, or to have run."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from django.db import connections, models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from pm_celery.models.fields import IdentifierField, OpenIndex, name_field, trace_field, where

__all__ = ["UNSETTLED", "CommandKind", "CommandStatus", "OutboxCommand"]


class CommandKind(models.TextChoices):
    COMMAND = "command", _("command")
    SIGNATURE = "signature", _("Celery signature")


class CommandStatus(models.TextChoices):
    PENDING = "pending", _("pending")
    DISPATCHED = "dispatched", _("dispatched")
    DONE = "done", _("done")
    DEAD = "dead", _("dead letter")
    CANCELLED = "cancelled", _("cancelled")
    DISCARDED = "discarded", _("discarded")


# A command is done when it ran, not when it was handed to a broker: brokers forget.
UNSETTLED = (CommandStatus.PENDING, CommandStatus.DISPATCHED)


class OutboxQuerySet(models.QuerySet["OutboxCommand"]):
    def unsettled(self) -> Self:
        return where(self, "status IN ('pending', 'dispatched')")

    def locked(self) -> Self:
        """Locked rows only: those that somebody else holds are passed over."""
        features = connections[self.db].features
        return self.select_for_update(skip_locked=features.has_select_for_update_skip_locked)

    def due(self, now: datetime) -> OutboxQuerySet:
        """What is to be dispatched now: delayed, backed off, or stranded past its lease."""
        return self.unsettled().filter(due_at__lte=now).order_by("due_at", "id")


class OutboxCommand(models.Model):
    """One command, from the moment it was issued until it ran.

    ``due_at`` of a pending command is the moment to dispatch it; of a dispatched one the end of its
    lease, after which its message counts as lost and it is dispatched again.
    """

    command_id = models.UUIDField(
        _("command id"), unique=True, help_text=_("the Celery task's id, and an idempotency key")
    )
    kind = models.CharField(_("kind"), max_length=9, choices=CommandKind)
    name = name_field(_("name"))
    version = models.PositiveSmallIntegerField(_("version"), default=1)
    payload = models.TextField(_("payload"), help_text=_("JSON"))
    options = models.TextField(_("Celery options"), help_text=_("JSON"), default="{}")
    process = name_field(_("process"), blank=True)
    key = IdentifierField(_("key"), blank=True)
    # No foreign key in the database, as for transitions; policies' commands have no instance.
    instance = models.ForeignKey(
        "pm_celery.Instance",
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        blank=True,
        related_name="commands",
        verbose_name=_("process instance"),
    )
    status = models.CharField(_("status"), max_length=10, choices=CommandStatus)
    reason = models.TextField(_("reason"), blank=True)
    due_at = models.DateTimeField(_("due at"))
    expires_at = models.DateTimeField(_("expires at"), null=True, blank=True)
    dispatches = models.PositiveIntegerField(_("dispatches"), default=0)
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    correlation_id = IdentifierField(_("correlation id"))
    causation_id = IdentifierField(_("causation id"), blank=True)
    depth = models.PositiveIntegerField(_("chain depth"), default=0)
    trace = trace_field()
    duration = models.FloatField(
        _("duration"), null=True, blank=True, help_text=_("seconds that the handler took")
    )
    issued_at = models.DateTimeField(_("issued at"))
    settled_at = models.DateTimeField(_("settled at"), null=True, blank=True)

    objects = OutboxQuerySet.as_manager()

    class Meta:
        verbose_name = _("command")
        verbose_name_plural = _("commands")
        default_permissions = ("view",)
        permissions = (
            ("dispatch_outboxcommand", _("Can dispatch a command now")),
            ("cancel_outboxcommand", _("Can cancel a command")),
        )
        constraints = (
            models.CheckConstraint(
                condition=Q(status__in=CommandStatus.values), name="pm_outbox_status_known"
            ),
        )
        indexes = (
            OpenIndex(
                fields=["due_at", "id"],
                name="pm_outbox_due",
                condition=Q(status__in=["pending", "dispatched"]),
            ),
            models.Index(
                fields=["settled_at"],
                name="pm_outbox_settled_before",
                condition=Q(settled_at__isnull=False),
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} {self.command_id}"
