"""``{% pm_overview %}``: the overview, in the app's page of whatever admin site it is on."""

from __future__ import annotations

from typing import Any

from django import template

from pm_celery.admin.overview import page_of

register = template.Library()


@register.inclusion_tag("admin/pm_celery/overview.html", takes_context=True)
def pm_overview(context: template.Context) -> dict[str, Any]:
    """What whoever asks may see: the tables in ``app_list`` tell."""
    request = context.get("request")
    site_name = getattr(request, "current_app", "") or ""
    return {"page": page_of(context.get("app_list") or [], site_name)}
