"""The engine's own rows, for superusers: nobody else can be given a permission to see them."""

from __future__ import annotations

from django.contrib import admin

from pm_celery.admin.read_only import ReadOnlyAdmin
from pm_celery.models import Batch, Heartbeat, Wakeup

__all__ = ["BatchAdmin", "HeartbeatAdmin", "WakeupAdmin"]


@admin.register(Batch)
class BatchAdmin(ReadOnlyAdmin):
    list_display = ("id", "began_at")


@admin.register(Heartbeat)
class HeartbeatAdmin(ReadOnlyAdmin):
    ordering = ("name",)
    list_display = ("name", "beat_at")


@admin.register(Wakeup)
class WakeupAdmin(ReadOnlyAdmin):
    ordering = ("lane",)
    list_display = ("lane", "outstanding_until")
