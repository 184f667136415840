"""Process instances and the transitions that made them what they are."""

from __future__ import annotations

from datetime import datetime

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from pm_celery.models.fields import IdentifierField, OpenIndex, name_field, version_field

__all__ = ["Instance", "InstanceStatus", "Transition"]


class InstanceStatus(models.TextChoices):
    STARTED = "started", _("started")
    COMPLETED = "completed", _("completed")
    TIMED_OUT = "timed_out", _("timed out")
    FAILED = "failed", _("failed")
    CANCELLED = "cancelled", _("cancelled")


class InstanceQuerySet(models.QuerySet["Instance"]):
    def running(self) -> InstanceQuerySet:
        return self.filter(ended_at=None)

    def timeout_passed(self, now: datetime) -> InstanceQuerySet:
        """Those whose timeout is due and not yet in the inbox, the longest overdue first."""
        return self.filter(timeout_at__lte=now).order_by("timeout_at")

    def ended_before(self, moment: datetime) -> InstanceQuerySet:
        return self.filter(ended_at__lt=moment).order_by("ended_at")


class Instance(models.Model):
    """One running or ended case of a process manager.

    A failed instance without ``ended_at`` waits for an operator and parks what arrives; one with
    ``ended_at`` has been given up for good.
    """

    process = name_field(_("process"))
    key = IdentifierField(_("key"))
    partition = models.PositiveSmallIntegerField(_("partition"))
    status = models.CharField(_("status"), max_length=10, choices=InstanceStatus)
    state = models.TextField(_("state"), help_text=_("JSON, as the last transition left it"))
    state_version = version_field(_("state version"))
    number = models.PositiveIntegerField(_("transitions"), help_text=_("number of the last one"))
    correlation_id = IdentifierField(_("correlation id"))
    started_at = models.DateTimeField(_("started at"))
    changed_at = models.DateTimeField(_("changed at"))
    ended_at = models.DateTimeField(_("ended at"), null=True, blank=True)
    timeout_at = models.DateTimeField(
        _("times out at"),
        null=True,
        blank=True,
        help_text=_("emptied when the timeout enters the inbox"),
    )

    objects = InstanceQuerySet.as_manager()

    class Meta:
        verbose_name = _("process instance")
        verbose_name_plural = _("process instances")
        default_permissions = ("view",)
        permissions = (
            ("cancel_instance", _("Can cancel a process instance")),
            ("complete_instance", _("Can complete a process instance")),
            ("fire_timeout_instance", _("Can let a process instance time out now")),
            ("view_health", _("Can ask for the health")),
        )
        constraints = (
            # The referee between two first events of one key.
            models.UniqueConstraint(fields=["process", "key"], name="pm_instance_key_once"),
            models.CheckConstraint(
                condition=Q(status__in=InstanceStatus.values), name="pm_instance_status_known"
            ),
            models.CheckConstraint(
                condition=Q(status="started", ended_at=None)
                | Q(status="failed")
                | Q(status__in=["completed", "timed_out", "cancelled"], ended_at__isnull=False),
                name="pm_instance_ended_has_moment",
            ),
        )
        indexes = (
            models.Index(
                fields=["timeout_at"],
                name="pm_instance_timeout_passed",
                condition=Q(timeout_at__isnull=False),
            ),
            models.Index(
                fields=["ended_at"],
                name="pm_instance_ended_before",
                condition=Q(ended_at__isnull=False),
            ),
            # Of the rare statuses the one that is looked for at night.
            OpenIndex(fields=["-id"], name="pm_instance_failed", condition=Q(status="failed")),
            models.Index(fields=["correlation_id"], name="pm_instance_correlation"),
        )

    def __str__(self) -> str:
        return f"{self.process} {self.key}"


class TransitionKind(models.TextChoices):
    EVENT = "event", _("event")
    TIMER = "timer", _("timer")
    TIMEOUT = "timeout", _("timeout")
    COMMAND_FAILED = "command_failed", _("command failed")
    FAILURE = "failure", _("failure handler")
    FAILED = "failed", _("failed")
    RESUMED = "resumed", _("resumed")
    GIVEN_UP = "given_up", _("given up")
    CANCELLED = "cancelled", _("cancelled")
    COMPLETED = "completed", _("completed")


class Transition(models.Model):
    """One recorded step. Append-only; numbered from 1 without gaps.

    The link to the instance is no foreign key in the database, because checking it doubles the cost of
    inserting. It holds all the same: a transition is written in the transaction that holds its
    instance's row lock, and both are only ever deleted together, transitions first.
    """

    instance = models.ForeignKey(
        Instance,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="transitions",
        verbose_name=_("process instance"),
    )
    number = models.PositiveIntegerField(_("number"))
    kind = models.CharField(_("kind"), max_length=14, choices=TransitionKind)
    name = name_field(_("message"), help_text=_("event, timer or command that it followed"))
    message_id = IdentifierField(_("message id"), blank=True)
    inbox_id = models.BigIntegerField(_("inbox row"), null=True, blank=True)
    handler = name_field(_("handler"), blank=True)
    state = models.TextField(_("state after"))
    state_version = version_field(_("state version"))
    status = models.CharField(_("status after"), max_length=10, choices=InstanceStatus)
    commands = models.TextField(
        _("commands issued"), help_text=_("JSON list of [command id, name]"), default="[]"
    )
    timers = models.TextField(
        _("timers"), help_text=_("JSON object: name to moment, null if cancelled"), default="{}"
    )
    correlation_id = IdentifierField(_("correlation id"))
    causation_id = IdentifierField(_("causation id"), blank=True)
    attempt = models.PositiveIntegerField(_("attempt"))
    duration = models.FloatField(
        _("duration"), null=True, blank=True, help_text=_("seconds that the handler took")
    )
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("transition")
        verbose_name_plural = _("transitions")
        default_permissions = ("view",)
        constraints = (
            models.UniqueConstraint(
                fields=["instance", "number"], name="pm_transition_number_once"
            ),
            models.CheckConstraint(condition=Q(number__gte=1), name="pm_transition_from_one"),
        )

    def __str__(self) -> str:
        return f"{self.number} {self.name}"
