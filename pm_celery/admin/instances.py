"""Process instances and their transitions: what happened, in order, and what is still to come."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _

from pm_celery.admin.actions import Verb, carry_out
from pm_celery.admin.instance_page import context_of
from pm_celery.admin.read_only import (
    InstanceProcessFilter,
    ProcessFilter,
    ReadOnlyAdmin,
    process_of,
)
from pm_celery.models import InboxMessage, Instance, Transition
from pm_celery.operations import instances
from pm_celery.redaction import state_shown

__all__ = ["InstanceAdmin", "TransitionAdmin"]


CANCEL = Verb(
    name="cancel",
    act=lambda pk, user: instances.cancel(pk, by=user),
    done=_("%(count)s cancelled."),
    not_done=_("%(count)s not cancelled: %(reasons)s."),
    logged=_("Cancelled."),
    question=_("Cancel these process instances?"),
    warning=_("They end now, their handlers are not asked, and nothing can resume them."),
)
FIRE_TIMEOUT = Verb(
    name="fire_timeout",
    act=lambda pk, user: instances.fire_timeout(pk, by=user),
    done=_("%(count)s told to time out."),
    not_done=_("%(count)s not told to time out: %(reasons)s."),
    logged=_("Timeout fired."),
)


@admin.register(Instance)
class InstanceAdmin(ReadOnlyAdmin):
    change_form_template = "admin/pm_celery/instance/detail.html"
    list_display = (
        "id",
        "key",
        "process",
        "status",
        "number",
        "started_at",
        "changed_at",
        "timeout_at",
        "ended_at",
    )
    list_filter = ("status", ("ended_at", admin.EmptyFieldListFilter), ProcessFilter)
    search_fields = ("key__exact", "correlation_id__exact")
    search_help_text = _("A whole key; if no row has it, a whole correlation id.")
    actions = ("cancel", "fire_timeout")

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.cancel_instance")

    def has_fire_timeout_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.fire_timeout_instance")

    @admin.action(permissions=["cancel"], description=_("Cancel"))
    def cancel(self, request: HttpRequest, queryset: QuerySet[Instance]) -> HttpResponse | None:
        return carry_out(CANCEL, self, request, queryset)

    @admin.action(permissions=["fire_timeout"], description=_("Time out now"))
    def fire_timeout(
        self, request: HttpRequest, queryset: QuerySet[Instance]
    ) -> HttpResponse | None:
        return carry_out(FIRE_TIMEOUT, self, request, queryset)

    # -- the page of one instance ---------------------------------------------------------------

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        context |= context_of(self, request, context["original"])
        return super().render_change_form(request, context, *args, **kwargs)


@admin.register(Transition)
class TransitionAdmin(ReadOnlyAdmin):
    list_display = (
        "id",
        "process_instance",
        "number",
        "kind",
        "name",
        "handler",
        "status",
        "recorded_at",
    )
    list_select_related = ("instance",)
    list_filter = ("status", "kind", InstanceProcessFilter)
    search_fields = ("instance__key__exact", "message_id__exact", "correlation_id__exact")
    search_help_text = _(
        "The whole key of an instance; if none has it, a whole message id; if no row has that, a "
        "whole correlation id."
    )
    also_shown = ("message",)

    @admin.display(description=_("process instance"))
    def process_instance(self, row: Any) -> object:
        return self.related(row, "instance")

    def text_of(self, row: Any, column: str) -> str:
        text: str = getattr(row, column)
        return state_shown(process_of(row), text) if column == "state" else text

    @admin.display(description=_("inbox message"))
    def message(self, row: Transition) -> object:
        if row.inbox_id is None:
            return self.get_empty_value_display()
        return self.link(self.url("change", row.inbox_id, model=InboxMessage), row.inbox_id)

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        # Of one instance, read along its own index: by id the planner may walk the whole table.
        return ("-number",) if "instance__id__exact" in request.GET else ("-id",)
