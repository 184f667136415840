"""``pm status``, ``pm health``, ``pm check``: how things stand."""

from __future__ import annotations

from django.core import checks

from pm_celery import clock, ticks
from pm_celery.conf import get_settings
from pm_celery.models.instances import InstanceStatus
from pm_celery.shell import reading
from pm_celery.shell.asking import DONE, REFUSED, Family, Shell
from pm_celery.shell.printing import ago

__all__ = ["add"]


def add(family: Family) -> None:
    family.add(
        "status", status, "Each process with its counts; how late things are; the last tick."
    )
    family.add("health", health, "Whether all is well: exit code 0, or 1 and what is wrong.")
    check = family.add(
        "check", check_project, "The package's system checks, those of the database as well."
    )
    check.add_argument(
        "--fail-level",
        choices=["warning", "error"],
        default="error",
        help="from which level on the exit code is 1 (error)",
    )


def status(shell: Shell) -> int:
    rows, late, last = reading.processes(), reading.lags(), ticks.last_tick()
    shell.out.document(
        {
            "processes": [
                {
                    "process": row.process,
                    **{name: row.counts.get(name, 0) for name in InstanceStatus.values},
                    "began_today": row.began_today,
                    "open_letters": row.open_letters,
                    "paused": row.paused,
                }
                for row in rows
            ],
            "lag": late,
            "last_tick": last.isoformat() if last else None,
        }
    )
    headers = ["process", *InstanceStatus.values, "in 24 h", "letters", ""]
    shell.out.table(
        headers,
        [
            [
                row.process,
                *(row.counts.get(name, 0) for name in InstanceStatus.values),
                row.began_today,
                row.open_letters,
                "paused" if row.paused else "",
            ]
            for row in rows
        ],
    )
    shell.out.line()
    tick = f"{ago(clock.now() - last)} ago" if last else "never"
    shell.out.line(f"last tick   {tick}", "" if last else "ERROR")
    for name, seconds in late.items():
        shell.out.line(f"{name:<10}  {f'{seconds:.1f} s late' if seconds > 1 else 'nothing late'}")
    return DONE


def health(shell: Shell) -> int:
    found = reading.health()
    shell.out.document({"ok": found.is_ok, "problems": list(found.problems), **found.told})
    for problem in found.problems:
        shell.out.line(problem, "ERROR")
    if found.is_ok:
        shell.out.line("All is well.", "SUCCESS")
    return DONE if found.is_ok else REFUSED


def check_project(shell: Shell) -> int:
    found = checks.run_checks(
        tags=["pm_celery"], include_deployment_checks=False, databases=[_alias()]
    )
    found = [message for message in found if not message.is_silenced()]
    shell.out.document(
        [
            {"id": m.id, "level": _level(m), "text": str(m.msg), "hint": str(m.hint or "")}
            for m in found
        ]
    )
    for message in found:
        style = "ERROR" if message.level >= checks.ERROR else "WARNING"
        shell.out.line(f"{message.id}  {message.msg}", style)
        if message.hint:
            shell.out.line(f"    {message.hint}")
    if not found:
        shell.out.line("Nothing is wrong.", "SUCCESS")
    worst = max((message.level for message in found), default=0)
    limit = checks.WARNING if shell.options["fail_level"] == "warning" else checks.ERROR
    return REFUSED if worst >= limit else DONE


def _alias() -> str:
    try:
        return get_settings().database
    except Exception:  # noqa: BLE001 -- what is wrong with them is what a check says
        return "default"


def _level(message: checks.CheckMessage) -> str:
    return "error" if message.level >= checks.ERROR else "warning"
