"""Which rows are meant: by id, by process and key, by process and status. Names that are mistyped are told
with the nearest one."""

from __future__ import annotations

import difflib
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.utils.dateparse import parse_datetime
from django.utils.timezone import get_current_timezone, is_naive

from pm_celery import clock, registry
from pm_celery.conf import get_settings
from pm_celery.durations import parse_duration
from pm_celery.models import InboxMessage, Instance, Pause
from pm_celery.models.instances import InstanceStatus
from pm_celery.shell.asking import Shell, Subject, Usage
from pm_celery.walking import RANGE, newest_first

__all__ = [
    "LARGEST_ID",
    "STATUSES",
    "add_instances",
    "duration",
    "event_named",
    "instance_of",
    "instances",
    "one_instance",
    "process_named",
    "text_given",
    "when",
]

STATUSES = list(InstanceStatus.values)
LARGEST_ID = 2**63 - 1
_AT_ONCE = 500


def nearest(name: str, known: Iterable[str]) -> str:
    """The remedy for a name that is not known."""
    names = sorted(set(known))
    # Whoever leaves the app's label out means the one behind the point.
    near = [full for full in names if full.rpartition(".")[2].lower() == name.lower()]
    near = near or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known: {', '.join(names)}." if names else "None is declared."


def process_named(name: str, *, policies: bool = False) -> str:
    """A process by its name; one that this release no longer declares, if there are rows of it."""
    known = [item.name for item in registry.listeners if policies or item.kind == "process"]
    if name in known:
        return name
    alias = get_settings().database
    if (
        Instance.objects.using(alias).filter(process=name).exists()
        or InboxMessage.objects.using(alias).of_instances().filter(process=name).exists()
        or Pause.objects.using(alias).filter(process=name).exists()
    ):
        return name
    raise Usage(f"There is no process {name!r}. {nearest(name, known)}")


def event_named(name: str) -> Any:
    """The declaration of an event by its wire name."""
    found = registry.messages.get(name)
    if found is None or found.kind != "event":
        events = [item.name for item in registry.messages if item.kind == "event"]
        raise Usage(f"There is no event {name!r}. {nearest(name, events)}")
    return found


def text_given(text: str) -> str:
    """An argument that may be long: as it is, ``@file``, or ``-`` for the standard input."""
    try:
        if text == "-":
            return sys.stdin.read()
        return Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
    except OSError as error:
        raise Usage(f"{error.filename}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise Usage(f"{text}: {error}.") from None


def duration(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise Usage(f"{error}.") from None


def when(text: str, *, ahead: bool = False) -> datetime:
    """A moment: ISO 8601 (in the project's time zone if it names none), or a duration back from now, or
    ``ahead`` of it."""
    try:
        found = parse_datetime(text)
    except ValueError:
        found = None
    if found is not None:
        return found.replace(tzinfo=get_current_timezone()) if is_naive(found) else found
    try:
        span = parse_duration(text)
    except ValueError:
        raise Usage(
            f"{text!r} is no moment: write one like '2026-01-31T12:00:00Z', or a duration like '2h'."
        ) from None
    return clock.now() + span if ahead else clock.now() - span


# -- instances --------------------------------------------------------------------------------------


def add_instances(parser: ArgumentParser, *, several: bool = True) -> None:
    """The arguments that say which instances."""
    parser.add_argument(
        "instance",
        nargs="*" if several else "+",
        metavar="INSTANCE",
        help="ids; or the name of a process and then keys",
    )
    if several:
        parser.add_argument("--process", metavar="NAME", help="all of a process, with --status")
        parser.add_argument(
            "--status", choices=["started", "failed"], help="all of the process that are that"
        )
        parser.add_argument("--dry-run", action="store_true", help="say which, and do nothing")


def instances(shell: Shell) -> list[Subject]:
    """The instances that the arguments name. Raises ``Usage`` where one of them is not there."""
    given: list[str] = shell.options["instance"]
    process, status = shell.options.get("process"), shell.options.get("status")
    if given and (process or status):
        raise Usage("Name instances, or give --process and --status; not both.")
    if given:
        return [_subject(row.pk, row.process, row.key) for row in _named(given)]
    if not (process and status):
        raise Usage("Which instances? Give ids, or a process and keys, or --process and --status.")
    return list(_of_status(shell, process_named(process), status))


def one_instance(shell: Shell) -> Instance:
    found = _named(shell.options["instance"])
    if len(found) != 1:
        raise Usage("Name one instance: its id, or its process and key.")
    return found[0]


def instance_of(process: str, key: str) -> Instance:
    return _named([process, key])[0]


def _named(given: list[str]) -> list[Instance]:
    rows = Instance.objects.using(get_settings().database)
    if all(text.isascii() and text.isdigit() for text in given):
        ids = [int(text) for text in given]
        by_id = rows.in_bulk([id_ for id_ in ids if id_ <= LARGEST_ID])
        missing = [id_ for id_ in ids if id_ not in by_id]
        if missing:
            raise Usage(f"There is no instance {missing[0]}.")
        return [by_id[id_] for id_ in ids]
    process, keys = process_named(given[0]), given[1:]
    if not keys:
        raise Usage(f"Which instances of {process}? Give keys behind it.")
    by_key = {row.key: row for row in rows.filter(process=process, key__in=keys)}
    for key in keys:
        if key not in by_key:
            raise Usage(f"{process} has no instance {key!r}.")
    return [by_key[key] for key in keys]


def _of_status(shell: Shell, process: str, status: str) -> Iterator[Subject]:
    """The oldest first. What has ended cannot be changed, and what was given up has ended."""
    rows = Instance.objects.using(get_settings().database)
    fitting = rows.filter(process=process, status=status, ended_at=None)
    ids: list[int] = []
    with shell.bar("looking at instances") as bar:
        for found in newest_first(fitting, LARGEST_ID):
            ids += found
            bar.step(RANGE)
    ids.reverse()
    for start in range(0, len(ids), _AT_ONCE):
        part = fitting.filter(pk__in=ids[start : start + _AT_ONCE]).order_by("pk")
        for id_, key in part.values_list("pk", "key"):
            yield _subject(id_, process, key)


def _subject(id_: int, process: str, key: str) -> Subject:
    return Subject(id_, f"{process} {key} ({id_})", {"id": id_, "process": process, "key": key})
