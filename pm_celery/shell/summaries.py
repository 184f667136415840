"""``pm list processes | groups | bulks``: lists whose lines are no rows of one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from pm_celery.conf import get_settings
from pm_celery.exceptions import Refused
from pm_celery.export import plain
from pm_celery.models import BulkAction
from pm_celery.operations import bulk, letter_groups
from pm_celery.operations.overview import overview
from pm_celery.shell.asking import DONE, Shell, Usage
from pm_celery.shell.bulks import told as told_of_bulk
from pm_celery.shell.printing import moment
from pm_celery.shell.selecting import process_named

__all__ = ["SUMMARIES", "summarize"]

# A line for people by its columns, and the same for scripts.
Line = tuple[dict[str, Any], dict[str, Any]]

_OPTIONS = ("process", "key", "status", "name", "exception", "place", "group", "since")


def summarize(shell: Shell) -> int:
    table, limit = shell.options["table"], max(1, shell.options["limit"])
    ask, known = SUMMARIES[table]
    for option in _OPTIONS:
        if shell.options[option] and option not in known:
            raise Usage(f"--{option} is not for {table}.")
    found = list(ask(shell, limit + 1))
    for _, told in found[:limit]:
        shell.out.record(told)
    if found:
        rows = [shown for shown, _ in found[:limit]]
        shell.out.table(list(rows[0]), [[_shown(value) for value in row.values()] for row in rows])
    else:
        shell.out.note("None.")
    if len(found) > limit:
        shell.out.note("There may be more: --limit says how many are shown.")
    return DONE


def _shown(value: Any) -> object:
    return moment(value) if isinstance(value, datetime) else value


def _processes(shell: Shell, most: int) -> Iterator[Line]:
    found = overview()
    if not found.health.is_readable:
        raise Refused("; ".join(problem.text for problem in found.health.problems))
    for row in [row for row in found.processes if row.process][:most]:
        pause = row.pause
        shown = {
            "process": row.process,
            "kind": row.kind or "not declared",
            "running": row.counts["started"],
            "failed": row.counts["failed"],
            "letters": row.open_letters,
            "paused at": pause and pause.paused_at,
            "by": pause.paused_by if pause else "",
            "reason": pause.reason if pause else "",
        }
        yield (
            shown,
            {
                "process": row.process,
                "kind": row.kind or None,
                "started": row.counts["started"],
                "failed": row.counts["failed"],
                "open_letters": row.open_letters,
                "paused_at": plain(pause.paused_at) if pause else None,
                "paused_by": pause.paused_by if pause else None,
                "reason": pause.reason if pause else None,
            },
        )


def _groups(shell: Shell, most: int) -> Iterator[Line]:
    status, process = shell.options["status"] or "open", shell.options["process"]
    if status not in ("open", "any"):
        raise Usage(f"groups have no status {status!r}; they have: open, any.")
    found = letter_groups.groups(
        process=process_named(process, policies=True) if process else None,
        only_open=status == "open",
        most=most,
    )
    for group in found.shown:
        columns = {
            "id": group.id,
            "process": group.process,
            "place": group.place,
            "name": group.name,
            "exception": group.exception,
            "open": group.open,
            "died": group.died,
        }
        lately = sum(group.series)
        shown = {**columns, "in 24 h": lately, "first": group.first_at, "last": group.last_at}
        moments = {"first_at": plain(group.first_at), "last_at": plain(group.last_at)}
        yield shown, {**columns, "died_in_24_hours": lately, **moments}


def _bulks(shell: Shell, most: int) -> Iterator[Line]:
    rows = BulkAction.objects.using(get_settings().database).order_by("-pk")
    for bulk_id in rows.values_list("pk", flat=True)[:most]:
        found = bulk.progress(bulk_id)
        conditions = ", ".join(f"{name}={value}" for name, value in found.conditions.items())
        shown = {
            "id": found.id,
            "verb": found.verb,
            "letters": conditions or "all open ones",
            "came to": str(found),
            "by": found.by,
            "reason": found.reason,
            "asked at": found.asked_at,
            "ended at": found.ended_at,
        }
        yield shown, told_of_bulk(found)


SUMMARIES: dict[str, tuple[Callable[[Shell, int], Iterator[Line]], tuple[str, ...]]] = {
    "processes": (_processes, ()),
    "groups": (_groups, ("process", "status")),
    "bulks": (_bulks, ()),
}
