"""``pm timers fire | move | cancel``: timers by their ids, which ``pm list timers`` tells."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pm_celery.conf import get_settings
from pm_celery.models import Timer
from pm_celery.operations import timers as verbs
from pm_celery.shell.asking import Family, Shell, Subject, Usage
from pm_celery.shell.selecting import LARGEST_ID, when

__all__ = ["add"]

_VERBS: dict[str, tuple[Callable[..., Any], str, str]] = {
    "fire": (verbs.fire, "fired", "Let timers fire now."),
    "move": (verbs.move, "moved", "Let timers fire at another moment."),
    "cancel": (verbs.cancel, "cancelled", "Let timers not fire."),
}


def add(family: Family) -> None:
    inner = family.group("timers", "Fire, move or cancel timers.")
    for name, (verb, done, help_) in _VERBS.items():
        run = partial(_run, verb=verb, done=done)
        parser = inner.add(name, run, help_, is_verb=True, is_dangerous=name == "cancel")
        parser.add_argument("timer", nargs="+", type=int, metavar="TIMER", help="ids")
        parser.add_argument("--dry-run", action="store_true", help="say which, and do nothing")
        if name == "move":
            parser.add_argument(
                "--to", required=True, metavar="WHEN", help="a moment, or a duration from now: 2h"
            )


def _run(shell: Shell, *, verb: Callable[..., Any], done: str) -> int:
    subjects = _named(shell.options["timer"])
    if verb is verbs.move:
        return shell.each(subjects, verb, done, due_at=when(shell.options["to"], ahead=True))
    if verb is verbs.cancel and not shell.options["dry_run"]:
        shell.ask(f"Cancel {len(subjects)} timers?")
    return shell.each(subjects, verb, done)


def _named(ids: list[int]) -> list[Subject]:
    rows = Timer.objects.using(get_settings().database).select_related("instance")
    known = rows.in_bulk([id_ for id_ in ids if 0 < id_ <= LARGEST_ID])
    found = []
    for id_ in dict.fromkeys(ids):
        row = known.get(id_)
        if row is None:
            raise Usage(f"There is no timer {id_}: it was handled or cancelled, or never set.")
        process, key = row.instance.process, row.instance.key
        told = {"id": id_, "process": process, "key": key, "name": row.name}
        found.append(Subject(id_, f"timer {id_} {process} {key} {row.name}", told))
    return found
