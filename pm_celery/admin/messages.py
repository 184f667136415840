"""Inbox and outbox: what became of every event and of every command."""

from __future__ import annotations

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from pm_celery.admin.read_only import ListenerFilter, ReadOnlyAdmin
from pm_celery.models import InboxMessage, Instance, OutboxCommand

__all__ = ["InboxMessageAdmin", "OutboxCommandAdmin"]


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
        "due_at",
        "published_at",
        "handled_at",
    )
    list_filter = ("status", "kind", ListenerFilter)
    search_fields = ("message_id__exact", "key__exact", "correlation_id__exact")
    search_help_text = _(
        "A whole message id; if no row has it, a whole key; if none has that, a whole correlation "
        "id."
    )
    also_shown = ("process_instance",)

    @admin.display(description=_("process instance"))
    def process_instance(self, row: InboxMessage) -> object:
        instances = Instance.objects.using(row._state.db).only("process", "key")
        found = instances.filter(process=row.process, key=row.key).first()
        if found is None:
            return self.get_empty_value_display()
        return self.link(self.url("change", found.pk, model=Instance), str(found))


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
        "issued_at",
        "settled_at",
    )
    list_filter = ("status", "kind", ListenerFilter)
    search_fields = ("command_id__exact", "key__exact", "correlation_id__exact")
    search_help_text = _(
        "A whole command id; if no row has it, a whole key; if none has that, a whole correlation "
        "id."
    )
