"""Health and metrics, for machines: a token opens them, or an account's permission."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils.crypto import constant_time_compare
from django.utils.translation import override
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from pm_celery.conf import get_settings
from pm_celery.operations.health import health

__all__ = ["health_view", "metrics_view"]

_BEARER = "bearer"

View = Callable[[HttpRequest], HttpResponseBase]


def _guarded(view: View) -> View:
    """For whoever sends the token, or has the permission; nothing that is answered may be kept."""

    # Whoever asks with a token has no session: a project that asks everybody to log in would send it to a
    # page.
    @login_not_required
    @never_cache
    @require_safe
    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponseBase:
        if not (_has_token(request) or _has_permission(request)):
            return JsonResponse({"error": "a token or a permission is needed"}, status=403)
        return view(request)

    return guarded


def _has_token(request: HttpRequest) -> bool:
    token = get_settings().health.token
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if not token or scheme.lower() != _BEARER:
        return False
    return constant_time_compare(given.strip(), token)


def _has_permission(request: HttpRequest) -> bool:
    # None where a project has no accounts.
    user = getattr(request, "user", None)
    return user is not None and user.has_perm("pm_celery.view_health")


@_guarded
def health_view(request: HttpRequest) -> HttpResponseBase:
    """200 where all is well, else 503; the body says what is wrong."""
    # Whatever language a project has: a monitor compares words.
    with override(None):
        found = health()
    return JsonResponse(found.as_json(), status=200 if found.is_ok else 503)


@_guarded
def metrics_view(request: HttpRequest) -> HttpResponseBase:
    """What Prometheus scrapes. Needs the extra ``prometheus``; without it, 501 says so."""
    try:
        from pm_celery.metrics import exposition
    except ModuleNotFoundError:
        text = "Install pm-celery[prometheus].\n"
        return HttpResponse(text, status=501, content_type="text/plain; charset=utf-8")
    body, content_type = exposition(request.headers.get("Accept", ""))
    return HttpResponse(body, content_type=content_type)
