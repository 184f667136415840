"""What waits to be handled, and what became of it."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from pm_celery.models.fields import IdentifierField, OpenIndex, name_field, trace_field, where

__all__ = ["InboxMessage", "InboxStatus", "MessageKind"]


class MessageKind(models.TextChoices):
    EVENT = "event", _("event")
    TIMER = "timer", _("timer")
    TIMEOUT = "timeout", _("timeout")
    COMMAND_FAILED = "command_failed", _("command failed")
    FAILURE = "failure", _("failure")


class InboxStatus(models.TextChoices):
    PENDING = "pending", _("pending")
    WAITING = "waiting", _("waiting for a start event")
    PARKED = "parked", _("parked behind a failure")
    HANDLED = "handled", _("handled")
    SKIPPED = "skipped", _("skipped")
    UNMATCHED = "unmatched", _("unmatched")
    DEAD = "dead", _("dead letter")
    DISCARDED = "discarded", _("discarded")


# What the engine still looks at when its moment has come, and what an instance has to handle besides. The
# process is in the second alone: PostgreSQL would answer the claim's question, "what is due?", from an index
# that this condition is not part of, by reading it from end to end, once statistics of a quiet hour say that
# there is next to nothing in it.
_OPEN = "status IN ('pending', 'waiting')"
_OF_INSTANCE = "status IN ('pending', 'waiting', 'parked') AND process > ''"


# What the page of an instance shows besides.
_SKIPPED = "status = 'skipped' AND process > ''"


class InboxQuerySet(models.QuerySet["InboxMessage"]):
    def open(self) -> Self:
        return where(self, _OPEN)

    def of_instances(self) -> Self:
        """What instances have still to handle."""
        return where(self, _OF_INSTANCE)

    def skipped_of(self, process: str, key: str) -> InboxQuerySet:
        """What an instance has skipped, the newest first."""
        return where(self, _SKIPPED).filter(process=process, key=key).order_by("-id")

    def due(self, partition: int, now: datetime) -> InboxQuerySet:
        """What a partition has to look at, the longest overdue first."""
        return self.open().filter(partition=partition, due_at__lte=now).order_by("due_at", "id")

    def of_instance(self, process: str, key: str) -> InboxQuerySet:
        """What an instance has still to handle, in order."""
        return self.of_instances().filter(process=process, key=key).order_by("id")


class InboxMessage(models.Model):
    """One message for one process: an event, or a timer, timeout or notice that became due.

    Messages of one instance are handled in the order of their ids. ``due_at`` says when the engine looks
    at a row: at once for a fresh one, after the backoff for a failed one, at the end of its patience
    for a waiting one.
    """

    message_id = IdentifierField(_("message id"))
    kind = models.CharField(_("kind"), max_length=14, choices=MessageKind)
    name = name_field(_("name"), help_text=_("the event's wire name, or the timer's name"))
    version = models.PositiveSmallIntegerField(_("version"), default=1)
    payload = models.TextField(_("payload"), help_text=_("JSON"))
    process = name_field(_("process"), blank=True, help_text=_("empty: not routed yet"))
    key = IdentifierField(_("key"), blank=True)
    partition = models.PositiveSmallIntegerField(_("partition"))
    status = models.CharField(
        _("status"), max_length=9, choices=InboxStatus, default=InboxStatus.PENDING
    )
    reason = models.TextField(_("reason"), blank=True)
    due_at = models.DateTimeField(_("due at"))
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    correlation_id = IdentifierField(_("correlation id"))
    causation_id = IdentifierField(_("causation id"), blank=True)
    depth = models.PositiveIntegerField(_("chain depth"), default=0)
    trace = trace_field()
    occurred_at = models.DateTimeField(_("occurred at"))
    published_at = models.DateTimeField(_("published at"))
    handled_at = models.DateTimeField(_("settled at"), null=True, blank=True)

    objects = InboxQuerySet.as_manager()

    class Meta:
        verbose_name = _("inbox message")
        verbose_name_plural = _("inbox messages")
        default_permissions = ("view",)
        permissions = (
            ("publish_inboxmessage", _("Can publish an event by hand")),
            ("wake_inboxmessage", _("Can wake an inbox message")),
        )
        constraints = (
            # The referee between two copies of one event. The process comes second so that what
            # became of an event is found by its id alone.
            models.UniqueConstraint(fields=["message_id", "process"], name="pm_inbox_event_once"),
            models.CheckConstraint(
                condition=Q(status__in=InboxStatus.values), name="pm_inbox_status_known"
            ),
        )
        indexes = (
            OpenIndex(
                fields=["partition", "due_at", "id"],
                name="pm_inbox_due",
                condition=Q(status__in=["pending", "waiting"]),
            ),
            OpenIndex(
                fields=["process", "key", "id"],
                name="pm_inbox_of_instance",
                condition=Q(status__in=["pending", "waiting", "parked"]) & Q(process__gt=""),
            ),
            OpenIndex(
                fields=["process", "key", "-id"],
                name="pm_inbox_skipped",
                condition=Q(status="skipped") & Q(process__gt=""),
            ),
            models.Index(
                fields=["handled_at"],
                name="pm_inbox_settled_before",
                condition=Q(handled_at__isnull=False),
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} {self.message_id}"
