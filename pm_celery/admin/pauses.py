"""Whole processes: which are paused, and the verbs that pause and resume them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from pm_celery import registry
from pm_celery.admin.actions import Verb, act_on, carry_out
from pm_celery.admin.read_only import ReadOnlyAdmin
from pm_celery.conf import get_settings
from pm_celery.definitions import ProcessDefinition
from pm_celery.models import InboxMessage, Pause
from pm_celery.operations import pauses
from pm_celery.rows import NEVER

__all__ = ["PauseAdmin"]

# Of a paused process so many of the open messages are looked at.
MOST_COUNTED = 1000

PAUSE = Verb(
    name="pause",
    act=lambda process, by, reason: pauses.pause(process, by=by, reason=reason),
    done=_("%(count)s paused."),
    not_done=_("%(count)s not paused: %(reasons)s."),
    logged=_("Paused."),
    question=_("Pause these processes?"),
    warning=_(
        "Their events, timers, timeouts and retries wait, in order, until somebody resumes them. "
        "Batches that have begun are finished, and commands that were issued still run."
    ),
)
RESUME = Verb(
    name="resume",
    act=lambda process, by, reason: pauses.resume(process, by=by, reason=reason),
    done=_("%(count)s resumed."),
    not_done=_("%(count)s not resumed: %(reasons)s."),
    logged=_("Resumed."),
    question=_("Resume these processes?"),
    warning=_(
        "What was held back is handled now, in order. Of very much, the tick releases the rest."
    ),
)


@dataclass(frozen=True, slots=True)
class Line:
    """A process in the list."""

    process: str
    kind: str
    pause: Pause | None
    held: str
    url: str


@admin.register(Pause)
class PauseAdmin(ReadOnlyAdmin):
    ordering = ("process",)
    list_display = ("process", "paused_at", "paused_by", "reason", "resumed_at")
    actions = ("pause", "resume")

    def has_pause_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pm_celery.pause_process")

    @admin.action(permissions=["pause"], description=_("Pause"))
    def pause(self, request: HttpRequest, queryset: QuerySet[Pause]) -> HttpResponse | None:
        return carry_out(PAUSE, self, request, queryset)

    @admin.action(permissions=["pause"], description=_("Resume"))
    def resume(self, request: HttpRequest, queryset: QuerySet[Pause]) -> HttpResponse | None:
        return carry_out(RESUME, self, request, queryset)

    # -- all processes, also those that have no row ---------------------------------------------

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        paused = {row.process: row for row in self.get_queryset(request)}
        if request.method == "POST":
            answer = self._act(request, paused)
            return answer or HttpResponseRedirect(self.url("changelist"))
        request.current_app = self.admin_site.name
        kinds = {
            item.name: _("process") if isinstance(item, ProcessDefinition) else _("policy")
            for item in registry.listeners
        }
        context = {
            **self.admin_site.each_context(request),
            "title": gettext("Processes"),
            "subtitle": None,
            "opts": self.opts,
            "media": self.media,
            "lines": [
                self._line(name, str(kinds.get(name, _("not declared"))), paused.get(name))
                for name in sorted({*kinds, *paused})
            ],
            "verbs": self.get_action_choices(request, []),
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/pm_celery/pause/processes.html", context)

    def _line(self, name: str, kind: str, pause: Pause | None) -> Line:
        held = _held(name) if pause is not None else ""
        return Line(name, kind, pause, held, self.url("change", name) if pause else "")

    def _act(self, request: HttpRequest, paused: dict[str, Pause]) -> HttpResponse | None:
        verbs = {verb.name: verb for verb in (PAUSE, RESUME)}
        name = request.POST.get("action", "")
        ticked = dict.fromkeys(request.POST.getlist(ACTION_CHECKBOX_NAME))
        if name not in self.get_actions(request) or name not in verbs or not ticked:
            text = gettext("Nothing was done: choose processes, and what to do.")
            self.message_user(request, text, messages.WARNING)
            return None
        declared = {item.name for item in registry.listeners}
        known = [process for process in ticked if process in declared or process in paused]
        rows = [paused.get(process) or Pause(process=process) for process in known]
        return act_on(verbs[name], self, request, rows, len(ticked) - len(known))


def _held(process: str) -> str:
    """How many messages are held back: among the first open ones, in words where there may be more."""
    rows = InboxMessage.objects.using(get_settings().database).of_instances()
    moments = list(
        rows.filter(process=process).values_list("due_at", flat=True)[: MOST_COUNTED + 1]
    )
    count = moments.count(NEVER)
    if len(moments) > MOST_COUNTED:
        return gettext("%(count)s or more") % {"count": count}
    return str(count)
