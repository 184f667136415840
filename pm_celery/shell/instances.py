"""``pm retry-instance``, ``pm cancel``, ``pm complete``, ``pm fire-timeout``: instances by id, by key, or by
process and status."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pm_celery.operations import instances as verbs
from pm_celery.shell.asking import Family, Shell
from pm_celery.shell.selecting import add_instances, instances

__all__ = ["add"]

_VERBS: dict[str, tuple[Callable[..., Any], str, str]] = {
    "retry-instance": (
        verbs.retry,
        "retried",
        "Retry the one dead letter because of which an instance has failed.",
    ),
    "cancel": (verbs.cancel, "cancelled", "End instances as cancelled."),
    "complete": (verbs.complete, "completed", "End instances as completed."),
    "fire-timeout": (verbs.fire_timeout, "let time out", "Let instances time out now."),
}


def add(family: Family) -> None:
    for name, (verb, done, help_) in _VERBS.items():
        run = partial(_run, name=name, verb=verb, done=done)
        add_instances(family.add(name, run, help_, is_verb=True, is_dangerous=True))


def _run(shell: Shell, *, name: str, verb: Callable[..., Any], done: str) -> int:
    subjects = instances(shell)
    if subjects and not shell.options["dry_run"]:
        what = subjects[0].title if len(subjects) == 1 else f"{len(subjects)} instances"
        shell.ask(f"{name.replace('-', ' ').capitalize()}: {what}?")
    return shell.each(subjects, verb, done)
