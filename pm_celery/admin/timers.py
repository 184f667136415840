"""Timers that instances set: looked at, cancelled."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _

from pm_celery.admin.actions import Verb, carry_out
from pm_celery.admin.read_only import InstanceProcessFilter, ReadOnlyAdmin, process_of
from pm_celery.models import Timer
from pm_celery.operations import timers
from pm_celery.redaction import payload_shown

__all__ = ["TimerAdmin"]


CANCEL = Verb(
    name="cancel",
    act=lambda pk, user: timers.cancel(pk, by=user),
    done=_("%(count)s cancelled."),
    not_done=_("%(count)s not cancelled: %(reasons)s."),
    logged=_("Cancelled."),
    question=_("Cancel these timers?"),
    warning=_("Their instances go on as if they had never been set."),
)


@admin.register(Timer)
class TimerAdmin(ReadOnlyAdmin):
    list_display = ("id", "name", "process_instance", "due_at", "fired_at")
    list_select_related = ("instance",)
    list_filter = (("fired_at", admin.EmptyFieldListFilter), InstanceProcessFilter)
    search_fields = ("instance__key__exact", "correlation_id__exact")
    search_help_text = _("The whole key of an instance; if none has it, a whole correlation id.")
    actions = ("cancel",)

    @admin.display(description=_("process instance"))
    def process_instance(self, row: Any) -> object:
        return self.related(row, "instance")

    def text_of(self, row: Any, column: str) -> str:
        process = process_of(row)
        return payload_shown(row.name, process, row.payload, kind="timer")

    def describe(self, row: Any) -> str:
        return f"{row.instance}, {row}"

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.cancel_timer")

    @admin.action(permissions=["cancel"], description=_("Cancel"))
    def cancel(self, request: HttpRequest, queryset: QuerySet[Timer]) -> HttpResponse | None:
        return carry_out(CANCEL, self, request, queryset)
