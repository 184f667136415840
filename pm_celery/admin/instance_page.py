"""The page of one instance: where it is, what it waits for, what happened, and the picture of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.admin.sites import AdminSite
from django.http import HttpRequest

from pm_celery import clock, registry
from pm_celery.admin.instance_diagram import picture
from pm_celery.conf import get_settings
from pm_celery.definitions import ProcessDefinition
from pm_celery.models import (
    DeadLetter,
    InboxMessage,
    Instance,
    Intervention,
    OutboxCommand,
    Pause,
    Timer,
    Transition,
)
from pm_celery.operations.awaiting import awaited
from pm_celery.operations.diagram import draw, road
from pm_celery.operations.states import lines, read_state
from pm_celery.operations.timeline import state_as_of, timeline

if TYPE_CHECKING:
    from pm_celery.admin.read_only import ReadOnlyAdmin

__all__ = ["context_of"]

_TABLES: dict[str, type[Any]] = {
    "transitions": Transition,
    "messages": InboxMessage,
    "commands": OutboxCommand,
    "letters": DeadLetter,
    "timers": Timer,
    "interventions": Intervention,
}
# Commands that the top of the page names.
MOST_TOLD = 10


def context_of(admin: ReadOnlyAdmin, request: HttpRequest, instance: Instance) -> dict[str, Any]:
    """What the template needs besides Django's own."""
    parts = {name for name, model in _TABLES.items() if _may_see(admin.admin_site, request, model)}
    at = _number(request, "at", instance) if "transitions" in parts else None
    until = _number(request, "until", instance)
    if until is None and at is not None:
        until = min(at + 20, instance.number)
    found = timeline(instance, until=until, parts=parts)
    seen = road(instance, at) if "transitions" in parts else []
    as_of, state = None, read_state(instance.process, instance.state, instance.state_version)
    if at is not None:
        as_of, state = state_as_of(instance, at)
    now = clock.now()
    return {
        "parts": parts,
        "timeline": found,
        "now": now,
        "until_now": instance.ended_at or now,
        "as_of": as_of,
        "earlier": at - 1 if at and at > 1 else None,
        "later": at + 1 if at and at < instance.number else None,
        "state": state,
        "state_lines": lines(state),
        "picture": picture(draw(instance.process, seen)) if "transitions" in parts else None,
        "pause": Pause.objects.using(get_settings().database)
        .filter(process=instance.process)
        .first(),
        "awaited": awaited(instance, seen),
        "under_way": found.under_way[-MOST_TOLD:],
        "pages": _pages(admin, parts),
        "is_declared": isinstance(registry.listeners.get(instance.process), ProcessDefinition),
        "conversation": admin.url("changelist", correlation_id__exact=instance.correlation_id),
        "conversations": admin.url("changelist", correlation_id__exact=""),
        "all_transitions": admin.url(
            "changelist", model=Transition, instance__id__exact=instance.pk
        ),
    }


def _may_see(site: AdminSite, request: HttpRequest, model: type[Any]) -> bool:
    if site.is_registered(model):
        return bool(site.get_model_admin(model).has_view_permission(request))
    return model is Intervention and request.user.has_perm("pm_celery.view_intervention")


def _number(request: HttpRequest, name: str, instance: Instance) -> int | None:
    """A transition's number from the address; None for what can be none."""
    text = request.GET.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 11):
        return None
    number = int(text)
    return number if 1 <= number <= instance.number else None


def _pages(admin: ReadOnlyAdmin, parts: set[str]) -> dict[str, str]:
    """How the addresses of single rows begin; none of tables that somebody may not see."""
    end = "0/change/"
    found = {name: admin.url("change", 0, model=_TABLES[name]) for name in parts}
    return {name: url.removesuffix(end) for name, url in found.items() if url.endswith(end)}
