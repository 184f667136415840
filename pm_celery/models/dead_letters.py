"""Messages and commands whose attempts are spent, until an operator decides."""

from __future__ import annotations

from hashlib import md5
from typing import Self

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from pm_celery.models.fields import IdentifierField, OpenIndex, name_field, where
from pm_celery.models.inbox import InboxMessage
from pm_celery.models.instances import Instance
from pm_celery.models.outbox import OutboxCommand

__all__ = ["DeadLetter", "FailedAttempt", "LetterGroup", "LetterStatus", "Place"]


class Place(models.TextChoices):
    """Where on the road it failed."""

    PUBLISH = "publish", _("publishing")
    CORRELATE = "correlate", _("correlating")
    UNMATCHED = "unmatched", _("matching")
    HANDLER = "handler", _("handler")
    POLICY = "policy", _("policy")
    COMMAND = "command", _("command handler")
    SIGNATURE = "signature", _("Celery task")


class LetterStatus(models.TextChoices):
    OPEN = "open", _("open")
    RETRIED = "retried", _("retried")
    DISCARDED = "discarded", _("discarded")


class LetterGroup(models.Model):
    """What letters have in common that died of the same: process, place, message and exception.

    A row is inserted with the first letter and never changed: letters that die at the same time do not
    wait for each other. How many there are is in the tallies.
    """

    id = models.CharField(primary_key=True, max_length=32)
    process = name_field(_("process"), blank=True)
    place = models.CharField(_("place"), max_length=9, choices=Place)
    name = name_field(_("message"))
    exception = models.CharField(_("exception"), max_length=255)
    first_at = models.DateTimeField(_("first seen"))

    class Meta:
        verbose_name = _("group of dead letters")
        verbose_name_plural = _("groups of dead letters")
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.exception}"

    @classmethod
    def of(cls, letter: DeadLetter) -> LetterGroup:
        """The group of a letter, not saved."""
        # MD5 for its length: whoever can make two groups look like one has written both letters.
        named = "\0".join((letter.process, letter.place, letter.name, letter.exception))
        id_ = md5(named.encode(), usedforsecurity=False).hexdigest()
        return cls(
            id=id_,
            process=letter.process,
            place=letter.place,
            name=letter.name,
            exception=letter.exception,
            first_at=letter.died_at,
        )


class DeadLetterQuerySet(models.QuerySet["DeadLetter"]):
    def open(self) -> Self:
        return where(self, "status = 'open'")


class DeadLetter(models.Model):
    """One failure for good. A message that fails again after a retry gets a new letter."""

    message = models.ForeignKey(
        InboxMessage,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        blank=True,
        related_name="dead_letters",
        verbose_name=_("inbox message"),
    )
    command = models.ForeignKey(
        OutboxCommand,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        blank=True,
        related_name="dead_letters",
        verbose_name=_("command"),
    )
    instance = models.ForeignKey(
        Instance,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        blank=True,
        related_name="dead_letters",
        verbose_name=_("process instance"),
    )
    group = models.ForeignKey(
        LetterGroup,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="letters",
        verbose_name=_("group"),
    )
    place = models.CharField(_("place"), max_length=9, choices=Place)
    process = name_field(_("process"), blank=True)
    key = IdentifierField(_("key"), blank=True)
    name = name_field(_("message"))
    message_ref = IdentifierField(_("message id"))
    handler = name_field(_("handler"), blank=True)
    payload = models.TextField(_("payload"))
    exception = models.CharField(_("exception"), max_length=255)
    error = models.TextField(_("error"))
    traceback = models.TextField(_("traceback"), blank=True)
    attempts = models.PositiveIntegerField(_("attempts"))
    failure_handler_error = models.TextField(
        _("failure handler's error"), blank=True, help_text=_("where that failed as well")
    )
    status = models.CharField(
        _("status"), max_length=9, choices=LetterStatus, default=LetterStatus.OPEN
    )
    died_at = models.DateTimeField(_("died at"))
    settled_at = models.DateTimeField(_("settled at"), null=True, blank=True)
    settled_by = models.CharField(_("settled by"), max_length=255, blank=True)
    original_payload = models.TextField(
        _("original payload"), blank=True, help_text=_("where an operator has changed it")
    )
    note = models.TextField(_("note"), blank=True)
    bulk = models.ForeignKey(
        "pm_celery.BulkAction",
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        blank=True,
        related_name="letters",
        verbose_name=_("bulk action"),
    )

    objects = DeadLetterQuerySet.as_manager()

    class Meta:
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")
        default_permissions = ("view",)
        permissions = (
            ("retry_deadletter", _("Can retry a dead letter")),
            ("discard_deadletter", _("Can discard a dead letter")),
            ("edit_deadletter", _("Can change the payload of a dead letter")),
            ("annotate_deadletter", _("Can write a note on a dead letter")),
        )
        constraints = (
            models.CheckConstraint(
                condition=Q(status__in=LetterStatus.values), name="pm_letter_status_known"
            ),
            models.CheckConstraint(
                condition=Q(status="open", settled_at=None)
                | Q(status__in=["retried", "discarded"], settled_at__isnull=False),
                name="pm_letter_settled_has_moment",
            ),
        )
        indexes = (
            OpenIndex(fields=["-died_at"], name="pm_letter_open", condition=Q(status="open")),
            models.Index(fields=["group", "status", "-id"], name="pm_letter_group"),
        )

    def __str__(self) -> str:
        return f"{self.name}: {self.exception}"


class FailedAttempt(models.Model):
    """A run of a message or command that failed: what was tried, and when."""

    message = models.ForeignKey(
        InboxMessage,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        related_name="failed_attempts",
        verbose_name=_("inbox message"),
    )
    command = models.ForeignKey(
        OutboxCommand,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        related_name="failed_attempts",
        verbose_name=_("command"),
    )
    number = models.PositiveIntegerField(_("attempt"))
    failed_at = models.DateTimeField(_("failed at"))
    handler = name_field(_("handler"), blank=True)
    exception = models.CharField(_("exception"), max_length=255)
    error = models.TextField(_("error"))

    class Meta:
        verbose_name = _("failed attempt")
        verbose_name_plural = _("failed attempts")
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.number} {self.exception}"
