"""``pm list``: rows of a table, the newest first, at most so many; and summaries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pm_celery.conf import get_settings
from pm_celery.export import data_of, plain
from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand, Timer
from pm_celery.models.dead_letters import LetterStatus, Place
from pm_celery.models.inbox import InboxStatus
from pm_celery.models.instances import InstanceStatus
from pm_celery.models.outbox import CommandStatus
from pm_celery.redaction import payload_shown
from pm_celery.shell.asking import DONE, Family, Shell, Usage
from pm_celery.shell.printing import moment
from pm_celery.shell.selecting import process_named, when
from pm_celery.shell.summaries import SUMMARIES, summarize
from pm_celery.walking import RANGE, newest_first

__all__ = ["add"]


@dataclass(frozen=True, slots=True)
class Listing:
    """A table as ``pm list`` shows it: its statuses, its columns, and what of a row is told besides."""

    model: Any
    statuses: list[str]
    columns: tuple[str, ...]
    since: str
    process: str = "process"
    payload: Callable[[Any], str] | None = None


LISTINGS = {
    "instances": Listing(
        Instance,
        list(InstanceStatus.values),
        ("id", "process", "key", "status", "number", "started_at", "changed_at", "ended_at"),
        "changed_at",
    ),
    "letters": Listing(
        DeadLetter,
        list(LetterStatus.values),
        (
            "id",
            "status",
            "process",
            "key",
            "name",
            "place",
            "exception",
            "error",
            "attempts",
            "died_at",
        ),
        "died_at",
        payload=lambda row: row.payload,
    ),
    "inbox": Listing(
        InboxMessage,
        list(InboxStatus.values),
        ("id", "status", "process", "key", "kind", "name", "attempts", "due_at", "reason"),
        "published_at",
        payload=lambda row: payload_shown(
            row.name, row.process, row.payload, kind=row.kind, version=row.version
        ),
    ),
    "outbox": Listing(
        OutboxCommand,
        list(CommandStatus.values),
        ("id", "status", "process", "key", "name", "attempts", "dispatches", "due_at", "reason"),
        "issued_at",
        payload=lambda row: payload_shown(row.name, row.process, row.payload, version=row.version),
    ),
    "timers": Listing(
        Timer,
        [],
        ("id", "process", "key", "name", "due_at", "fired_at"),
        "due_at",
        process="instance__process",
        payload=lambda row: payload_shown(
            row.name, row.instance.process, row.payload, kind="timer"
        ),
    ),
}
# A list of what is rare goes through a big table: it stops after so many rows, and says so.
_MOST_LOOKED_AT = 1_000_000


def add(family: Family) -> None:
    parser = family.add("list", list_rows, "Rows of a table, the newest first.")
    tables = [*LISTINGS, *SUMMARIES]
    parser.add_argument("table", nargs="?", default="instances", choices=tables)
    parser.add_argument("--process", metavar="NAME", help="of this process")
    parser.add_argument("--key", help="of this correlation key")
    parser.add_argument(
        "--status",
        help="in this status (letters and groups: open, unless another is given; groups: any)",
    )
    parser.add_argument("--name", metavar="NAME", help="this event, command or timer")
    parser.add_argument("--exception", metavar="CLASS", help="letters that died of it")
    parser.add_argument("--place", choices=list(Place.values), help="letters that died there")
    parser.add_argument("--group", metavar="ID", help="letters of this group")
    parser.add_argument(
        "--since", metavar="WHEN", help="a moment (ISO 8601), or a duration back from now: 2h"
    )
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="at most (50)")


def list_rows(shell: Shell) -> int:
    options = shell.options
    table = options["table"]
    if table in SUMMARIES:
        return summarize(shell)
    listing = LISTINGS[table]
    status = options["status"] or ("open" if table == "letters" else None)
    if status and status not in listing.statuses:
        known = ", ".join(listing.statuses) or "none"
        raise Usage(f"{table} have no status {status!r}; they have: {known}.")
    for name in ("exception", "place", "group"):
        if options[name] and table != "letters":
            raise Usage(f"--{name} is for letters.")
    if options["name"] and table == "instances":
        raise Usage("--name is for letters, inbox, outbox and timers.")
    wanted = {
        listing.process: process_named(options["process"], policies=True)
        if options["process"]
        else None,
        listing.process.replace("process", "key"): options["key"],
        "status": status,
        "name": options["name"],
        "exception": options["exception"],
        "place": options["place"],
        "group_id": options["group"],
    }
    found, is_cut = _found(listing, {k: v for k, v in wanted.items() if v is not None}, options)
    for row in found:
        told = {name: _told(row, name) for name in listing.columns}
        if listing.payload is not None and shell.out.as_json:
            told["payload"] = data_of(listing.payload(row))
        shell.out.record(
            {name: plain(v) if hasattr(v, "astimezone") else v for name, v in told.items()}
        )
    if found:
        shell.out.table(
            [name.replace("_", " ") for name in listing.columns],
            [[_shown(_told(row, name)) for name in listing.columns] for row in found],
        )
    else:
        shell.out.note("None.")
    if is_cut:
        shell.out.note("There may be more: --limit says how many are shown.")
    return DONE


def _found(
    listing: Listing, wanted: dict[str, str], options: dict[str, Any]
) -> tuple[list[Any], bool]:
    """The rows; and whether there may be more."""
    limit = max(1, options["limit"])
    since = when(options["since"]) if options["since"] else None
    rows = listing.model._default_manager.using(get_settings().database)
    if listing.model is Timer:
        rows = rows.select_related("instance")
    by_index = _by_index(listing, rows, wanted)
    # Whether it is true would be asked of all its rows.
    if by_index is not None:
        most = 10 * limit + 1000
        read = list(by_index[:most])
        found = [
            row
            for row in read
            if _fits(row, wanted) and (since is None or getattr(row, listing.since) >= since)
        ]
        return found[:limit], len(found) > limit or len(read) == most
    fitting = rows.filter(**wanted)
    if since is not None:
        fitting = fitting.filter(**{f"{listing.since}__gte": since})
    ids: list[int] = []
    looked_at = 0
    for found_ids in newest_first(fitting, _MOST_LOOKED_AT):
        ids += found_ids
        looked_at += RANGE
        if len(ids) > limit:
            break
    shown = rows.in_bulk(ids[:limit])
    is_cut = len(ids) > limit or looked_at >= _MOST_LOOKED_AT
    return [shown[id_] for id_ in ids[:limit] if id_ in shown], is_cut


def _by_index(listing: Listing, rows: Any, wanted: dict[str, str]) -> Any:
    """The rows by an index that leads to few of them, or None."""
    process, key = (
        wanted.get(listing.process),
        wanted.get(listing.process.replace("process", "key")),
    )
    if listing.model is DeadLetter and wanted == {"status": "open"}:
        return rows.open().order_by("-died_at").defer("traceback")
    if listing.model is DeadLetter and "group_id" in wanted:
        of_group = rows.filter(group_id=wanted["group_id"], status=wanted["status"])
        return of_group.order_by("-pk").defer("traceback")
    if process is None or key is None:
        return None
    if listing.model is Instance:
        return rows.filter(process=process, key=key)
    if listing.model is InboxMessage and wanted.get("status") in ("pending", "waiting", "parked"):
        return rows.of_instance(process, key)
    if listing.model is InboxMessage:
        return None
    instance = Instance.objects.using(rows.db).filter(process=process, key=key).first()
    if instance is None:
        # A command and a letter may have a key without an instance.
        return rows.none() if listing.model is Timer else None
    return rows.filter(instance_id=instance.pk).order_by("-pk")


def _fits(row: Any, wanted: dict[str, str]) -> bool:
    for path, value in wanted.items():
        found = row
        for name in path.split("__"):
            found = getattr(found, name, None)
        if found != value:
            return False
    return True


def _told(row: Any, name: str) -> Any:
    if hasattr(row, name):
        return getattr(row, name)
    return getattr(row.instance, name)


def _shown(value: Any) -> object:
    return moment(value) if hasattr(value, "astimezone") else value
