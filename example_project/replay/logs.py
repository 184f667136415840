"""A whole log in memory, as small as it goes: what is to be published, in order, and what is not."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from replay.xes import LogEvent, in_timestamp_order, read

__all__ = ["Log", "key_of", "load"]

# An event id is the key, a colon and a position, and 255 characters long at most.
_LONGEST_KEY = 240


@dataclass
class Log:
    """What one reading of a file found."""

    #: The events to publish, cases interleaved by timestamp.
    events: list[LogEvent] = field(default_factory=list)
    #: How many events were left out because of their transition.
    ignored: int = 0
    #: All of the log, also those without events.
    cases: set[str] = field(default_factory=set)
    #: How often each occurs, in what is published and in what is not.
    activities: Counter[str] = field(default_factory=Counter)
    transitions: Counter[str] = field(default_factory=Counter)


def load(path: Path, transition: str | None) -> Log:
    """Read a log. Raises ``OSError`` and ``XesError``.

    transition: leave out events with any other one, and those that have none.
    """
    log = Log()
    log.events = in_timestamp_order(_wanted(path, transition, log))
    return log


def _wanted(path: Path, transition: str | None, log: Log) -> Iterator[LogEvent]:
    wanted = None if transition is None else transition.casefold()
    names: dict[str, str] = {}
    for event in read(path, cases=log.cases):
        log.activities[event.activity] += 1
        log.transitions[event.transition or ""] += 1
        if wanted is not None and (event.transition or "").casefold() != wanted:
            log.ignored += 1
            continue
        # One string for each activity, and no transition: a log may have millions of events.
        name = names.setdefault(event.activity, event.activity)
        yield LogEvent(event.case, event.position, name, None, event.timestamp)


def key_of(case: str) -> str:
    """A case's name as a correlation key; one that cannot be a key is cut, and told by its hash."""
    if case.strip() and case != "None" and len(case) <= _LONGEST_KEY:
        return case
    return f"{case.strip()[:200]}~{hashlib.sha256(case.encode()).hexdigest()[:32]}"
