"""The page of groups of dead letters: what they died of, how many, when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from pm_celery.conf import get_settings
from pm_celery.models import LetterGroup
from pm_celery.models.dead_letters import Place
from pm_celery.operations import letter_groups
from pm_celery.operations.letter_groups import SPANS, Group, Groups

if TYPE_CHECKING:
    from pm_celery.admin.dead_letters import DeadLetterAdmin

__all__ = ["GroupFilter", "groups_view"]

_WIDTH, _HEIGHT = 150, 30
_MOST_BARS = 48


class GroupFilter(admin.SimpleListFilter):
    """By group, for who comes from the page of groups: it offers no other one, for they are many."""

    title = gettext_lazy("group")
    parameter_name = "group"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        chosen = self.value()
        if not chosen or "\x00" in chosen:
            return []
        groups = LetterGroup.objects.using(get_settings().database)
        found = groups.filter(pk=chosen).first()
        return [(chosen, Truncator(str(found or chosen)).chars(60))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(group=self.value()) if self.value() else queryset


@dataclass(frozen=True, slots=True)
class Bar:
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """How many died over time, as bars of an SVG."""

    title: str
    description: str
    bars: list[Bar]
    width: int = _WIDTH
    height: int = _HEIGHT


def _chart(group: Group, span: str) -> Chart:
    each = max(1, len(group.series) // _MOST_BARS)
    sums = [sum(group.series[at : at + each]) for at in range(0, len(group.series), each)]
    highest, total = max(sums), sum(sums)
    width = _WIDTH / len(sums)
    bars = [
        Bar(
            x=round(at * width, 1),
            y=round(_HEIGHT - height, 1),
            width=round(width * 0.8, 1),
            height=round(height, 1),
        )
        for at, count in enumerate(sums)
        if (height := max(2.0, _HEIGHT * count / highest) if count else 0.0)
    ]
    names = {"hour": _("the last hour"), "day": _("the last day"), "week": _("the last week")}
    died = ngettext("%(count)s died", "%(count)s died", total) % {"count": total}
    description = _("%(died)s in %(span)s, %(highest)s at most in one of %(bars)s periods") % {
        "died": died,
        "span": names[span],
        "highest": highest,
        "bars": len(sums),
    }
    title = _("Deaths over %(span)s") % {"span": names[span]}
    return Chart(title, description, bars)


def groups_view(its_admin: DeadLetterAdmin, request: HttpRequest) -> HttpResponse:
    if not its_admin.has_view_permission(request):
        raise PermissionDenied
    span = request.GET.get("span", "day")
    span = span if span in SPANS else "day"
    only_open = request.GET.get("all") != "1"
    found: Groups = letter_groups.groups(only_open=only_open, span=span)
    status: dict[str, int | str] = {"status__exact": "open"} if only_open else {}
    places = dict(Place.choices)
    request.current_app = its_admin.admin_site.name
    context = {
        **its_admin.admin_site.each_context(request),
        "title": _("Dead letters by cause"),
        "subtitle": None,
        "opts": its_admin.opts,
        "media": its_admin.media,
        "list_url": its_admin.url("changelist"),
        "groups": [
            {
                "group": group,
                "place": places.get(group.place, group.place),
                "chart": _chart(group, span),
                "url": its_admin.url("changelist", model=None, group=group.id, **status),
            }
            for group in found.shown
        ],
        "found": found,
        "is_cut": found.total > len(found.shown),
        "span": span,
        "spans": [
            ("hour", _("last hour")),
            ("day", _("last day")),
            ("week", _("last week")),
        ],
        "only_open": only_open,
    }
    return TemplateResponse(request, "admin/pm_celery/deadletter/groups.html", context)
