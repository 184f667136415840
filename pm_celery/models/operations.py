"""What operators do, and have done."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from pm_celery.models.fields import IdentifierField, name_field
from pm_celery.models.instances import Instance

__all__ = ["BulkAction", "Intervention", "Pause"]


# What is stored, in the words that are shown.
_VERBS = {
    "annotate dead letter": _("annotate dead letter"),
    "bulk discard_and_resume": _("discard many dead letters and resume their instances"),
    "bulk discard_for_good": _("discard many dead letters for good"),
    "bulk retry": _("retry many dead letters"),
    "cancel": _("cancel"),
    "cancel command": _("cancel command"),
    "cancel timer": _("cancel timer"),
    "complete": _("complete"),
    "create index": _("create index"),
    "discard dead letter": _("discard dead letter"),
    "dispatch command": _("dispatch command"),
    "drop index": _("drop index"),
    "edit dead letter": _("edit dead letter"),
    "fire timeout": _("fire timeout"),
    "fire timer": _("fire timer"),
    "move timer": _("move timer"),
    "pause": _("pause"),
    "prune": _("prune"),
    "publish event": _("publish event"),
    "resume": _("resume"),
    "retry dead letter": _("retry dead letter"),
    "stop bulk": _("stop bulk action"),
    "wake message": _("wake message"),
}


class Intervention(models.Model):
    """What an operator did, to what, and why. Written in the transaction that does it; append-only."""

    verb = models.CharField(_("verb"), max_length=50)
    instance = models.ForeignKey(
        Instance,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        blank=True,
        related_name="interventions",
        verbose_name=_("process instance"),
    )
    letter = models.ForeignKey(
        "pm_celery.DeadLetter",
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        blank=True,
        related_name="interventions",
        verbose_name=_("dead letter"),
    )
    process = name_field(_("process"), blank=True)
    key = IdentifierField(_("key"), blank=True)
    subject = models.CharField(_("subject"), max_length=500, help_text=_("what it was done to"))
    details = models.TextField(_("details"), help_text=_("JSON"), default="{}")
    by = models.CharField(_("by"), max_length=255)
    reason = models.TextField(_("reason"), blank=True)
    at = models.DateTimeField(_("at"))

    class Meta:
        verbose_name = _("intervention")
        verbose_name_plural = _("interventions")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.verb} {self.subject}"

    def get_verb_display(self) -> str:
        """The verb in the reader's language."""
        return str(_VERBS.get(self.verb, self.verb))


class Pause(models.Model):
    """A process (or a policy) of which nothing is handled until somebody resumes it.

    While it is being resumed, ``resumed_at`` is set: what was held back is released in portions, and then
    the row goes.
    """

    process = name_field(_("process"), primary_key=True)
    paused_at = models.DateTimeField(_("paused at"))
    paused_by = models.CharField(_("paused by"), max_length=255, blank=True)
    reason = models.TextField(_("reason"), blank=True)
    resumed_at = models.DateTimeField(_("resumed at"), null=True, blank=True)

    class Meta:
        verbose_name = _("paused process")
        verbose_name_plural = _("paused processes")
        default_permissions = ("view",)
        permissions = (("pause_process", _("Can pause and resume a process")),)

    def __str__(self) -> str:
        return self.process


class BulkAction(models.Model):
    """A verb for all dead letters that a filter finds, done in portions by a worker.

    ``cursor`` is the id of the last letter that it looked at; whoever goes on begins behind it. Counts and
    cursor commit with the portion that they count.
    """

    verb = models.CharField(_("verb"), max_length=50)
    conditions = models.TextField(_("conditions"), help_text=_("JSON: field lookups"))
    total = models.PositiveIntegerField(_("in all"))
    done = models.PositiveIntegerField(_("done"), default=0)
    refused = models.TextField(_("refused"), help_text=_("JSON: reason to number"), default="{}")
    cursor = models.BigIntegerField(_("cursor"), default=0)
    last = models.BigIntegerField(_("last"), help_text=_("letters that die later are left alone"))
    by = models.CharField(_("by"), max_length=255)
    reason = models.TextField(_("reason"), blank=True)
    asked_at = models.DateTimeField(_("asked at"))
    worked_at = models.DateTimeField(_("worked at"), null=True, blank=True)
    ended_at = models.DateTimeField(_("ended at"), null=True, blank=True)
    stopped_by = models.CharField(_("stopped by"), max_length=255, blank=True)

    class Meta:
        verbose_name = _("bulk action")
        verbose_name_plural = _("bulk actions")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.verb} {self.pk}"
