"""Process instances and their transitions: what happened, in order, and what is still to come."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
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
from pm_celery.exceptions import Refused
from pm_celery.models import InboxMessage, Instance, Transition
from pm_celery.operations import instances
from pm_celery.operations.search import search
from pm_celery.redaction import HIDDEN, state_shown

__all__ = ["InstanceAdmin", "TransitionAdmin"]


CANCEL = Verb(
    name="cancel",
    act=lambda pk, by, reason: instances.cancel(pk, by=by, reason=reason),
    done=_("%(count)s cancelled."),
    not_done=_("%(count)s not cancelled: %(reasons)s."),
    logged=_("Cancelled."),
    question=_("Cancel these process instances?"),
    warning=_("They end now, their handlers are not asked, and nothing can resume them."),
)
COMPLETE = Verb(
    name="complete",
    act=lambda pk, by, reason: instances.complete(pk, by=by, reason=reason),
    done=_("%(count)s completed."),
    not_done=_("%(count)s not completed: %(reasons)s."),
    logged=_("Completed."),
    question=_("Complete these process instances?"),
    warning=_(
        "They end now as completed, their handlers are not asked, and nothing can resume them."
    ),
)
RETRY = Verb(
    name="retry",
    act=lambda pk, by, reason: instances.retry(pk, by=by, reason=reason),
    done=_("%(count)s retried."),
    not_done=_("%(count)s not retried: %(reasons)s."),
    logged=_("Retried."),
    question=_("Retry what these process instances have failed at?"),
    warning=_("What is parked behind the failure follows, in order."),
)
FIRE_TIMEOUT = Verb(
    name="fire_timeout",
    act=lambda pk, by, reason: instances.fire_timeout(pk, by=by, reason=reason),
    done=_("%(count)s told to time out."),
    not_done=_("%(count)s not told to time out: %(reasons)s."),
    logged=_("Timeout fired."),
    question=_("Let these process instances time out now?"),
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
    search_help_text = _(
        "A whole key, an instance's number, or the whole id of an event, of a command or of a "
        "conversation; on PostgreSQL state.customer_id:42 too, where there is an index of the field."
    )
    actions = ("retry", "fire_timeout", "complete", "cancel")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if not search_term.strip():
            return queryset, False
        try:
            found = search(search_term)
        except Refused as refused:
            if request.path == self.url("changelist"):  # and not for autocompletion
                text = _("Nothing was searched: %(reason)s.") % {"reason": refused}
                self.message_user(request, text, messages.WARNING)
            return queryset.none(), False
        ids = {pk for meaning in found for pk in meaning.instance_ids}
        return queryset.filter(pk__in=ids), False

    def is_under_way(self, row: Instance) -> bool:
        return row.ended_at is None

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.cancel_instance")

    def has_complete_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.complete_instance")

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.retry_deadletter")

    def has_fire_timeout_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.fire_timeout_instance")

    @admin.action(permissions=["cancel"], description=_("Cancel"))
    def cancel(self, request: HttpRequest, queryset: QuerySet[Instance]) -> HttpResponse | None:
        return carry_out(CANCEL, self, request, queryset)

    @admin.action(permissions=["complete"], description=_("Complete"))
    def complete(self, request: HttpRequest, queryset: QuerySet[Instance]) -> HttpResponse | None:
        return carry_out(COMPLETE, self, request, queryset)

    @admin.action(permissions=["retry"], description=_("Retry what failed"))
    def retry(self, request: HttpRequest, queryset: QuerySet[Instance]) -> HttpResponse | None:
        return carry_out(RETRY, self, request, queryset)

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
        if column != "state":
            return text
        process = process_of(row)
        # What is sensitive in it, only its process says.
        return state_shown(process, text, row.state_version) if process else HIDDEN

    @admin.display(description=_("inbox message"))
    def message(self, row: Transition) -> object:
        if row.inbox_id is None:
            return self.get_empty_value_display()
        return self.link(self.url("change", row.inbox_id, model=InboxMessage), row.inbox_id)

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        # Of one instance, read along its own index: by id the planner may walk the whole table.
        return ("-number",) if "instance__id__exact" in request.GET else ("-id",)
