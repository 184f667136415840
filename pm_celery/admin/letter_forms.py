"""The two forms of a dead letter: its note, and another payload to retry it with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pm_celery.admin import history
from pm_celery.admin.actions import ReasonForm
from pm_celery.conf import get_settings
from pm_celery.exceptions import Refused
from pm_celery.models import DeadLetter
from pm_celery.operations import dead_letters, editing

if TYPE_CHECKING:
    from pm_celery.admin.dead_letters import DeadLetterAdmin

__all__ = ["edit_view", "note_view"]


class NoteForm(forms.Form):
    note = forms.CharField(
        label=gettext_lazy("Note"),
        required=False,
        max_length=dead_letters.LONGEST_NOTE,
        widget=forms.Textarea(attrs={"rows": 8, "class": "vLargeTextField"}),
    )


class EditForm(ReasonForm):
    payload = forms.CharField(
        label=gettext_lazy("Payload"),
        strip=False,
        widget=forms.Textarea(
            attrs={"rows": 20, "class": "vLargeTextField pm-payload", "spellcheck": "false"}
        ),
    )
    field_order = ("payload", "reason")


def note_view(its_admin: DeadLetterAdmin, request: HttpRequest, object_id: str) -> HttpResponse:
    if not request.user.has_perm("pm_celery.annotate_deadletter"):
        raise PermissionDenied
    letter = _letter(its_admin, request, object_id)
    form = NoteForm(request.POST or None, initial={"note": letter.note})
    # A post that holds no note at all does not take away the one that is there.
    if request.method == "POST" and "note" in request.POST and form.is_valid():
        try:
            by = request.user.get_username()
            dead_letters.annotate(letter.pk, form.cleaned_data["note"], by=by)
        except Refused as refused:
            form.add_error("note", str(refused))
        else:
            history.write(its_admin, request, letter, gettext_lazy("Note written."))
            its_admin.message_user(request, _("The note is saved."), messages.SUCCESS)
            return HttpResponseRedirect(its_admin.url("change", letter.pk))
    return _page(its_admin, request, letter, form, title=_("Note on a dead letter"))


def edit_view(its_admin: DeadLetterAdmin, request: HttpRequest, object_id: str) -> HttpResponse:
    if not request.user.has_perm("pm_celery.edit_deadletter"):
        raise PermissionDenied
    letter = _letter(its_admin, request, object_id)
    problem, form = "", None
    if not get_settings().edit_payloads:
        problem = _("Payloads are not changed here. PM_CELERY['EDIT_PAYLOADS'] = True allows it.")
    else:
        try:
            shown = editing.editable(letter.pk).shown
        except Refused as refused:
            problem = str(refused)
        else:
            form = EditForm(request.POST or None, initial={"payload": _indented(shown)})
    if form is not None and request.method == "POST" and form.is_valid():
        by, given = request.user.get_username(), form.cleaned_data
        try:
            editing.edit_and_retry(letter.pk, given["payload"], by=by, reason=given["reason"])
        except Refused as refused:
            form.add_error("payload", str(refused))
        else:
            done = gettext_lazy("Payload changed, and retried.")
            history.write(its_admin, request, letter, done)
            text = _("The payload is changed, and the message is due again.")
            its_admin.message_user(request, text, messages.SUCCESS)
            return HttpResponseRedirect(its_admin.url("change", letter.pk))
    title = _("Change the payload and retry")
    return _page(its_admin, request, letter, form, title=title, problem=problem, edits=True)


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _letter(its_admin: DeadLetterAdmin, request: HttpRequest, object_id: str) -> DeadLetter:
    if not its_admin.has_view_permission(request):
        raise PermissionDenied
    found = its_admin.get_object(request, object_id)
    if found is None:
        raise Http404
    letter: DeadLetter = found
    return letter


def _page(
    its_admin: DeadLetterAdmin,
    request: HttpRequest,
    letter: DeadLetter,
    form: forms.Form | None,
    **more: Any,
) -> HttpResponse:
    request.current_app = its_admin.admin_site.name
    context = {
        **its_admin.admin_site.each_context(request),
        "subtitle": None,
        "opts": its_admin.opts,
        "media": its_admin.media,
        "letter": letter,
        "described": its_admin.describe(letter),
        "letter_url": its_admin.url("change", letter.pk),
        "form": form,
        **more,
    }
    return TemplateResponse(request, "admin/pm_celery/deadletter/form.html", context)
