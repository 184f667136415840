"""``pm commands dispatch | cancel``: commands by the ids that ``pm list outbox`` tells, or by command ids."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from pm_celery.conf import get_settings
from pm_celery.models import OutboxCommand
from pm_celery.operations import commands as verbs
from pm_celery.shell.asking import Family, Shell, Subject, Usage
from pm_celery.shell.selecting import LARGEST_ID

__all__ = ["add"]

_VERBS: dict[str, tuple[Callable[..., Any], str, str]] = {
    "dispatch": (verbs.dispatch, "dispatched", "Hand commands to Celery now."),
    "cancel": (verbs.cancel, "cancelled", "Let commands that were never dispatched not run."),
}


def add(family: Family) -> None:
    inner = family.group("commands", "Dispatch or cancel commands.")
    for name, (verb, done, help_) in _VERBS.items():
        run = partial(_run, verb=verb, done=done)
        parser = inner.add(name, run, help_, is_verb=True, is_dangerous=name == "cancel")
        parser.add_argument("command", nargs="+", metavar="COMMAND", help="ids, or command ids")
        parser.add_argument("--dry-run", action="store_true", help="say which, and do nothing")


def _run(shell: Shell, *, verb: Callable[..., Any], done: str) -> int:
    subjects = _named(shell.options["command"])
    if verb is verbs.cancel and not shell.options["dry_run"]:
        one = subjects[0].title if len(subjects) == 1 else f"{len(subjects)} commands"
        shell.ask(f"Cancel {one}?")
    return shell.each(subjects, verb, done)


def _named(given: list[str]) -> list[Subject]:
    found = {}
    for text in given:
        row = _row(text)
        if row is None:
            raise Usage(f"There is no command {text!r:.80}: pm list outbox tells ids.")
        title = " ".join(filter(None, (f"command {row.pk}", row.process, row.key, row.name)))
        told = {"id": row.pk, "process": row.process, "key": row.key, "name": row.name}
        found[row.pk] = Subject(row.pk, title, told)
    return list(found.values())


def _row(text: str) -> OutboxCommand | None:
    rows = OutboxCommand.objects.using(get_settings().database).defer("payload")
    if text.isascii() and text.isdigit() and len(text) < 20:
        return rows.filter(pk=int(text)).first() if int(text) <= LARGEST_ID else None
    try:
        return rows.filter(command_id=UUID(text)).first()
    except ValueError:
        return None
