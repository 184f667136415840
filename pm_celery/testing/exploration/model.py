"""What may happen to a process that is explored: its events, and what must come before each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery.app.task import Task
from celery.canvas import Signature

from pm_celery.exceptions import InvalidMessage, Misuse
from pm_celery.messages import MessageType, encoded, message_type
from pm_celery.rows import CommandRow
from pm_celery.testing.memory.instance import Memory
from pm_celery.testing.memory.views import command_of
from pm_celery.testing.scenario import Scenario

__all__ = ["Causes", "Faults", "Model", "Occurrence"]

Cause = Any
Causes = Mapping[Any, Cause] | Iterable[tuple[Any, Cause]]
Requirement = Callable[[Memory, int], bool]
IsMeant = Callable[[CommandRow], bool]
# A command counts as a cause unless it never ran.
_UNDER_WAY = ("dispatched", "done")


@dataclass(frozen=True, slots=True)
class Faults:
    """How often something may go wrong still."""

    duplicates: int
    command_failures: int
    handler_failures: int


@dataclass(slots=True)
class Occurrence:
    """An event that may happen once.

    bit: its place in the number that tells which have happened.
    rivals: the bits of those of which only one happens.
    """

    event: object
    bit: int
    requires: list[Requirement]
    rivals: int
    may_be_missing: bool
    #: Which commands cause it.
    commands: list[IsMeant]

    def may_happen(self, memory: Memory, happened: int) -> bool:
        if happened & (self.bit | self.rivals):
            return False
        return all(is_met(memory, happened) for is_met in self.requires)


class Model:
    """The events that may happen, and what each needs to have happened before."""

    def __init__(
        self,
        events: Sequence[object],
        causes: Causes,
        alternatives: Iterable[Iterable[object]],
        missing: bool | Iterable[object],
    ) -> None:
        self.occurrences: list[Occurrence] = []
        for index, event in enumerate(events):
            encoded(event, "event")
            self.occurrences.append(Occurrence(event, 1 << index, [], 0, False, []))
        pairs = causes.items() if isinstance(causes, Mapping) else causes
        for what, cause in pairs:
            for occurrence in self._those(what, "causes"):
                for one in cause if isinstance(cause, list | tuple) else [cause]:
                    self._require(occurrence, one)
        for group in alternatives:
            found = [one for what in group for one in self._those(what, "alternatives")]
            together = sum({one.bit for one in found})
            for occurrence in found:
                occurrence.rivals |= together & ~occurrence.bit
        if isinstance(missing, bool):
            losable = self.occurrences if missing else []
        else:
            losable = [one for what in missing for one in self._those(what, "missing")]
        for occurrence in losable:
            occurrence.may_be_missing = True

    def _those(self, what: object, where: str) -> list[Occurrence]:
        """The events of a class, or those equal to one."""
        found = [one for one in self.occurrences if _is(one.event, what)]
        if not found:
            raise Misuse(
                f"explore(…, {where}=…): {what!r} is none of the events that are explored."
            )
        return found

    def _require(self, occurrence: Occurrence, cause: Cause) -> None:
        is_meant = _command_meant(cause)
        if is_meant is not None:
            occurrence.commands.append(is_meant)
            occurrence.requires.append(lambda memory, _: _is_under_way(memory, is_meant))
        elif _declared(cause) is not None:
            bits = sum(one.bit for one in self._those(cause, "causes"))
            occurrence.requires.append(lambda _, happened: bool(happened & bits))
        elif callable(cause):
            occurrence.requires.append(lambda memory, _: bool(cause(Scenario(memory))))
        else:
            raise Misuse(
                f"explore(…, causes=…): {cause!r} is no event, no command, and no function of a scenario."
            )

    def may_go_on(self, happened: int) -> bool:
        """Whether any event may come still, now or later."""
        return any(not happened & (one.bit | one.rivals) for one in self.occurrences)

    def has_caused(self, command: CommandRow, happened: int) -> bool:
        """Whether an event has happened that this command causes: then it has run."""
        return any(
            happened & one.bit and any(is_meant(command) for is_meant in one.commands)
            for one in self.occurrences
        )


def _command_meant(cause: Cause) -> IsMeant | None:
    """Which commands are the cause; None where it is no command."""
    if isinstance(cause, Task):
        return lambda row: row.kind == "signature" and row.name == cause.name
    if isinstance(cause, Signature):
        return lambda row: row.kind == "signature" and bool(command_of(row) == cause)
    declared = _declared(cause)
    if declared is None or declared.kind == "event":
        return None
    payload = None if isinstance(cause, type) else encoded(cause, "command")[1]
    return lambda row: row.name == declared.name and payload in (None, row.payload)


def _declared(what: object) -> MessageType | None:
    for kind in ("event", "command"):
        try:
            return message_type(what, kind)
        except InvalidMessage:
            continue
    return None


def _is(event: object, what: object) -> bool:
    return isinstance(event, what) if isinstance(what, type) else event == what


def _is_under_way(memory: Memory, is_meant: IsMeant) -> bool:
    return any(
        sent.row.status in _UNDER_WAY and is_meant(sent.row) for sent in memory.outbox.values()
    )
