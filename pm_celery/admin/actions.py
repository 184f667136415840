"""Admin actions: ask why, let one of the package's verbs act on what was selected, and tell the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.widgets import AdminTextareaWidget
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pm_celery.admin import history
from pm_celery.conf import get_settings
from pm_celery.exceptions import Refused

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

    from pm_celery.admin.read_only import ReadOnlyAdmin

__all__ = ["ReasonForm", "Verb", "act_on", "carry_out"]

# One request handles no more; a form holds at most 1,000 fields (DATA_UPLOAD_MAX_NUMBER_FIELDS).
AT_ONCE = 500
REASONS_TOLD = 5
LONGEST_REASON = 200


class ReasonForm(forms.Form):
    """What is asked before a verb acts; verbs with parameters have forms with further fields."""

    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        help_text=gettext_lazy(
            "Kept with what is done: in the instance's timeline and in the log."
        ),
        max_length=2000,
        widget=AdminTextareaWidget(attrs={"rows": 3}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].required = get_settings().reason_required


@dataclass(frozen=True, slots=True)
class Verb:
    """What an action does to each selected row.

    act: does it for (primary key, user, reason), and what else ``form`` asks by name; or raises ``Refused``.
    done, not_done: sentences about ``%(count)s`` rows; the latter ends with ``%(reasons)s``.
    logged: what the row's history says.
    question, warning: what the page says that asks for the reason; without a question, the action's name.
    """

    name: str
    act: Callable[..., object]
    done: StrOrPromise
    not_done: StrOrPromise
    logged: StrOrPromise
    question: StrOrPromise = ""
    warning: StrOrPromise = ""
    form: type[ReasonForm] = ReasonForm


def carry_out(
    verb: Verb, admin: ReadOnlyAdmin, request: HttpRequest, queryset: QuerySet[Any]
) -> TemplateResponse | None:
    """Ask why; then act on one of the selected rows after the other, and tell what happened."""
    rows, missing = _selected(admin, request, queryset)
    return act_on(verb, admin, request, rows, missing)


def act_on(
    verb: Verb, admin: ReadOnlyAdmin, request: HttpRequest, rows: list[Any], missing: int
) -> TemplateResponse | None:
    """:func:`carry_out` for rows that are known; missing: how many of what was selected have gone."""
    if len(rows) > AT_ONCE:
        text = _("Nothing was done: select at most %(most)s at once.") % {"most": AT_ONCE}
        admin.message_user(request, text, messages.ERROR)
        return None
    confirmed = request.POST.get("confirmed") == "yes"
    form = verb.form(request.POST if confirmed else None)
    if rows and not (confirmed and form.is_valid()):
        return _ask(verb, admin, request, rows, form)
    refusals = Counter({_("no longer there"): missing} if missing else {})
    by = request.user.get_username()
    done = 0
    try:
        for row in rows:
            try:
                verb.act(row.pk, by, **form.cleaned_data)
            except Refused as refused:
                refusals[Truncator(str(refused).rstrip(".")).chars(LONGEST_REASON)] += 1
            else:
                done += 1
                history.write(admin, request, row, verb.logged, form.cleaned_data["reason"])
    finally:  # also what was done before something broke
        _tell(verb, admin, request, done, refusals)
    return None


def _selected(
    admin: ReadOnlyAdmin, request: HttpRequest, queryset: QuerySet[Any]
) -> tuple[list[Any], int]:
    """The selected rows, one more than are allowed at most, and how many have gone since.

    Those that were ticked are read without the list's filters: one that has left the filter
    meanwhile, because somebody else was faster, is to be refused aloud and not passed over.
    """
    if request.POST.get("select_across") == "1":
        return list(queryset[: AT_ONCE + 1]), 0
    ticked = set(request.POST.getlist(ACTION_CHECKBOX_NAME))
    try:
        chosen = admin.slim(admin.get_queryset(request)).filter(pk__in=ticked)
        rows = list(chosen.order_by("pk")[: AT_ONCE + 1])
    except (ValueError, ValidationError):
        return [], len(ticked)
    return rows, 0 if len(rows) > AT_ONCE else len(ticked) - len(rows)


def _ask(
    verb: Verb,
    admin: ReadOnlyAdmin,
    request: HttpRequest,
    rows: list[Any],
    form: ReasonForm,
) -> TemplateResponse:
    asks = verb.question or dict(admin.get_action_choices(request, [])).get(verb.name, verb.name)
    request.current_app = admin.admin_site.name
    context = {
        **admin.admin_site.each_context(request),
        "title": asks,
        "subtitle": None,
        "warning": verb.warning,
        "opts": admin.opts,
        "media": admin.media + form.media,
        "form": form,
        "action": verb.name,
        "action_checkbox_name": ACTION_CHECKBOX_NAME,
        "rows": [
            (row.pk, admin.link(admin.url("change", row.pk), admin.describe(row))) for row in rows
        ],
        "back": request.get_full_path(),
    }
    return TemplateResponse(request, "admin/pm_celery/confirm.html", context)


def _tell(
    verb: Verb, admin: ReadOnlyAdmin, request: HttpRequest, done: int, refusals: Counter[str]
) -> None:
    if done:
        admin.message_user(request, str(verb.done) % {"count": done}, messages.SUCCESS)
    if refusals:
        reasons = [reason for reason, _count in refusals.most_common(REASONS_TOLD)]
        if len(refusals) > REASONS_TOLD:
            reasons.append(_("and other reasons"))
        text = str(verb.not_done) % {"count": refusals.total(), "reasons": "; ".join(reasons)}
        admin.message_user(request, text, messages.WARNING)
