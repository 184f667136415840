"""Timers that instances set: looked at, fired, moved, cancelled."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from pm_celery import clock
from pm_celery.admin.actions import ReasonForm, Verb, carry_out
from pm_celery.admin.read_only import InstanceProcessFilter, ReadOnlyAdmin, process_of
from pm_celery.admin.whereabouts import TimerFilter, lateness
from pm_celery.models import Timer
from pm_celery.operations import timers
from pm_celery.redaction import HIDDEN, payload_shown

__all__ = ["TimerAdmin"]


class MoveForm(ReasonForm):
    due_at = forms.DateTimeField(
        label=_("New moment"),
        widget=forms.DateTimeInput(
            attrs={"type": "datetime-local", "class": "vTextField"}, format="%Y-%m-%dT%H:%M"
        ),
    )
    field_order = ("due_at", "reason")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        zone = timezone.get_current_timezone_name()
        self.fields["due_at"].help_text = _("In the time zone %(zone)s.") % {"zone": zone}

    def clean_due_at(self) -> datetime:
        moment: datetime = self.cleaned_data["due_at"]
        if timezone.is_naive(moment):  # USE_TZ = False
            moment = timezone.make_aware(moment)
        if moment <= clock.now():
            raise forms.ValidationError(_("This moment has passed: to fire it is another action."))
        return moment


CANCEL = Verb(
    name="cancel",
    act=lambda pk, by, reason: timers.cancel(pk, by=by, reason=reason),
    done=_("%(count)s cancelled."),
    not_done=_("%(count)s not cancelled: %(reasons)s."),
    logged=_("Cancelled."),
    question=_("Cancel these timers?"),
    warning=_("Their instances go on as if they had never been set."),
)
FIRE = Verb(
    name="fire",
    act=lambda pk, by, reason: timers.fire(pk, by=by, reason=reason),
    done=_("%(count)s fired."),
    not_done=_("%(count)s not fired: %(reasons)s."),
    logged=_("Fired."),
    question=_("Let these timers fire now?"),
)
MOVE = Verb(
    name="move",
    act=lambda pk, by, reason, due_at: timers.move(pk, due_at, by=by, reason=reason),
    done=_("%(count)s moved."),
    not_done=_("%(count)s not moved: %(reasons)s."),
    logged=_("Moved."),
    question=_("Move these timers to another moment?"),
    form=MoveForm,
)


@admin.register(Timer)
class TimerAdmin(ReadOnlyAdmin):
    list_display = ("id", "name", "process_instance", "due_at", "lateness", "fired_at")
    list_select_related = ("instance",)
    list_filter = (TimerFilter, InstanceProcessFilter)
    search_fields = ("instance__key__exact", "correlation_id__exact")
    search_help_text = _("The whole key of an instance; if none has it, a whole correlation id.")
    actions = ("fire", "move", "cancel")

    @admin.display(description=_("process instance"))
    def process_instance(self, row: Any) -> object:
        return self.related(row, "instance")

    @admin.display(description=_("waits"))
    def lateness(self, row: Timer) -> object:
        return lateness(row.due_at) if row.fired_at is None else _("is in the inbox")

    def text_of(self, row: Any, column: str) -> str:
        process = process_of(row)
        # What is sensitive in it, only its process says.
        return payload_shown(row.name, process, row.payload, kind="timer") if process else HIDDEN

    def describe(self, row: Any) -> str:
        return f"{row.instance}, {row}"

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.cancel_timer")

    def has_fire_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.fire_timer")

    def has_move_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.move_timer")

    @admin.action(permissions=["fire"], description=_("Fire now"))
    def fire(self, request: HttpRequest, queryset: QuerySet[Timer]) -> HttpResponse | None:
        return carry_out(FIRE, self, request, queryset)

    @admin.action(permissions=["move"], description=_("Move"))
    def move(self, request: HttpRequest, queryset: QuerySet[Timer]) -> HttpResponse | None:
        return carry_out(MOVE, self, request, queryset)

    @admin.action(permissions=["cancel"], description=_("Cancel"))
    def cancel(self, request: HttpRequest, queryset: QuerySet[Timer]) -> HttpResponse | None:
        return carry_out(CANCEL, self, request, queryset)
