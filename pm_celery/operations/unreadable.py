"""What this release could not read of what others have stored: asked before a deploy, or a way back.

Every state and payload is tried, for whether one validates only its own values tell. However many rows there
are, the same memory holds a portion of them; each statement reads along an index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pm_celery import clock, redaction, registry
from pm_celery.conf import get_settings
from pm_celery.deciding import given
from pm_celery.definitions import ProcessDefinition
from pm_celery.exceptions import UnknownMessage
from pm_celery.keys import PARTITIONS
from pm_celery.models import InboxMessage, Instance, OutboxCommand, Timer
from pm_celery.rows import InboxRow, NewMessage
from pm_celery.timers import timer_message
from pm_celery.walking import portions
from pm_celery.wording import name_of, text_of

__all__ = ["Unreadable", "unreadable"]

# So many long texts are in memory at once.
_AT_ONCE = 200
_ROW = list(InboxRow.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that this release could not handle.

    kind: "instance", "message", "timer" or "command". name: of the message, timer or command. version: of its
    payload or state. waits: it would be left for a newer release; else it would be a failure. text: why,
    without what is not to be shown.
    """

    kind: str
    id: int
    process: str
    key: str
    name: str
    version: int
    waits: bool
    text: str


LookedAt = Callable[[int], None]


def unreadable(
    *, process: str = "", ended: bool = False, looked_at: LookedAt | None = None
) -> Iterator[Unreadable]:
    """The instances of a process, or of all, that this release could not load; and the open messages, timers
    and commands that it could not decode.

    ended: the instances that have ended as well, which nothing but pages and exports reads.
    looked_at: is told how many rows were looked at meanwhile.
    """
    tell = looked_at or (lambda count: None)
    yield from _instances(process, ended, tell)
    yield from _messages(process, tell)
    yield from _timers(process, tell)
    yield from _commands(process, tell)


# -- instances --------------------------------------------------------------------------------------


def _instances(process: str, ended: bool, looked_at: LookedAt) -> Iterator[Unreadable]:
    rows = Instance.objects.using(get_settings().database)
    for portion in portions(rows.all(), "pk", "process", "ended_at"):
        ids = [
            row["pk"]
            for row in portion
            if (not process or row["process"] == process) and (ended or row["ended_at"] is None)
        ]
        for start in range(0, len(ids), _AT_ONCE):
            found = rows.filter(pk__in=ids[start : start + _AT_ONCE]).order_by("pk")
            for instance in found:
                yield from _instance(instance)
        looked_at(len(portion))


def _instance(instance: Instance) -> Iterator[Unreadable]:
    yield from _tried(
        lambda: _load(instance),
        Tried("instance", instance.pk, instance.process, instance.key, "", instance.state_version),
        state=instance.state,
    )
    if instance.status == "failed" and instance.ended_at is None:
        # What it has parked is in no index of what is due.
        rows = InboxMessage.objects.using(get_settings().database)
        parked = rows.of_instance(instance.process, instance.key).filter(status="parked")
        for values in parked.values_list(*_ROW).iterator(_AT_ONCE):
            yield from _message(InboxRow(*values))


def _load(instance: Instance) -> None:
    definition = registry.listeners.get(instance.process)
    if not isinstance(definition, ProcessDefinition):
        raise UnknownMessage(f"this release declares no process {instance.process}")
    definition.load(instance.state, instance.state_version)


# -- what is open -----------------------------------------------------------------------------------


def _messages(process: str, looked_at: LookedAt) -> Iterator[Unreadable]:
    rows = InboxMessage.objects.using(get_settings().database).open()
    for partition in range(PARTITIONS):
        of_partition = rows.filter(partition=partition)
        for portion in portions(of_partition, "due_at", *_ROW, size=_AT_ONCE):
            for row in portion:
                if not process or row["process"] == process:
                    yield from _message(InboxRow(**{name: row[name] for name in _ROW}))
            looked_at(len(portion))


def _message(row: InboxRow) -> Iterator[Unreadable]:
    yield from _tried(
        lambda: _give(row),
        Tried("message", row.id, row.process, row.key, row.name, row.version),
        row.payload,
        of=row.kind,
    )


def _give(row: InboxRow | NewMessage) -> None:
    listener = registry.listeners.get(row.process)
    if listener is not None:
        given(listener, row)
        return
    declared = registry.messages.get(row.name)
    if row.process or declared is None:
        raise UnknownMessage(
            f"this release declares no process {row.process}"
            if row.process
            else f"this release does not know the event {row.name}"
        )
    # Not routed yet.
    declared.decode(row.payload, row.version)


def _timers(process: str, looked_at: LookedAt) -> Iterator[Unreadable]:
    alias = get_settings().database
    standing = Timer.objects.using(alias).filter(fired_at=None)
    columns = ("instance_id", "name", "payload", "token")
    for portion in portions(standing, "due_at", *columns, size=_AT_ONCE):
        ids = {row["instance_id"] for row in portion}
        owners = Instance.objects.using(alias).only("process", "key", "partition").in_bulk(ids)
        for row in portion:
            owner = owners.get(row["instance_id"])
            if owner is not None and (not process or owner.process == process):
                yield from _timer(Timer(**{name: row[name] for name in (*columns, "pk")}), owner)
        looked_at(len(portion))


def _timer(timer: Timer, owner: Instance) -> Iterator[Unreadable]:
    yield from _tried(
        lambda: _give(timer_message(timer, owner, clock.now(), "")),
        Tried("timer", timer.pk, owner.process, owner.key, timer.name),
        timer.payload,
        of="timer",
    )


def _commands(process: str, looked_at: LookedAt) -> Iterator[Unreadable]:
    rows = OutboxCommand.objects.using(get_settings().database).unsettled()
    columns = ("process", "key", "kind", "name", "version", "payload")
    for portion in portions(rows, "due_at", *columns, size=_AT_ONCE):
        for row in portion:
            if row["kind"] == "command" and (not process or row["process"] == process):
                found = OutboxCommand(**{name: row[name] for name in (*columns, "pk")})
                yield from _command(found)
        looked_at(len(portion))


def _command(row: OutboxCommand) -> Iterator[Unreadable]:
    yield from _tried(
        lambda: _decode(row.name, row.payload, row.version),
        Tried("command", row.pk, row.process, row.key, row.name, row.version),
        row.payload,
    )


def _decode(name: str, payload: str, version: int) -> None:
    declared = registry.messages.get(name)
    if declared is None:
        raise UnknownMessage(f"this release does not know the command {name}")
    declared.decode(payload, version)


# -- one row ----------------------------------------------------------------------------------------


class Tried(NamedTuple):
    """The row that is tried, as :class:`Unreadable` names it."""

    kind: str
    id: int
    process: str
    key: str
    name: str
    version: int = 1


def _tried(
    read: Callable[[], object], row: Tried, payload: str = "", *, of: str = "", state: str = ""
) -> Iterator[Unreadable]:
    """Nothing, or what reading a row came to. of: the kind of message whose payload it is."""
    try:
        read()
    except Exception as error:  # noqa: BLE001 -- upcasts, upgrades and validators are the project's
        waits = isinstance(error, UnknownMessage)
        hide = redaction.hider(row.name, row.process, payload, kind=of, state=state)
        words = text_of(error, hide)
        text = words if waits else f"{name_of(error)}: {words}"
        yield Unreadable(**row._asdict(), waits=waits, text=text)
