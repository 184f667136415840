"""The page on which somebody sends an event by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from pm_celery import registry
from pm_celery.admin import history
from pm_celery.admin.event_forms import EventForm
from pm_celery.conf import get_settings
from pm_celery.exceptions import DeclarationError, Refused
from pm_celery.models import InboxMessage
from pm_celery.operations import publishing

if TYPE_CHECKING:
    from pm_celery.admin.read_only import ReadOnlyAdmin

__all__ = ["may_publish", "publish_view"]


def may_publish(request: HttpRequest) -> bool:
    return request.user.has_perm("pm_celery.publish_inboxmessage")


def publish_view(admin: ReadOnlyAdmin, request: HttpRequest) -> HttpResponse:
    """A choice of events; for the chosen one its form; what is posted is published."""
    if not may_publish(request):
        raise PermissionDenied
    name = request.GET.get("event", "")
    form = None
    if name:
        try:
            form = _form(request, name)
        except (Refused, DeclarationError) as error:
            admin.message_user(request, _("Nothing was done: %s") % error, messages.ERROR)
    if form is not None and request.method == "POST" and form.is_valid():
        published = form.publish(request.user.get_username())
        if published is not None:
            return _published(admin, request, form, published)
    request.current_app = admin.admin_site.name
    context = {
        **admin.admin_site.each_context(request),
        "title": _("Send %(event)s") % {"event": name} if form else _("Send an event"),
        "subtitle": None,
        "opts": admin.opts,
        "media": admin.media,
        "events": sorted(item.name for item in registry.messages if item.kind == "event"),
        "chosen": name,
        "as_json": "as_json" in request.GET,
        "form": form,
        "page": admin.url("publish"),
        "list": admin.url("changelist"),
    }
    return TemplateResponse(request, "admin/pm_celery/publish.html", context)


def _form(request: HttpRequest, name: str) -> EventForm:
    data = request.POST if request.method == "POST" else None
    return EventForm(publishing.event_named(name), data, as_json="as_json" in request.GET)


def _published(
    admin: ReadOnlyAdmin, request: HttpRequest, form: EventForm, published: publishing.Published
) -> HttpResponse:
    went = ", ".join(f"{route.process} {route.key}".strip() for route in published.routes[:10])
    count = len(published.routes)
    text = ngettext(
        "%(event)s was put into %(count)s inbox: %(went)s.",
        "%(event)s was put into %(count)s inboxes: %(went)s.",
        count,
    ) % {"event": f"{form.declared.name} {published.event_id}", "count": count, "went": went}
    failed = [route for route in published.routes if route.error]
    if failed:
        dead = ngettext(
            "%(count)s of them is a dead letter: %(error)s.",
            "%(count)s of them are dead letters: %(error)s.",
            len(failed),
        )
        text += " " + dead % {"count": len(failed), "error": failed[0].error}
    admin.message_user(request, text, messages.WARNING if failed else messages.SUCCESS)
    row = InboxMessage.objects.using(get_settings().database).get(pk=published.routes[0].inbox_id)
    done = gettext_lazy("Published by hand.")
    history.write(admin, request, row, done, form.cleaned_data["reason"])
    if admin.has_view_permission(request):
        return HttpResponseRedirect(admin.url("changelist", q=published.event_id))
    return HttpResponseRedirect(admin.url("publish"))
