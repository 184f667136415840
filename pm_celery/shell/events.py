"""``pm publish``, ``pm wake``."""

from __future__ import annotations

import json
from typing import Any

from pm_celery import wakeups
from pm_celery.conf import get_settings
from pm_celery.keys import PARTITIONS
from pm_celery.models import InboxMessage
from pm_celery.operations import messages, publishing
from pm_celery.shell.asking import DONE, REFUSED, Family, Shell, Subject, Usage
from pm_celery.shell.selecting import LARGEST_ID, event_named, text_given, when

__all__ = ["add"]


def add(family: Family) -> None:
    parser = family.add(
        "publish", publish, "Publish an event, and say where it went.", is_verb=True
    )
    parser.add_argument("event", metavar="EVENT", help="its wire name: shop.OrderPlaced")
    parser.add_argument(
        "payload", metavar="PAYLOAD", help="JSON; @file reads a file, - the standard input"
    )
    parser.add_argument("--id", metavar="ID", help="the event's id (a new one)")
    parser.add_argument("--correlation-id", metavar="ID", help="the conversation (the event's id)")
    parser.add_argument("--occurred-at", metavar="WHEN", help="when it happened (now)")
    parser = family.add(
        "wake",
        wake,
        "Look now at messages that back off or are stuck; without ids: wake the workers of all that is "
        "due, as the tick does.",
        is_verb=True,
    )
    parser.add_argument("message", nargs="*", type=int, metavar="MESSAGE", help="ids")
    parser.add_argument("--dry-run", action="store_true", help="say which, and do nothing")


def publish(shell: Shell) -> int:
    options = shell.options
    name = event_named(options["event"]).name
    payload = _json(options["payload"])
    if problems := publishing.problems(name, payload):
        told = "; ".join(f"{'.'.join(map(str, at)) or 'payload'}: {what}" for at, what in problems)
        raise Usage(f"{name} cannot be made of that: {told}")
    published = publishing.publish_by_hand(
        name,
        payload,
        event_id=options["id"],
        correlation_id=options["correlation_id"],
        occurred_at=when(options["occurred_at"]) if options["occurred_at"] else None,
        by=shell.by,
        reason=shell.reason,
    )
    shell.out.document(
        {
            "event": name,
            "event_id": published.event_id,
            "correlation_id": published.correlation_id,
            "routes": [
                {
                    "id": route.inbox_id,
                    "process": route.process,
                    "key": route.key,
                    "error": route.error or None,
                }
                for route in published.routes
            ],
        }
    )
    shell.out.line(f"{name} {published.event_id}: published", "SUCCESS")
    for route in published.routes:
        where = " ".join(filter(None, (route.process, route.key)))
        if route.error:
            shell.out.line(f"  {where}: a dead letter: {route.error}", "ERROR")
        else:
            shell.out.line(f"  {where}")
    return REFUSED if any(route.error for route in published.routes) else DONE


def _json(text: str) -> Any:
    try:
        return json.loads(text_given(text))
    except (ValueError, RecursionError) as error:
        raise Usage(f"The payload is no JSON: {error}.") from None


def wake(shell: Shell) -> int:
    if shell.options["message"]:
        return shell.each(_messages(shell.options["message"]), messages.wake, "woken")
    partitions = wakeups.partitions_with_work(range(PARTITIONS))
    lanes = wakeups.common_lanes(partitions)
    is_dry = shell.options["dry_run"]
    if not is_dry:
        wakeups.wake_again(lanes)
    shell.out.document(
        {"partitions": sorted(partitions), "lanes": sorted(lanes), "dry_run": is_dry}
    )
    woken = "would be" if is_dry else "were"
    found = f"{len(partitions)} partitions have something due" if partitions else "Nothing is due"
    shell.out.line(f"{found}; workers {woken} woken." if partitions else f"{found}.")
    return DONE


def _messages(ids: list[int]) -> list[Subject]:
    rows = InboxMessage.objects.using(get_settings().database).defer("payload")
    known = rows.in_bulk([id_ for id_ in ids if 0 < id_ <= LARGEST_ID])
    found = []
    for id_ in dict.fromkeys(ids):
        row = known.get(id_)
        if row is None:
            raise Usage(f"There is no message {id_}: pm list inbox tells ids.")
        title = " ".join(filter(None, (f"message {id_}", row.process, row.key, row.name)))
        told = {"id": id_, "process": row.process, "key": row.key, "name": row.name}
        found.append(Subject(id_, title, told))
    return found
