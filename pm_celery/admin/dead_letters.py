"""Dead letters: looked into, retried, discarded."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import ObjectDoesNotExist
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from pm_celery.admin.actions import Verb, carry_out
from pm_celery.admin.bulk import ask_or_start
from pm_celery.admin.letter_forms import edit_view, note_view
from pm_celery.admin.letter_groups import GroupFilter, groups_view
from pm_celery.admin.read_only import ListenerFilter, ReadOnlyAdmin, pretty
from pm_celery.conf import get_settings
from pm_celery.exceptions import Refused
from pm_celery.models import BulkAction, DeadLetter, InboxMessage
from pm_celery.operations import dead_letters, editing, letter_groups
from pm_celery.redaction import payload_shown

__all__ = ["DeadLetterAdmin"]


RETRY = Verb(
    name="retry",
    act=lambda pk, by, reason: dead_letters.retry(pk, by=by, reason=reason),
    done=_("%(count)s retried."),
    not_done=_("%(count)s not retried: %(reasons)s."),
    logged=_("Retried."),
)
DISCARD_AND_RESUME = Verb(
    name="discard_and_resume",
    act=lambda pk, by, reason: dead_letters.discard(pk, resume=True, by=by, reason=reason),
    done=_("%(count)s discarded."),
    not_done=_("%(count)s not discarded: %(reasons)s."),
    logged=_("Discarded; the instance resumes."),
    question=_("Discard these dead letters and resume their instances?"),
    warning=_(
        "What they hold is given up for good. An instance that failed because of one goes on with "
        "the messages parked behind it."
    ),
)
DISCARD_FOR_GOOD = Verb(
    name="discard_for_good",
    act=lambda pk, by, reason: dead_letters.discard(pk, resume=False, by=by, reason=reason),
    done=_("%(count)s discarded."),
    not_done=_("%(count)s not discarded: %(reasons)s."),
    logged=_("Discarded; the instance stays failed for good."),
    question=_("Discard these dead letters and leave their instances failed for good?"),
    warning=_(
        "What they hold is given up for good. An instance that failed because of one ends as "
        "failed, and the messages parked behind it are never handled."
    ),
)


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnlyAdmin):
    change_list_template = "admin/pm_celery/deadletter/change_list.html"
    change_form_template = "admin/pm_celery/deadletter/detail.html"
    list_display = (
        "id",
        "name",
        "status",
        "failure",
        "process",
        "key_of_instance",
        "attempts",
        "died_at",
    )
    list_filter = ("status", "place", ListenerFilter, GroupFilter)
    search_fields = ("key__exact", "message_ref__exact")
    search_help_text = _("A whole key; if no row has it, a whole message id or command id.")
    actions = ("retry", "discard_and_resume", "discard_for_good")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        letters = super().get_queryset(request)
        shown: QuerySet[Any] = letters.annotate(beginning=Left("error", 60))
        return shown

    @admin.display(description=_("error"))
    def failure(self, row: Any) -> str:
        first_line = row.beginning.partition("\n")[0]
        return Truncator(f"{row.exception}: {first_line}").chars(60)

    def describe(self, row: Any) -> str:
        return ", ".join(filter(None, (row.process, row.key, self.failure(row))))

    def is_under_way(self, row: DeadLetter) -> bool:
        return row.status == "open"

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.retry_deadletter")

    def has_discard_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.discard_deadletter")

    @admin.action(permissions=["retry"], description=_("Retry"))
    def retry(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> HttpResponse | None:
        return self._act(RETRY, request, queryset)

    @admin.action(permissions=["discard"], description=_("Discard and resume the instance"))
    def discard_and_resume(
        self, request: HttpRequest, queryset: QuerySet[DeadLetter]
    ) -> HttpResponse | None:
        return self._act(DISCARD_AND_RESUME, request, queryset)

    @admin.action(
        permissions=["discard"], description=_("Discard and leave the instance failed for good")
    )
    def discard_for_good(
        self, request: HttpRequest, queryset: QuerySet[DeadLetter]
    ) -> HttpResponse | None:
        return self._act(DISCARD_FOR_GOOD, request, queryset)

    def _act(
        self, verb: Verb, request: HttpRequest, queryset: QuerySet[DeadLetter]
    ) -> HttpResponse | None:
        """All that match the filter are a worker's task; the selected ones are acted on at once."""
        if request.POST.get("select_across") == "1":
            return ask_or_start(self, request, verb)
        return carry_out(verb, self, request, queryset)

    # -- further pages ----------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        name = f"{self.opts.app_label}_{self.opts.model_name}"

        def groups(request: HttpRequest) -> HttpResponse:
            return groups_view(self, request)

        def note(request: HttpRequest, object_id: str) -> HttpResponse:
            return note_view(self, request, object_id)

        def edit(request: HttpRequest, object_id: str) -> HttpResponse:
            return edit_view(self, request, object_id)

        return [
            path("groups/", view(groups), name=f"{name}_groups"),
            path("<path:object_id>/note/", view(note), name=f"{name}_note"),
            path("<path:object_id>/edit/", view(edit), name=f"{name}_edit"),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {
            "groups_url": self.url("groups"),
            "bulk_url": self.url("changelist", model=BulkAction),
            **(extra_context or {}),
        }
        return super().changelist_view(request, context)

    # -- the page of one letter -------------------------------------------------------------------

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Those that have no section of their own below."""
        apart = ("original_payload", "note", "payload")
        return [field for field in self._fields if getattr(field, "__name__", field) not in apart]

    def text_of(self, row: Any, column: str) -> str:
        if column in ("payload", "original_payload"):
            text, kind = getattr(row, column), _kind_of(row)
            # Nor do its columns say of which version it is, and the message may have been changed since.
            shown = payload_shown(row.name, row.process, text, kind=kind)
            if kind or row.message_id is None:
                return shown
            # Its message is gone, and may have been a timer's.
            return payload_shown(row.name, row.process, shown, kind="timer")
        return super().text_of(row, column)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        letter: DeadLetter = context["original"]
        may = request.user.has_perm
        is_open = letter.status == "open"
        editable = is_open and letter.place != "publish" and get_settings().edit_payloads
        parked = letter_groups.behind(letter)
        history = letter_groups.history(letter)
        context |= {
            "payload": pretty(self.text_of(letter, "payload")),
            "original_payload": pretty(self.text_of(letter, "original_payload")),
            "changed": pretty(_changed(letter)),
            "behind": parked,
            "parked": [
                (self.link(self.url("change", row.pk, model=InboxMessage), str(row)), row)
                for row in parked.first
            ],
            "history": history,
            "others": [
                (self.link(self.url("change", row.pk), row.pk), row) for row in history.others
            ],
            "group_url": self.url("changelist", group=letter.group_id, status__exact="open"),
            "note_url": self.url("note", letter.pk) if may("pm_celery.annotate_deadletter") else "",
            "edit_url": self.url("edit", letter.pk)
            if editable and may("pm_celery.edit_deadletter")
            else "",
        }
        return super().render_change_form(request, context, *args, **kwargs)


def _kind_of(letter: DeadLetter) -> str:
    """What kind of message a letter is about, which its own columns do not say."""
    try:
        return letter.message.kind if letter.message else ""
    except ObjectDoesNotExist:
        return ""


def _changed(letter: DeadLetter) -> str:
    """The payload as an operator has changed it; "" if nobody has."""
    if not letter.original_payload:
        return ""
    try:
        return editing.editable(letter.pk).shown
    except Refused:
        return ""
