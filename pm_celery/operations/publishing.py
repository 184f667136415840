"""Publishing an event by hand: to whom it went, or what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from django.utils.translation import gettext_lazy as _
from pydantic import ValidationError

from pm_celery import registry
from pm_celery.conf import get_settings
from pm_celery.exceptions import InvalidMessage, Refused
from pm_celery.messages import MessageType
from pm_celery.models import InboxMessage
from pm_celery.operations.interventions import intervene
from pm_celery.publishing import publish

__all__ = ["Published", "Routed", "event_named", "problems", "publish_by_hand"]


@dataclass(frozen=True, slots=True)
class Routed:
    """One inbox that an event went into; error is set where its correlate failed: it is a dead letter."""

    inbox_id: int
    process: str
    key: str
    error: str


@dataclass(frozen=True, slots=True)
class Published:
    """What became of an event that was published by hand."""

    event_id: str
    correlation_id: str
    routes: tuple[Routed, ...]


def event_named(name: str) -> MessageType:
    """The declaration of an event. Raises ``Refused`` for what is none of this release."""
    declared = registry.messages.get(name)
    if declared is None or declared.kind != "event":
        raise Refused(_("this release knows no event %(name)s"), name=f"{name!r:.80}")
    return declared


def problems(name: str, payload: object) -> list[tuple[tuple[str | int, ...], str]]:
    """Where a payload, as JSON has it, does not validate, and why. Raises ``Refused`` for no event."""
    declared = event_named(name)
    try:
        text = json.dumps(payload, allow_nan=False)
        declared.adapter.validate_json(text, by_alias=True, by_name=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return [(tuple(item["loc"]), item["msg"]) for item in found]
    except (TypeError, ValueError, RecursionError) as error:
        return [((), str(error))]
    return []


def publish_by_hand(
    name: str,
    payload: object,
    *,
    event_id: str | None = None,
    correlation_id: str | None = None,
    occurred_at: datetime | None = None,
    by: str = "",
    reason: str = "",
) -> Published:
    """Publish an event given by its wire name and JSON payload, as if a colleague's code had done it.

    event_id: a fresh one where there is none. occurred_at: with a time zone; default: now. Raises
    ``Refused``, and does nothing, where the event is not known, does not validate, has an id that was used,
    or is heard by nobody.
    """
    alias = get_settings().database
    found = problems(name, payload)
    if found:
        told = "; ".join(f"{'.'.join(map(str, at)) or 'payload'}: {what}" for at, what in found)
        raise Refused(_("%(name)s does not validate: %(problems)s"), name=name, problems=told)
    declared = event_named(name)
    event = declared.decode(json.dumps(payload))
    rows = InboxMessage.objects.using(alias)
    with transaction.atomic(using=alias):
        if event_id and rows.filter(message_id=event_id).exists():
            raise Refused(_("its id was used before, and the first event stands"))
        try:
            event_id = publish(
                event,
                event_id=event_id or None,
                correlation_id=correlation_id,
                occurred_at=occurred_at,
            )
        except InvalidMessage as error:
            raise Refused(str(error)) from error
        stored = list(rows.filter(message_id=event_id).order_by("pk"))
        if not stored:
            raise Refused(_("nobody hears it: no process and no policy of this release takes it"))
        routes = tuple(
            Routed(row.pk, row.process, row.key, row.reason if row.status == "dead" else "")
            for row in stored
        )
        intervene(
            alias,
            "publish event",
            f"{name} {event_id}",
            by=by,
            reason=reason,
            process=routes[0].process if len(routes) == 1 else "",
            key=routes[0].key if len(routes) == 1 else "",
            details={
                "event": event_id,
                "routes": [[route.process, route.key] for route in routes],
            },
        )
        return Published(event_id, stored[0].correlation_id, routes)
