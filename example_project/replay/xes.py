"""A streaming reader for event logs in the XES format, plain or gzipped.

An XES log is XML: a ``<trace>`` is a case, and its ``<event>`` elements have ``concept:name``,
``time:timestamp`` and ``lifecycle:transition``. Real logs are large (74 MB for 262,200 events), so
the file is never held in memory, and it goes through ``xml.parsers.expat`` directly: that log took
1.9 to 3.1 s so, and 2.8 to 3.7 s with ``ElementTree.iterparse`` in the same runs.

The parser opens nothing but the file itself: expat does not fetch external entities unless asked,
and a log that declares entities of its own is refused. No real log does, and entities that
multiply ("billion laughs") are the one way in which a small file becomes a huge one.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast
from xml.parsers import expat

__all__ = ["NO_ACTIVITY", "LogEvent", "XesError", "in_timestamp_order", "read"]

#: The activity of an event that has no ``concept:name``.
NO_ACTIVITY = "(event without a name)"

_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 16
_EARLIEST = datetime.min.replace(tzinfo=UTC)

_Start = Callable[[str, dict[str, str]], None]
_End = Callable[[str], None]


class XesError(ValueError):
    """The file is no XES log, or not a whole one."""


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One event of a log; `position` counts the events of its case from 0, in the file's order."""

    case: str
    position: int
    activity: str
    transition: str | None
    timestamp: datetime | None


def read(path: str | Path, *, cases: set[str] | None = None) -> Iterator[LogEvent]:
    """The log's events, in the file's order; `cases` is filled with the names of all its traces."""
    cases = set() if cases is None else cases
    with Path(path).open("rb") as file:
        compressed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        if not compressed:
            yield from _parse(file, path, cases)
            return
        with gzip.open(file) as unpacked:
            yield from _parse(cast("BinaryIO", unpacked), path, cases)


def in_timestamp_order(events: Iterable[LogEvent]) -> list[LogEvent]:
    """All events by timestamp, cases interleaved; events of one moment stay as they came.

    An event without a timestamp takes that of the event before it in its case. A case that begins
    without timestamps begins at its first one; a case that has none comes first.
    """
    events = list(events)
    reached: dict[str, datetime] = {}
    for event in events:
        if event.timestamp is not None:
            reached.setdefault(event.case, event.timestamp)
    moments = []
    for event in events:
        if event.timestamp is not None:
            reached[event.case] = event.timestamp
        moments.append(reached.get(event.case, _EARLIEST))
    return [events[index] for index in sorted(range(len(events)), key=moments.__getitem__)]


def _parse(file: BinaryIO, path: str | Path, cases: set[str]) -> Iterator[LogEvent]:
    log = _Log(cases)
    parser = expat.ParserCreate()
    parser.StartElementHandler = log.root
    parser.EntityDeclHandler = log.refuse_entity
    log.parser = parser
    try:
        while True:
            chunk = file.read(_CHUNK)
            parser.Parse(chunk, not chunk)
            yield from log.take()
            if not chunk:
                return
    except expat.ExpatError as error:
        reason = f"no well-formed XML: {expat.ErrorString(error.code)}"
        raise XesError(f"{path}, line {error.lineno}: {reason}") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = f"the gzip file is damaged or not whole: {error}"
        raise XesError(f"{path}, line {parser.CurrentLineNumber}: {reason}") from error
    except _Refused as refused:
        raise XesError(f"{path}, line {parser.CurrentLineNumber}: {refused}") from refused.__cause__


class _Refused(Exception):
    """Well-formed XML that is no XES; what is wrong, without the file's name and the line."""


class _Log:
    """What the parser calls, and the events that came of it."""

    parser: expat.XMLParserType

    def __init__(self, cases: set[str]) -> None:
        self._cases = cases
        self._events: list[LogEvent] = []
        self._counts: dict[str, int] = {}
        self._traces = 0

    def take(self) -> list[LogEvent]:
        events, self._events = self._events, []
        return events

    def refuse_entity(self, name: str, *_: object) -> None:
        raise _Refused(f"a log has no use for entities of its own, and this one declares {name!r}")

    def root(self, name: str, attributes: dict[str, str]) -> None:
        """The first element: is it a log, and which prefix do its elements carry?"""
        prefix, colon, local = name.rpartition(":")
        if local != "log":
            raise _Refused(f"no XES log: the outermost element is <{name}>, not <log>")
        self.parser.StartElementHandler, self.parser.EndElementHandler = self._handlers(
            trace_tag=f"{prefix}{colon}trace", event_tag=f"{prefix}{colon}event"
        )

    def _handlers(self, trace_tag: str, event_tag: str) -> tuple[_Start, _End]:
        """The two functions that the parser calls for every element, over a million times a log.

        So what they remember is in local variables rather than attributes.
        """
        depth = 1  # of the element that is open: 1 the log, 2 a trace, 3 an event, 4 what it says
        case: str | None = None
        in_trace = in_event = False
        activity: str | None = None
        transition: str | None = None
        timestamp: datetime | None = None
        events: list[tuple[str | None, str | None, datetime | None]] = []

        def start(name: str, attributes: dict[str, str]) -> None:
            nonlocal depth, case, in_trace, in_event, activity, transition, timestamp
            depth += 1
            if depth == 4:
                if not in_event:
                    return
                key = attributes.get("key")
                if key == "concept:name":
                    activity = attributes.get("value")
                elif key == "time:timestamp":
                    timestamp = _moment(attributes.get("value", ""))
                elif key == "lifecycle:transition":
                    transition = attributes.get("value")
            elif depth == 3:
                if not in_trace:
                    return
                if name == event_tag:
                    in_event = True
                    activity = transition = timestamp = None
                elif attributes.get("key") == "concept:name":
                    case = attributes.get("value")
            elif depth == 2 and name == trace_tag:
                in_trace = True
                case = None

        def end(name: str) -> None:
            nonlocal depth, in_trace, in_event
            depth -= 1
            if depth == 2 and in_event:
                in_event = False
                events.append((activity, transition, timestamp))
            elif depth == 1 and in_trace:
                in_trace = False
                self._end_trace(case, events)
                events.clear()

        return start, end

    def _end_trace(
        self, case: str | None, events: list[tuple[str | None, str | None, datetime | None]]
    ) -> None:
        self._traces += 1
        case = case or f"(trace {self._traces} without a name)"
        self._cases.add(case)
        position = self._counts.get(case, 0)
        for activity, transition, timestamp in events:
            self._events.append(
                LogEvent(case, position, activity or NO_ACTIVITY, transition, timestamp)
            )
            position += 1
        self._counts[case] = position


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise _Refused(f"{text!r} is no timestamp") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
