"""Inbox and outbox: what became of every event and of every command, and what may be hurried."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext_lazy as _

from pm_celery.admin.actions import Verb, carry_out
from pm_celery.admin.publish_page import may_publish, publish_view
from pm_celery.admin.read_only import ListenerFilter, ReadOnlyAdmin
from pm_celery.admin.whereabouts import CommandFilter, MessageFilter, lateness
from pm_celery.models import InboxMessage, Instance, OutboxCommand
from pm_celery.models.outbox import UNSETTLED
from pm_celery.operations import commands, messages
from pm_celery.rows import NEVER

__all__ = ["InboxMessageAdmin", "OutboxCommandAdmin"]

WAKE = Verb(
    name="wake",
    act=lambda pk, by, reason: messages.wake(pk, by=by, reason=reason),
    done=_("%(count)s woken."),
    not_done=_("%(count)s not woken: %(reasons)s."),
    logged=_("Woken."),
    question=_("Wake these messages now?"),
)
DISPATCH = Verb(
    name="dispatch",
    act=lambda pk, by, reason: commands.dispatch(pk, by=by, reason=reason),
    done=_("%(count)s handed to Celery."),
    not_done=_("%(count)s not handed to Celery: %(reasons)s."),
    logged=_("Handed to Celery."),
    question=_("Dispatch these commands now?"),
)
CANCEL = Verb(
    name="cancel",
    act=lambda pk, by, reason: commands.cancel(pk, by=by, reason=reason),
    done=_("%(count)s cancelled."),
    not_done=_("%(count)s not cancelled: %(reasons)s."),
    logged=_("Cancelled."),
    question=_("Cancel these commands?"),
    warning=_("They never run, and the processes that issued them are not told."),
)


@admin.register(InboxMessage)
class InboxMessageAdmin(ReadOnlyAdmin):
    list_display = (
        "id",
        "name",
        "kind",
        "status",
        "process",
        "key",
        "attempts",
        "due",
        "lateness",
        "published_at",
        "handled_at",
    )
    list_filter = (MessageFilter, "kind", ListenerFilter)
    search_fields = ("message_id__exact", "key__exact", "correlation_id__exact")
    search_help_text = _(
        "A whole message id; if no row has it, a whole key; if none has that, a whole correlation "
        "id."
    )
    also_shown = ("process_instance",)
    actions = ("wake",)

    @admin.display(description=_("process instance"))
    def process_instance(self, row: InboxMessage) -> object:
        instances = Instance.objects.using(row._state.db).only("process", "key")
        found = instances.filter(process=row.process, key=row.key).first()
        if found is None:
            return self.get_empty_value_display()
        return self.link(self.url("change", found.pk, model=Instance), str(found))

    @admin.display(description=_("due at"))
    def due(self, row: InboxMessage) -> datetime | None:
        return None if row.due_at == NEVER else row.due_at

    @admin.display(description=_("waits"))
    def lateness(self, row: InboxMessage) -> str | None:
        return lateness(row.due_at) if row.status in ("pending", "waiting") else None

    def get_urls(self) -> list[Any]:
        def publish(request: HttpRequest) -> HttpResponse:
            return publish_view(self, request)

        name = f"{self.opts.app_label}_{self.opts.model_name}_publish"
        page: URLPattern = path("publish/", self.admin_site.admin_view(publish), name=name)
        return [page, *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"publish_url": self.url("publish") if may_publish(request) else ""}
        return super().changelist_view(request, {**context, **(extra_context or {})})

    def is_under_way(self, row: InboxMessage) -> bool:
        return row.status in ("pending", "waiting")

    def has_wake_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.wake_inboxmessage")

    @admin.action(permissions=["wake"], description=_("Wake now"))
    def wake(self, request: HttpRequest, queryset: QuerySet[InboxMessage]) -> HttpResponse | None:
        return carry_out(WAKE, self, request, queryset)


@admin.register(OutboxCommand)
class OutboxCommandAdmin(ReadOnlyAdmin):
    list_display = (
        "id",
        "name",
        "status",
        "process",
        "key_of_instance",
        "dispatches",
        "attempts",
        "due_at",
        "lateness",
        "issued_at",
        "settled_at",
    )
    list_filter = (CommandFilter, "kind", ListenerFilter)
    search_fields = ("command_id__exact", "key__exact", "correlation_id__exact")
    search_help_text = _(
        "A whole command id; if no row has it, a whole key; if none has that, a whole correlation "
        "id."
    )
    actions = ("dispatch", "cancel")

    @admin.display(description=_("waits"))
    def lateness(self, row: OutboxCommand) -> str | None:
        return lateness(row.due_at) if row.status in UNSETTLED else None

    def is_under_way(self, row: OutboxCommand) -> bool:
        return row.status in UNSETTLED

    def has_dispatch_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.dispatch_outboxcommand")

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.cancel_outboxcommand")

    @admin.action(permissions=["dispatch"], description=_("Dispatch now"))
    def dispatch(
        self, request: HttpRequest, queryset: QuerySet[OutboxCommand]
    ) -> HttpResponse | None:
        return carry_out(DISPATCH, self, request, queryset)

    @admin.action(permissions=["cancel"], description=_("Cancel"))
    def cancel(
        self, request: HttpRequest, queryset: QuerySet[OutboxCommand]
    ) -> HttpResponse | None:
        return carry_out(CANCEL, self, request, queryset)
