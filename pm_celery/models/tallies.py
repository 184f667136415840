"""How many of what: written down where it happens, added up by the tick, read by pages and monitors."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from pm_celery.models.fields import IdentifierField, name_field

__all__ = ["Tally", "TallyEntry"]


class TallyEntry(models.Model):
    """What one transaction adds to the tallies: a row of its own, for a sum that all of them had to change
    would let them wait for each other. It commits with what it counts, so the sums are exact."""

    at = models.DateTimeField(_("at"))
    counts = models.TextField(
        _("counts"), help_text=_("JSON list of [process, what, detail, bucket, count, seconds]")
    )

    class Meta:
        verbose_name = _("tally entry")
        verbose_name_plural = _("tally entries")
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.at)


class Tally(models.Model):
    """A sum of entries: since ever (``period`` 0), or over a period that began at ``start``."""

    period = models.PositiveIntegerField(_("period"), help_text=_("seconds; 0: since ever"))
    start = models.DateTimeField(_("start"))
    what = models.CharField(_("what"), max_length=10)
    process = name_field(_("process"), blank=True)
    detail = IdentifierField(_("detail"), blank=True, help_text=_("handler, command or group"))
    bucket = models.SmallIntegerField(_("bucket"), help_text=_("of durations, by their length"))
    count = models.BigIntegerField(_("count"))
    seconds = models.FloatField(_("seconds"), help_text=_("that they took in all"))

    class Meta:
        verbose_name = _("tally")
        verbose_name_plural = _("tallies")
        default_permissions = ()
        constraints = (
            # In this order for the questions: what was counted, of a period, since a moment.
            models.UniqueConstraint(
                fields=["period", "start", "what", "process", "detail", "bucket"],
                name="pm_tally_once",
            ),
        )

    def __str__(self) -> str:
        return f"{self.what} {self.process} {self.detail}"
