"""Rows by which the engine notices what died: a message that got lost, a worker, Beat."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

__all__ = ["Batch", "Heartbeat", "Wakeup"]


class Wakeup(models.Model):
    """Until that moment nobody need send the lane another wake-up: one is on its way, or a worker is there
    and looks once more before it leaves. None: nobody is."""

    lane = models.PositiveSmallIntegerField(_("lane"), primary_key=True)
    outstanding_until = models.DateTimeField(_("outstanding until"), null=True)

    class Meta:
        verbose_name = _("wake-up")
        verbose_name_plural = _("wake-ups")
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.lane)


class Batch(models.Model):
    """A batch began: committed before it, deleted by its own commit. A row that is left over, and that
    nobody holds locked, tells that a worker died in it; its messages are then run one at a time."""

    message_ids = models.TextField(_("messages"))
    # Indexed although it holds few rows: until the next vacuum it is full of deleted ones.
    began_at = models.DateTimeField(_("began at"), db_index=True)

    class Meta:
        verbose_name = _("batch")
        verbose_name_plural = _("batches")
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.began_at)


class Heartbeat(models.Model):
    """When something that must go on for ever last did: the tick, say."""

    name = models.CharField(_("name"), primary_key=True, max_length=50)
    beat_at = models.DateTimeField(_("last beat"))

    class Meta:
        verbose_name = _("heartbeat")
        verbose_name_plural = _("heartbeats")
        default_permissions = ()

    def __str__(self) -> str:
        return self.name
