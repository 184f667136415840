"""Instances as plain data, with all that belongs to them: for JSON Lines, one line for each."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from django.utils.module_loading import import_string

from pm_celery import clock
from pm_celery.conf import get_settings
from pm_celery.exceptions import SettingsError
from pm_celery.models import (
    DeadLetter,
    InboxMessage,
    Instance,
    Intervention,
    OutboxCommand,
    Timer,
    Transition,
)
from pm_celery.redaction import payload_shown, state_shown
from pm_celery.walking import portions

__all__ = ["as_line", "data_of", "documents", "exported", "in_handfuls", "keeper", "plain"]

# How many instances are held in memory at once: so many, or fewer that have so many transitions in all.
_MOST_INSTANCES = 100
_MOST_TRANSITIONS = 1000

_SURELY_SHALLOW = 100
_WITHIN = 400

Documents = list[dict[str, Any]]


def exported(
    *,
    process: str = "",
    statuses: Collection[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    raw: bool = False,
    looked_at: Callable[[int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """The instances of a process (or of all) in these statuses (or in any) as dicts, in the order in which
    they began; however many there are, in the same memory.

    since, until: those that last changed then or later, and before then.
    raw: with the values that ``PM_CELERY["REDACT"]`` and ``Sensitive`` hide.
    looked_at: is told how many rows were looked at meanwhile.
    """
    rows = Instance.objects.using(get_settings().database)
    columns = ("process", "status", "changed_at", "number")
    for portion in portions(rows.all(), "pk", *columns):
        found = [
            row
            for row in portion
            if (not process or row["process"] == process)
            and (not statuses or row["status"] in statuses)
            and (since is None or row["changed_at"] >= since)
            and (until is None or row["changed_at"] < until)
        ]
        for ids in in_handfuls([(row["pk"], row["number"]) for row in found]):
            yield from documents(list(rows.filter(pk__in=ids).order_by("pk")), raw=raw)
        if looked_at is not None:
            looked_at(len(portion))


def in_handfuls(
    rows: Sequence[tuple[int, int]],
    most: int = _MOST_INSTANCES,
    transitions: int = _MOST_TRANSITIONS,
) -> Iterator[list[int]]:
    """Ids of instances, given with their numbers of transitions: at most so many together, and fewer where
    they have so many transitions in all."""
    ids: list[int] = []
    weight = 0
    for id_, number in rows:
        ids.append(id_)
        weight += number
        if len(ids) >= most or weight >= transitions:
            yield ids
            ids, weight = [], 0
    if ids:
        yield ids


def documents(instances: Sequence[Instance], *, raw: bool = False) -> Documents:
    """Each instance with its transitions, commands, timers, dead letters and interventions, as plain data.

    raw: with the values that are not to be shown.
    """
    alias = get_settings().database
    ids = [instance.pk for instance in instances]

    def of(model: Any, *order: str) -> dict[int, list[Any]]:
        found = model._default_manager.using(alias).filter(instance_id__in=ids).order_by(*order)
        rows = defaultdict(list)
        for row in found:
            rows[row.instance_id].append(row)
        return rows

    transitions, commands = of(Transition, "number"), of(OutboxCommand, "pk")
    timers, letters = of(Timer, "due_at"), of(DeadLetter, "pk")
    interventions = of(Intervention, "pk")
    inbox = [step.inbox_id for steps in transitions.values() for step in steps if step.inbox_id]
    messages = InboxMessage.objects.using(alias).in_bulk(inbox)
    shown = _Shown(raw)
    return [
        {
            "process": instance.process,
            "key": instance.key,
            "id": instance.pk,
            "status": instance.status,
            "state": shown.state(instance.process, instance),
            "state_version": instance.state_version,
            "number": instance.number,
            "correlation_id": instance.correlation_id,
            "started_at": plain(instance.started_at),
            "changed_at": plain(instance.changed_at),
            "ended_at": plain(instance.ended_at),
            "timeout_at": plain(instance.timeout_at),
            "transitions": [
                _transition(instance, step, messages.get(step.inbox_id or 0), shown)
                for step in transitions[instance.pk]
            ],
            "commands": [_command(row, shown) for row in commands[instance.pk]],
            "timers": [_timer(instance, row, shown) for row in timers[instance.pk]],
            "letters": [_letter(row) for row in letters[instance.pk]],
            "interventions": [_intervention(row) for row in interventions[instance.pk]],
        }
        for instance in instances
    ]


class _Shown:
    """Payloads and states as data, with what is to be hidden or without."""

    def __init__(self, raw: bool) -> None:
        self._raw = raw

    def state(self, process: str, row: Instance | Transition) -> Any:
        shown = row.state if self._raw else state_shown(process, row.state, row.state_version)
        return data_of(shown)

    def payload(self, row: InboxMessage | OutboxCommand) -> Any:
        if self._raw:
            return data_of(row.payload)
        return data_of(
            payload_shown(row.name, row.process, row.payload, kind=row.kind, version=row.version)
        )

    def timer(self, process: str, row: Timer) -> Any:
        if self._raw:
            return data_of(row.payload)
        return data_of(payload_shown(row.name, process, row.payload, kind="timer"))


def data_of(text: str) -> Any:
    """JSON as data; other text, and what JSON cannot write again, as the text."""
    try:
        found = json.loads(text, parse_float=_finite, parse_constant=_finite)
        if text.count("[") + text.count("{") > _SURELY_SHALLOW:
            # What is as deep as Python can read is too deep to be written within something else.
            json.dumps(reduce(lambda inner, _: [inner], range(_WITHIN), found))
    except (ValueError, RecursionError):
        return text
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def plain(moment: datetime | None) -> str | None:
    """A moment in UTC, in the form of ISO 8601."""
    return moment.astimezone(UTC).isoformat() if moment else None


def _columns(row: Any, *names: str) -> dict[str, Any]:
    found = {name: getattr(row, name) for name in names}
    return {k: plain(v) if isinstance(v, datetime) else v for k, v in found.items()}


def _transition(
    instance: Instance, step: Transition, message: InboxMessage | None, shown: _Shown
) -> dict[str, Any]:
    payload = None if message is None else shown.payload(message)
    return {
        **_columns(step, "number", "kind", "name", "message_id", "handler"),
        "payload": payload,
        "payload_version": None if message is None else message.version,
        "state": shown.state(instance.process, step),
        "state_version": step.state_version,
        "status": step.status,
        "commands": data_of(step.commands),
        "timers": data_of(step.timers),
        **_columns(step, "correlation_id", "causation_id", "attempt", "duration", "recorded_at"),
    }


def _command(row: OutboxCommand, shown: _Shown) -> dict[str, Any]:
    return {
        "command_id": str(row.command_id),
        **_columns(row, "kind", "name", "version", "status", "reason"),
        "payload": shown.payload(row),
        **_columns(row, "due_at", "dispatches", "attempts", "correlation_id", "causation_id"),
        **_columns(row, "duration", "issued_at", "settled_at"),
    }


def _timer(instance: Instance, row: Timer, shown: _Shown) -> dict[str, Any]:
    payload = shown.timer(instance.process, row)
    return {**_columns(row, "name", "due_at", "fired_at"), "payload": payload}


def _letter(row: DeadLetter) -> dict[str, Any]:
    """What a letter holds was hidden when it was written."""
    return {
        **_columns(row, "id", "place", "name", "message_ref", "handler", "status", "attempts"),
        "payload": data_of(row.payload),
        **_columns(row, "exception", "error", "traceback", "failure_handler_error", "note"),
        **_columns(row, "died_at", "settled_at", "settled_by"),
    }


def _intervention(row: Intervention) -> dict[str, Any]:
    details = data_of(row.details)
    return {**_columns(row, "verb", "subject", "by", "reason", "at"), "details": details}


def as_line(document: dict[str, Any]) -> str:
    """A dict as a line of JSON Lines, with its end. In ASCII, which no terminal takes for a command."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False) + "\n"


# -- before they are removed ------------------------------------------------------------------------


def keeper() -> Callable[[Documents], object] | None:
    """What gets instances before they are removed, as ``PM_CELERY["EXPORT_BEFORE_PRUNE"]`` says.

    Raises ``SettingsError`` for a function that cannot be imported.
    """
    target = get_settings().export_before_prune
    if target is None or isinstance(target, Path):
        return None if target is None else lambda found: _write(target, found)
    try:
        found = import_string(target)
    except ImportError as error:
        raise SettingsError(f"PM_CELERY['EXPORT_BEFORE_PRUNE'] = {target!r}: {error}.") from None
    if not callable(found):
        raise SettingsError(f"PM_CELERY['EXPORT_BEFORE_PRUNE'] = {target!r} is no function.")
    return cast("Callable[[Documents], object]", found)


def _write(folder: Path, found: Documents) -> None:
    """A file for each portion, in a folder for each day. It gets its name once it is whole and on the disk,
    so a crash leaves nothing that ends in the middle of a line."""
    now = clock.now()
    day = folder / f"{now:%Y-%m-%d}"
    day.mkdir(parents=True, exist_ok=True)
    unfinished = day / f"{now:%H%M%S}-{uuid4().hex[:12]}.unfinished"
    with unfinished.open("x", encoding="ascii") as file:
        file.writelines(map(as_line, found))
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(unfinished.with_suffix(".jsonl"))
    _sync_folder(day)


def _sync_folder(folder: Path) -> None:
    """A name is on the disk once its folder is."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
