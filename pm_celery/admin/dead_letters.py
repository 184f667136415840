"""Dead letters: looked into, retried, discarded."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest, HttpResponse
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from pm_celery.admin.actions import Verb, carry_out
from pm_celery.admin.read_only import ListenerFilter, ReadOnlyAdmin
from pm_celery.models import DeadLetter
from pm_celery.operations import dead_letters

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
    list_filter = ("status", "place", ListenerFilter)
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

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.retry_deadletter")

    def has_discard_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.discard_deadletter")

    @admin.action(permissions=["retry"], description=_("Retry"))
    def retry(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> HttpResponse | None:
        return carry_out(RETRY, self, request, queryset)

    @admin.action(permissions=["discard"], description=_("Discard and resume the instance"))
    def discard_and_resume(
        self, request: HttpRequest, queryset: QuerySet[DeadLetter]
    ) -> HttpResponse | None:
        return carry_out(DISCARD_AND_RESUME, self, request, queryset)

    @admin.action(
        permissions=["discard"], description=_("Discard and leave the instance failed for good")
    )
    def discard_for_good(
        self, request: HttpRequest, queryset: QuerySet[DeadLetter]
    ) -> HttpResponse | None:
        return carry_out(DISCARD_FOR_GOOD, self, request, queryset)
