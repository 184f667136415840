"""The addresses of a URL conf, to find pages by and not from a list."""

from __future__ import annotations

from collections.abc import Iterator

from django.urls import URLPattern, URLResolver

__all__ = ["patterns"]


def patterns(resolver: URLResolver, namespace: str = "") -> Iterator[tuple[str, URLPattern]]:
    """Every pattern, with its namespace ("admin:", say)."""
    for found in resolver.url_patterns:
        if isinstance(found, URLResolver):
            inner = f"{namespace}{found.namespace}:" if found.namespace else namespace
            yield from patterns(found, inner)
        else:
            yield namespace, found
