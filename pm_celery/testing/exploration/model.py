"""What may happen to a process that is explored: its events, and what must come before each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pm_celery.exceptions import InvalidMessage, Misuse
from pm_celery.messages import MessageType, encoded, message_type
from pm_celery.testing.memory.instance import Memory
from pm_celery.testing.scenario import Scenario

__all__ = ["Causes", "Faults", "Model", "Occurrence"]

Cause = Any
Causes = Mapping[Any, Cause] | Iterable[tuple[Any, Cause]]
Requirement = Callable[[Memory, int], bool]
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
    #: The name and payload of the commands that cause it.
    commands: set[tuple[str, str | None]]

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
            self.occurrences.append(Occurrence(event, 1 << index, [], 0, False, set()))
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
        declared = _declared(cause)
        if declared is None and callable(cause):
            occurrence.requires.append(lambda memory, _: bool(cause(Scenario(memory))))
        elif declared is None:
            raise Misuse(
                f"explore(…, causes=…): {cause!r} is no event, no command, and no function of a scenario."
            )
        elif declared.kind == "event":
            bits = sum(one.bit for one in self._those(cause, "causes"))
            occurrence.requires.append(lambda _, happened: bool(happened & bits))
        else:
            payload = None if isinstance(cause, type) else encoded(cause, "command")[1]
            wanted = declared.name, payload
            occurrence.commands.add(wanted)
            occurrence.requires.append(lambda memory, _: _is_under_way(memory, *wanted))

    def may_go_on(self, happened: int) -> bool:
        """Whether any event may come still, now or later."""
        return any(not happened & (one.bit | one.rivals) for one in self.occurrences)

    def has_caused(self, name: str, payload: str, happened: int) -> bool:
        """Whether an event has happened that this command causes: then it has run."""
        return any(
            happened & one.bit and one.commands & {(name, None), (name, payload)}
            for one in self.occurrences
        )


def _declared(what: object) -> MessageType | None:
    for kind in ("event", "command"):
        try:
            return message_type(what, kind)
        except InvalidMessage:
            continue
    return None


def _is(event: object, what: object) -> bool:
    return isinstance(event, what) if isinstance(what, type) else event == what


def _is_under_way(memory: Memory, name: str, payload: str | None) -> bool:
    return any(
        sent.row.name == name
        and sent.row.status in _UNDER_WAY
        and payload in (None, sent.row.payload)
        for sent in memory.outbox.values()
    )
