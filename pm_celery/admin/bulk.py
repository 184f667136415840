"""Bulk actions: asked for from the list of dead letters, watched, stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from pm_celery import registry
from pm_celery.admin.actions import ReasonForm, Verb, carry_out
from pm_celery.admin.read_only import ReadOnlyAdmin
from pm_celery.conf import get_settings
from pm_celery.exceptions import Refused
from pm_celery.models import BulkAction, DeadLetter, LetterGroup
from pm_celery.operations import bulk

if TYPE_CHECKING:
    from pm_celery.admin.dead_letters import DeadLetterAdmin

__all__ = ["BulkActionAdmin", "ask_or_start"]

_MOST_COUNTED = 10_000
# What of a list's address can be a condition; bulk actions are about open letters in any case.
_LOOKUPS = {f"{name}{suffix}": name for name in bulk.CONDITIONS[:-2] for suffix in ("", "__exact")}


def _conditions(its_admin: DeadLetterAdmin, request: HttpRequest) -> dict[str, str]:
    """What the list is filtered by, as conditions. Raises ``Refused`` for what cannot be one."""
    found: dict[str, str] = {}

    def add(name: str, value: str) -> None:
        if found.setdefault(name, value) != value:
            raise Refused(_("not all at once by two values of “%(name)s”") % {"name": name})

    for lookup, values in request.GET.lists():
        for value in map(str, values):
            if lookup == "status__exact":
                if value != "open":
                    raise Refused(
                        _("only open letters can be acted on: filter by the status “open”")
                    )
            elif lookup in _LOOKUPS:
                add(_LOOKUPS[lookup], value)
            elif lookup == "q" and value.strip():
                add(_column_of(its_admin, request, value.strip()), value.strip())
            elif lookup not in ("q", "p", "o"):
                raise Refused(_("not all at once by the filter “%(name)s”") % {"name": lookup})
    return found


def _column_of(its_admin: DeadLetterAdmin, request: HttpRequest, term: str) -> str:
    """In which column the list's search finds a term. Raises ``Refused`` where it finds some of them only."""
    of_key = its_admin.get_queryset(request).filter(key=term)
    if "\x00" in term or not of_key.exists():
        return "message_ref"
    declared = [item.name for item in registry.listeners]
    known = of_key.filter(process__in=declared)
    if known.exists() and of_key.exclude(process__in=declared).exists():
        raise Refused(
            _(
                "processes that are not declared have letters of that key too: search for each by itself"
            )
        )
    return "key"


def ask_or_start(
    its_admin: DeadLetterAdmin, request: HttpRequest, verb: Verb
) -> HttpResponse | None:
    """Ask whether, and why, to act on all letters of the list's filter; then let a worker begin."""
    confirmed = request.POST.get("confirmed") == "yes"
    form = ReasonForm(request.POST if confirmed else None)
    try:
        conditions = _conditions(its_admin, request)
        count = bulk.matching(conditions, most=_MOST_COUNTED + 1)
        if not count:
            raise Refused(_("no open letter is like that"))
        if not (confirmed and form.is_valid()):
            return _ask(its_admin, request, verb, conditions, count, form)
        by, reason = request.user.get_username(), form.cleaned_data["reason"]
        started = bulk.start(verb.name, conditions, by=by, reason=reason)
    except Refused as refused:
        text = _("Nothing was done: %(why)s.") % {"why": refused}
        its_admin.message_user(request, text, messages.ERROR)
        return None
    text = ngettext(
        "A worker begins with %(count)s dead letter.",
        "A worker begins with %(count)s dead letters.",
        started.total,
    ) % {"count": started.total}
    its_admin.message_user(request, text, messages.SUCCESS)
    url = its_admin.url("change", started.pk, model=BulkAction)
    return HttpResponseRedirect(url) if url else None


def _ask(
    its_admin: DeadLetterAdmin,
    request: HttpRequest,
    verb: Verb,
    conditions: dict[str, str],
    count: int,
    form: ReasonForm,
) -> HttpResponse:
    request.current_app = its_admin.admin_site.name
    context = {
        **its_admin.admin_site.each_context(request),
        "title": _("Act on all dead letters that match?"),
        "subtitle": None,
        "opts": its_admin.opts,
        "media": its_admin.media + form.media,
        "form": form,
        "verb": _names()[verb.name],
        "action": verb.name,
        "action_checkbox_name": ACTION_CHECKBOX_NAME,
        "ticked": request.POST.get(ACTION_CHECKBOX_NAME, ""),
        "warning": verb.warning,
        "conditions": _told(conditions),
        "count": min(count, _MOST_COUNTED),
        "more": count > _MOST_COUNTED,
        "back": request.get_full_path(),
    }
    return TemplateResponse(request, "admin/pm_celery/deadletter/bulk.html", context)


def _names() -> dict[str, str]:
    return {
        "retry": _("Retry"),
        "discard_and_resume": _("Discard and resume the instances"),
        "discard_for_good": _("Discard and leave the instances failed for good"),
    }


def _told(conditions: dict[str, str]) -> list[tuple[str, str]]:
    """Conditions as people read them."""
    found = []
    for name, value in conditions.items():
        told = value
        if name == "group":
            group = LetterGroup.objects.using(get_settings().database).filter(pk=value).first()
            told = str(group or value)
        field: Any = DeadLetter._meta.get_field(name.partition("__")[0])
        told = str(dict(field.flatchoices).get(value, told))
        found.append((str(field.verbose_name), told))
    return found


STOP = Verb(
    name="stop",
    act=bulk.stop,
    done=gettext_lazy("%(count)s stopped."),
    not_done=gettext_lazy("%(count)s not stopped: %(reasons)s."),
    logged=gettext_lazy("Stopped."),
    question=gettext_lazy("Stop these bulk actions?"),
    warning=gettext_lazy("What they have done stands; the letters that are left stay open."),
)
# Which permission a bulk action's verb needs, and so its stop.
_PERMISSIONS = {
    "retry": "pm_celery.retry_deadletter",
    "discard_and_resume": "pm_celery.discard_deadletter",
    "discard_for_good": "pm_celery.discard_deadletter",
}


@admin.register(BulkAction)
class BulkActionAdmin(ReadOnlyAdmin):
    """What was asked for, and how far it is. A page refreshes itself until its action has ended."""

    change_form_template = "admin/pm_celery/bulkaction/progress.html"
    list_display = ("id", "verb_name", "counts", "by", "asked_at", "ended_at", "stopped_by")
    actions = ("stop",)

    @admin.display(description=gettext_lazy("verb"))
    def verb_name(self, row: BulkAction) -> str:
        return _names().get(row.verb, row.verb)

    @admin.display(description=gettext_lazy("done"))
    def counts(self, row: BulkAction) -> str:
        return f"{row.done} / {row.total}"

    def has_stop_permission(self, request: HttpRequest) -> bool:
        """Who may begin some bulk action; which ones one may stop is asked for each."""
        return any(map(request.user.has_perm, _PERMISSIONS.values()))

    @admin.action(permissions=["stop"], description=gettext_lazy("Stop"))
    def stop(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        def act(bulk_id: int, by: str, reason: str) -> None:
            rows = BulkAction.objects.using(get_settings().database).filter(pk=bulk_id)
            verb = rows.values_list("verb", flat=True).first() or ""
            if not request.user.has_perm(_PERMISSIONS.get(verb, "")):
                raise Refused(_("who may not begin it may not stop it"))
            bulk.stop(bulk_id, by=by, reason=reason)

        return carry_out(replace(STOP, act=act), self, request, queryset)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Those that the words above them do not say."""
        told = ("by", "reason", "asked_at", "worked_at", "ended_at")
        return [field for field in self._fields if getattr(field, "__name__", field) in told]

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        row: BulkAction = context["original"]
        found = bulk.progress(row.pk)
        settled = found.total - found.left
        context |= {
            "title": _names().get(row.verb, row.verb),
            "subtitle": None,
            "progress": found,
            "percent": 100 * settled // found.total if found.total else 100,
            "settled": settled,
            # They are stored in English; what is no text of ours stays as it is.
            "refused": [(why and _(why), count) for why, count in found.refused.items()],
            "conditions": _told(json.loads(row.conditions)),
            "letters_url": self.url("changelist", model=DeadLetter, bulk__id__exact=row.pk),
        }
        return super().render_change_form(request, context, *args, **kwargs)
