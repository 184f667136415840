"""``pm show``: an instance, its state, and what happened to it."""

from __future__ import annotations

import json
from typing import Any

from django.utils.dateparse import parse_datetime

from pm_celery import clock
from pm_celery.export import documents
from pm_celery.models import Instance
from pm_celery.shell.asking import DONE, Family, Shell
from pm_celery.shell.printing import ago, moment
from pm_celery.shell.selecting import add_instances, one_instance

__all__ = ["add"]


def add(family: Family) -> None:
    parser = family.add("show", show, "An instance: its state, and what happened to it.")
    add_instances(parser, several=False)
    parser.add_argument(
        "--limit", type=int, default=50, metavar="N", help="the last N of each sort (50)"
    )


def show(shell: Shell) -> int:
    instance = one_instance(shell)
    limit = max(1, shell.options["limit"])
    (told,) = documents([instance], newest=limit)
    shell.out.document(told)
    if shell.out.as_json:
        return DONE
    _header(shell, instance)
    shell.out.title("state")
    shell.out.block(_pretty(told["state"]))
    shell.out.title("timeline")
    steps = _timeline(told)
    left_out = instance.number - len(told["transitions"])
    if left_out > 0:
        shell.out.line(f"… {left_out} earlier transitions; --limit says how many are shown")
    shell.out.table(["at", "#", "what", "name", "status", "by", "took"], [row for _, row in steps])
    _tables(shell, told)
    return DONE


def _header(shell: Shell, instance: Instance) -> None:
    now = clock.now()
    shell.out.line(f"{instance.process} {instance.key}", "MIGRATE_HEADING")
    style = {"failed": "ERROR", "completed": "SUCCESS"}.get(instance.status, "WARNING")
    shell.out.line(f"  {'status':<14} {instance.status}", style)
    rows: list[tuple[str, object]] = [
        ("id", instance.pk),
        ("started", f"{moment(instance.started_at)}, {ago(now - instance.started_at)} ago"),
        ("changed", f"{moment(instance.changed_at)}, {ago(now - instance.changed_at)} ago"),
        ("ended", moment(instance.ended_at)),
        ("times out", moment(instance.timeout_at)),
        ("correlation id", instance.correlation_id),
    ]
    for name, value in rows:
        if value != "":
            shell.out.line(f"  {name:<14} {value}")


def _timeline(told: dict[str, Any]) -> list[tuple[str, list[object]]]:
    """Transitions and what operators did, in the order of time."""
    steps = [
        (
            step["recorded_at"],
            [
                _at(step["recorded_at"]),
                step["number"],
                step["kind"],
                step["name"],
                step["status"],
                step["handler"],
                f"{1000 * step['duration']:.0f} ms" if step["duration"] is not None else "",
            ],
        )
        for step in told["transitions"]
    ]
    steps += [
        (
            entry["at"],
            [_at(entry["at"]), "", entry["verb"], entry["reason"], "", entry["by"], ""],
        )
        for entry in told["interventions"]
    ]
    return sorted(steps, key=lambda step: step[0])


def _tables(shell: Shell, told: dict[str, Any]) -> None:
    if told["commands"]:
        shell.out.title("commands")
        shell.out.table(
            ["command", "name", "status", "attempts", "due", "settled", "reason"],
            [
                [
                    row["command_id"],
                    row["name"],
                    row["status"],
                    row["attempts"],
                    _at(row["due_at"]),
                    _at(row["settled_at"]),
                    row["reason"],
                ]
                for row in told["commands"]
            ],
        )
    if told["timers"]:
        shell.out.title("timers")
        shell.out.table(
            ["name", "due", "fired"],
            [[row["name"], _at(row["due_at"]), _at(row["fired_at"])] for row in told["timers"]],
        )
    if told["letters"]:
        shell.out.title("dead letters")
        shell.out.table(
            ["id", "status", "place", "name", "exception", "error", "died"],
            [
                [
                    row["id"],
                    row["status"],
                    row["place"],
                    row["name"],
                    row["exception"],
                    row["error"],
                    _at(row["died_at"]),
                ]
                for row in told["letters"]
            ],
        )


def _at(text: str | None) -> str:
    return moment(parse_datetime(text)) if text else ""


def _pretty(data: Any) -> str:
    try:
        return json.dumps(data, indent=2, ensure_ascii=False)
    except RecursionError:
        return str(data)
