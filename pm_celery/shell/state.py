"""``pm status``, ``pm health``, ``pm check``: how things stand."""

from __future__ import annotations

from itertools import islice
from typing import Any

from django.core import checks

from pm_celery.conf import get_settings
from pm_celery.export import plain
from pm_celery.models.instances import InstanceStatus
from pm_celery.operations.health import Health
from pm_celery.operations.health import health as ask_health
from pm_celery.operations.overview import MOST_COUNTED, Overview, ProcessRow, overview
from pm_celery.operations.unreadable import Unreadable, unreadable
from pm_celery.shell.asking import DONE, REFUSED, Family, Shell
from pm_celery.shell.printing import ago
from pm_celery.shell.selecting import process_named

__all__ = ["add"]


def add(family: Family) -> None:
    family.add(
        "status", status, "Each process with its counts; how late things are; what is wrong."
    )
    family.add("health", health, "Whether all is well: exit code 0, or 1 and what is wrong.")
    check = family.add(
        "check",
        check_project,
        "The package's system checks, those of the database as well; and the rows that this code could not "
        "handle: states that it cannot load, messages and commands that it cannot decode.",
    )
    check.add_argument(
        "--fail-level",
        choices=["warning", "error"],
        default="error",
        help="from which level on the exit code is 1 (error)",
    )
    check.add_argument("--no-rows", action="store_true", help="the system checks alone")
    check.add_argument("--process", metavar="NAME", help="rows of this process only")
    check.add_argument("--ended", action="store_true", help="instances that have ended as well")
    check.add_argument(
        "--limit", type=int, default=100, metavar="N", help="stop after so many rows (100)"
    )


def status(shell: Shell) -> int:
    found = overview()
    shell.out.document(
        {
            "processes": [_told(row) for row in found.processes],
            "timers_due": found.timers_due,
            **found.health.as_json(),
        }
    )
    if found.health.is_readable:
        shell.out.table(
            [
                "process",
                *(name.replace("_", " ") for name in InstanceStatus.values),
                "today",
                "letters",
                "oldest",
                "",
            ],
            [_shown(row, found) for row in found.processes],
        )
        shell.out.line()
        _lags(shell, found)
    _problems(shell, found.health)
    return DONE if found.health.is_readable else REFUSED


def _told(row: ProcessRow) -> dict[str, Any]:
    return {
        "process": row.process,
        "kind": row.kind,
        **row.counts,
        "began_today": row.began_today,
        "open_letters": row.open_letters,
        "oldest": row.oldest and {"key": row.oldest.key, "began": plain(row.oldest.started_at)},
        "handled_last_hour": sum(row.last_hour.handled),
        "failed_last_hour": sum(row.last_hour.failed),
        "paused": row.pause is not None,
    }


def _shown(row: ProcessRow, found: Overview) -> list[object]:
    return [
        # Without a name: events that are not routed yet.
        row.process or "-",
        *(row.counts[name] for name in InstanceStatus.values),
        row.began_today,
        row.open_letters,
        ago(found.at - row.oldest.started_at) if row.oldest else "",
        "paused" if row.pause else "" if row.kind else "not declared",
    ]


def _lags(shell: Shell, found: Overview) -> None:
    last, lags = found.health.last_tick, found.health.lags
    tick = f"{ago(found.at - last)} ago" if last else "never"
    shell.out.line(f"{'last tick':<12}{tick}", "" if last else "ERROR")
    for sign in found.health.workers:
        shell.out.line(f"{'worker':<12}{sign.worker}, {ago(found.at - sign.at)} ago")
    for name, seconds in (("inbox", lags.inbox), ("outbox", lags.outbox), ("timers", lags.timers)):
        late = f"{seconds:.1f} s late" if seconds > 1 else "nothing late"
        shell.out.line(f"{name:<12}{late}")
    hour = found.courses[0]
    lately = f"{sum(hour.handled)} messages handled, {sum(hour.failed)} runs failed"
    shell.out.line(f"{'last hour':<12}{lately}")
    if found.timers_due:
        many = " or more" if found.timers_due >= MOST_COUNTED else ""
        shell.out.line(f"{'due':<12}{found.timers_due}{many} timers and timeouts")


def health(shell: Shell) -> int:
    found = ask_health()
    shell.out.document(found.as_json())
    _problems(shell, found)
    if not found.problems:
        shell.out.line("All is well.", "SUCCESS")
    return DONE if found.is_ok else REFUSED


def _problems(shell: Shell, found: Health) -> None:
    for problem in found.problems:
        shell.out.line(f"{problem.code}: {problem.text}", "ERROR" if problem.grave else "WARNING")


def check_project(shell: Shell) -> int:
    found = checks.run_checks(
        tags=["pm_celery"], include_deployment_checks=False, databases=[_alias()]
    )
    found = [message for message in found if not message.is_silenced()]
    may_look = not shell.options["no_rows"] and not {m.id for m in found} & _NO_ROWS
    rows, is_cut = _rows(shell) if may_look else ([], False)
    shell.out.document(
        [
            {"id": m.id, "level": _level(m), "text": str(m.msg), "hint": str(m.hint or "")}
            for m in found
        ]
        + [_unreadable(row) for row in rows]
    )
    for message in found:
        style = "ERROR" if message.level >= checks.ERROR else "WARNING"
        shell.out.line(f"{message.id}  {message.msg}", style)
        if message.hint:
            shell.out.line(f"    {message.hint}")
    for row in rows:
        told = _unreadable(row)
        shell.out.line(told["text"], "ERROR")
        shell.out.line(f"    {told['hint']}")
    if not found and not rows:
        shell.out.line("Nothing is wrong.", "SUCCESS")
    if is_cut:
        shell.out.note("There may be more: --limit says how many are shown.")
    worst = max((message.level for message in found), default=0)
    if rows:
        return REFUSED
    limit = checks.WARNING if shell.options["fail_level"] == "warning" else checks.ERROR
    return REFUSED if worst >= limit else DONE


# Without usable settings, or tables, there is nothing to look at.
_NO_ROWS = {"pm_celery.E030", "pm_celery.E045"}


def _rows(shell: Shell) -> tuple[list[Unreadable], bool]:
    """Rows that this code could not handle, and whether there may be more."""
    options = shell.options
    process = process_named(options["process"], policies=True) if options["process"] else ""
    limit = max(1, options["limit"])
    with shell.bar("looking at rows") as bar:
        found = unreadable(process=process, ended=options["ended"], looked_at=bar.step)
        rows = list(islice(found, limit + 1))
    return rows[:limit], len(rows) > limit


def _unreadable(row: Unreadable) -> dict[str, Any]:
    what = " ".join(filter(None, (row.kind, str(row.id), row.process, row.key, row.name)))
    hint = (
        "It would wait for a release that knows it."
        if row.waits
        else "It would be a dead letter: docs/how-to/upgrades.md tells what to write."
    )
    return {
        "id": "unreadable",
        "level": "error",
        "text": f"{what}, version {row.version}: {row.text}",
        "hint": hint,
        "row": {name: getattr(row, name) for name in row.__dataclass_fields__ if name != "text"},
    }


def _alias() -> str:
    try:
        return get_settings().database
    except Exception:  # noqa: BLE001 -- what is wrong with them is what a check says
        return "default"


def _level(message: checks.CheckMessage) -> str:
    return "error" if message.level >= checks.ERROR else "warning"
