"""What ``expect()`` compares, and how it tells what differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from pm_celery.durations import Duration, parse_duration

__all__ = ["Expected", "differences"]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a test expects; None for what it says nothing about."""

    status: str | None
    state: Mapping[str, object] | None
    commands: Iterable[object] | None
    timers: Mapping[str, Duration | datetime] | None
    skipped: Iterable[object] | None
    parked: Iterable[object] | None
    handlers: Iterable[str] | None


class Found(Protocol):
    """A scenario."""

    @property
    def status(self) -> str | None: ...
    @property
    def state(self) -> object: ...
    @property
    def now(self) -> datetime: ...
    @property
    def commands(self) -> list[Any]: ...
    @property
    def timers(self) -> dict[str, datetime]: ...
    @property
    def skipped(self) -> list[Any]: ...
    @property
    def parked(self) -> list[Any]: ...
    @property
    def transitions(self) -> list[Any]: ...


def differences(expected: Expected, found: Found) -> list[str]:
    """What is not as expected, line by line; nothing if all is."""
    lines: list[str] = []
    if expected.status is not None and expected.status != found.status:
        lines.append(f"status: expected {expected.status!r}, found {found.status!r}")
    for name, value in (expected.state or {}).items():
        there = getattr(found.state, name)
        if there != value:
            lines.append(f"state.{name}: expected {value!r}, found {there!r}")
    if expected.commands is not None:
        lines += _of_lists("commands", list(expected.commands), found.commands)
    if expected.timers is not None:
        lines += _of_timers(expected.timers, found)
    if expected.skipped is not None:
        wanted = list(expected.skipped)
        pairs = [
            noted if isinstance(one, tuple) else noted.message
            for one, noted in _beside(wanted, found.skipped)
        ]
        lines += _of_lists("skipped", wanted, pairs)
    if expected.parked is not None:
        lines += _of_lists("parked", list(expected.parked), found.parked)
    if expected.handlers is not None:
        lines += _of_lists(
            "handlers", list(expected.handlers), [step.handler for step in found.transitions]
        )
    return lines


def _beside(wanted: list[Any], found: list[Any]) -> Iterator[tuple[Any, Any]]:
    for index, noted in enumerate(found):
        yield (wanted[index] if index < len(wanted) else (), noted)


def _of_timers(expected: Mapping[str, Duration | datetime], found: Found) -> Iterator[str]:
    wanted = {
        name: when if isinstance(when, datetime) else found.now + parse_duration(when)
        for name, when in expected.items()
    }
    for name in sorted(wanted.keys() | found.timers.keys()):
        due, there = wanted.get(name), found.timers.get(name)
        if there is None:
            yield f"timers: {name!r} is not set, expected {due:%Y-%m-%d %H:%M:%S}"
        elif due is None:
            yield f"timers: {name!r} is set, not expected: due {there:%Y-%m-%d %H:%M:%S}"
        elif due != there:
            yield (
                f"timers: {name!r} is due {there:%Y-%m-%d %H:%M:%S} (in {there - found.now}), expected "
                f"{due:%Y-%m-%d %H:%M:%S} (in {due - found.now})"
            )


def _of_lists(what: str, expected: list[Any], found: list[Any]) -> list[str]:
    if expected == found:
        return []
    lines = [f"{what}: expected {len(expected)}, found {len(found)}"]
    if len(expected) == len(found):
        lines = [f"{what}:"]
        if all(one in found for one in expected) and all(one in expected for one in found):
            lines = [f"{what}: the same in another order"]
    for index in range(max(len(expected), len(found))):
        if index >= len(found):
            lines.append(f"  [{index}] missing: {expected[index]!r}")
        elif index >= len(expected):
            lines.append(f"  [{index}] not expected: {found[index]!r}")
        elif expected[index] != found[index]:
            lines.append(f"  [{index}] expected: {expected[index]!r}")
            lines.append(f"  [{index}] found:    {found[index]!r}")
            lines += [f"        {line}" for line in _of_fields(expected[index], found[index])]
    return lines


def _of_fields(expected: Any, found: Any) -> Iterator[str]:
    """Which fields of two objects of one class differ."""
    if type(expected) is not type(found):
        return
    names = getattr(type(expected), "model_fields", None) or (
        [field.name for field in dataclasses.fields(expected)]
        if dataclasses.is_dataclass(expected)
        else []
    )
    for name in names:
        one, other = getattr(expected, name), getattr(found, name)
        if one != other:
            yield f"{name}: expected {one!r}, found {other!r}"
