"""``pm publish``, ``pm wake``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

from django.db import transaction

from pm_celery import wakeups
from pm_celery.conf import get_settings
from pm_celery.exceptions import InvalidMessage, UnusableKey
from pm_celery.keys import PARTITIONS
from pm_celery.operations.interventions import intervene
from pm_celery.publishing import publish
from pm_celery.shell.asking import DONE, Family, Shell, Usage
from pm_celery.shell.selecting import event_named, when
from pm_celery.wording import text_of

__all__ = ["add"]


def add(family: Family) -> None:
    parser = family.add("publish", publish_event, "Publish an event.", is_verb=True)
    parser.add_argument("event", metavar="EVENT", help="its wire name: shop.OrderPlaced")
    parser.add_argument(
        "payload", metavar="PAYLOAD", help="JSON; @file reads a file, - the standard input"
    )
    parser.add_argument("--id", metavar="ID", help="the event's id (a new one)")
    parser.add_argument("--correlation-id", metavar="ID", help="the conversation (the event's id)")
    parser.add_argument("--occurred-at", metavar="WHEN", help="when it happened (now)")
    family.add("wake", wake, "Wake the workers of all that is due, as the tick does.")


def publish_event(shell: Shell) -> int:
    options = shell.options
    declared = event_named(options["event"])
    data = _json(options["payload"])
    occurred_at = when(options["occurred_at"]) if options["occurred_at"] else None
    try:
        event = declared.decode(json.dumps(data))
    except Exception as error:  # noqa: BLE001 -- an event's validators are user code
        raise Usage(f"{declared.name} cannot be made of that: {text_of(error)}") from None
    alias = get_settings().database
    try:
        with transaction.atomic(using=alias):
            event_id = publish(
                event,
                event_id=options["id"] or str(uuid4()),
                correlation_id=options["correlation_id"],
                occurred_at=occurred_at,
            )
            subject = f"{declared.name} {event_id}"
            who, why = shell.by, shell.reason
            intervene(alias, "publish", subject, by=who, reason=why, details={"event_id": event_id})
    except (InvalidMessage, UnusableKey) as error:
        raise Usage(str(error)) from None
    shell.out.document({"event": declared.name, "event_id": event_id})
    shell.out.line(f"{declared.name} {event_id}: published", "SUCCESS")
    return DONE


def _json(text: str) -> Any:
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise Usage(f"{error.filename}: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise Usage(f"The payload is no JSON: {error}.") from None


def wake(shell: Shell) -> int:
    partitions = wakeups.partitions_with_work(range(PARTITIONS))
    lanes = wakeups.common_lanes(partitions)
    wakeups.wake_again(lanes)
    shell.out.document({"partitions": sorted(partitions), "lanes": sorted(lanes)})
    found = f"{len(partitions)} partitions have something due" if partitions else "Nothing is due"
    shell.out.line(f"{found}; workers were woken." if partitions else f"{found}.")
    return DONE
