"""The strict policy under which all pages have to work."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase

__all__ = ["strict_policy"]

_POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'"


def strict_policy(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """A middleware that sends it with every answer."""

    def answer(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        response["Content-Security-Policy"] = _POLICY
        return response

    return answer
