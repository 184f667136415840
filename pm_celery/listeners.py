"""Who hears which event, and for which key: routing, decided once, when an event is published."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from django.db import connections, transaction

from pm_celery import registry
from pm_celery.conf import get_settings
from pm_celery.definitions import ProcessDefinition
from pm_celery.exceptions import DeclarationError
from pm_celery.keys import partition_of
from pm_celery.messages import MessageType
from pm_celery.policies import PolicyDefinition

__all__ = ["Listener", "Route", "listeners_of", "route"]

Listener = ProcessDefinition | PolicyDefinition


@dataclass(frozen=True, slots=True)
class Route:
    """One inbox that an event goes to. ``error`` is set where the correlate failed; key is "" then."""

    process: str
    key: str
    partition: int
    error: Exception | None = None


_index: dict[MessageType, list[Listener]] = {}
_index_version = -1


def listeners_of(declared: MessageType) -> list[Listener]:
    """Process managers and policies that hear an event.

    Raises ``DeclarationError`` if one of them is broken: its events would be lost silently else.
    """
    global _index, _index_version
    if _index_version != registry.listeners.version:
        index: dict[MessageType, list[Listener]] = {}
        version = registry.listeners.version
        for listener in registry.listeners:
            for event in listener.events():
                index.setdefault(event, []).append(listener)
        _index, _index_version = index, version
    found = _index.get(declared, [])
    for listener in found:
        if listener.problems:
            problem = listener.problems[0]
            raise DeclarationError(f"{problem.text} {problem.hint} (pm_celery.{problem.id})")
    return found


def _guarded(listener: Listener, declared: MessageType) -> AbstractContextManager[object]:
    """A savepoint around a correlate that may query: on PostgreSQL, a query that fails would take the
    caller's transaction with it."""
    alias = get_settings().database
    if listener.calls_user_code(declared) and connections[alias].in_atomic_block:
        return transaction.atomic(using=alias)
    return nullcontext()


def route(declared: MessageType, event: object, event_id: str) -> list[Route]:
    """Where an event goes. A correlate that fails yields a route with its error, and raises nothing:
    the code that publishes is not to blame, and the event must not be lost."""
    routes = []
    for listener in listeners_of(declared):
        name = listener.name
        try:
            with _guarded(listener, declared):
                key = listener.key_of(declared, event)
        except Exception as error:  # noqa: BLE001 -- a correlate is user code
            routes.append(Route(name, "", partition_of(name, event_id), error))
            continue
        if key is None:
            continue
        # Policies have no key: their rows spread over the partitions by the event's id.
        routes.append(Route(name, key, partition_of(name, key or event_id)))
    return routes
