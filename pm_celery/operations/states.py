"""States as people read them: each value with its type, and what one state has that another has not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.utils.translation import gettext as _

from pm_celery import registry
from pm_celery.definitions import ProcessDefinition
from pm_celery.redaction import HIDDEN, state_shown

__all__ = ["Change", "Line", "State", "Value", "diff", "initial_state", "lines", "read_state"]

LONGEST_VALUE = 300
_MOST_LINES = 1000
_DEEPEST = 20


@dataclass(frozen=True, slots=True)
class State:
    """A stored state, as it may be shown.

    data: its JSON, with what is not to be shown hidden; text where it is no JSON.
    decoded: the same as the process's own types; None where this release cannot read it.
    problem: why it cannot.
    """

    data: Any
    decoded: Any = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """A value as people may see it, and the name of its type: "Decimal", "str", "list"."""

    text: str
    type: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: None before for what was added, None after for what was removed."""

    path: str
    before: Value | None
    after: Value | None

    @property
    def sort(self) -> str:
        """added, removed or changed."""
        return "added" if self.before is None else "removed" if self.after is None else "changed"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a state that is printed: a value, or the name of what holds the next, deeper lines."""

    depth: int
    name: str
    value: Value


def read_state(process: str, text: str, version: int | None = None) -> State:
    """A stored state. It never fails: what cannot be decoded is shown as JSON, or else as text.

    version: in which it was written; None: in that of this release. One of another version is shown as it is
    stored, whether or not it can be upgraded.
    """
    shown = state_shown(process, text, version)
    try:
        data = json.loads(shown)
    except (ValueError, RecursionError):
        return State(shown, problem=_("it is no JSON"))
    definition = registry.listeners.get(process)
    if not isinstance(definition, ProcessDefinition):
        return State(data, problem=_("this release declares no such process"))
    today = definition.state_version
    if version is not None and version != today:
        told = _("it is of version %(version)s, and this release has version %(today)s")
        return State(data, problem=told % {"version": version, "today": today})
    try:
        return State(data, definition.load(text))
    except Exception as error:  # noqa: BLE001 -- the process's own validators may raise anything
        return State(data, problem=type(error).__name__)


def initial_state(process: str) -> State:
    """What an instance begins with; empty for a process that is not declared."""
    definition = registry.listeners.get(process)
    if isinstance(definition, ProcessDefinition):
        try:
            text = definition.dump(definition.initial())[0]
            return read_state(process, text, definition.state_version)
        except Exception:  # noqa: BLE001 -- factories of defaults are the project's
            return State({})
    return State({})


# -- values with their types ------------------------------------------------------------------------

# A JSON value, and the decoded one at the same place.
_Pair = tuple[Any, Any]


def _value(pair: _Pair) -> Value:
    data, decoded = pair
    if data == HIDDEN:
        return Value(HIDDEN, "")
    if isinstance(data, dict | list):
        text = json.dumps(data, ensure_ascii=False) if data else "{}" if data == {} else "[]"
        return Value(_cut(text), "dict" if isinstance(data, dict) else "list")
    kind = type(data if decoded is None else decoded)
    if isinstance(data, str) and kind is not str:
        return Value(_cut(data), kind.__name__)
    name = "" if data is None else kind.__name__
    return Value(_cut(json.dumps(data, ensure_ascii=False)), name)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _children(pair: _Pair) -> dict[str, _Pair]:
    data, decoded = pair
    if isinstance(data, dict):
        return {name: (value, _member(decoded, name)) for name, value in data.items()}
    same = isinstance(decoded, list | tuple) and len(decoded) == len(data)
    elements = decoded if same else [None] * len(data)
    return {str(at): (value, elements[at]) for at, value in enumerate(data)}


def _member(decoded: Any, name: str) -> Any:
    """A field of a dataclass or model, or an entry of a mapping; None where the types do not tell."""
    if isinstance(decoded, Mapping):
        for key in decoded:
            if key == name or str(key) == name:
                return decoded[key]
        return None
    known = getattr(type(decoded), "__dataclass_fields__", None) or getattr(
        type(decoded), "model_fields", {}
    )
    return getattr(decoded, name, None) if name in known else None


def _holds(data: Any) -> bool:
    return isinstance(data, dict | list) and bool(data)


# -- printing ---------------------------------------------------------------------------------------


def lines(state: State) -> list[Line]:
    """A state, a value a line; at most a thousand."""
    if not isinstance(state.data, dict):
        return [Line(0, "", Value(str(state.data)[:10_000], ""))]
    found: list[Line] = []
    for line in _lines((state.data, state.decoded), 0):
        if len(found) == _MOST_LINES:
            found.append(Line(0, "…", Value("", "")))
            break
        found.append(line)
    return found


def _lines(pair: _Pair, depth: int) -> Iterator[Line]:
    for name, child in _children(pair).items():
        if _holds(child[0]) and depth < _DEEPEST:
            kind = "dict" if isinstance(child[0], dict) else "list"
            yield Line(depth, name, Value("", kind))
            yield from _lines(child, depth + 1)
        else:
            yield Line(depth, name, _value(child))


# -- differences ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Diff:
    most: int
    changes: list[Change] = field(default_factory=list)
    total: int = 0

    def add(self, path: str, before: _Pair | None, after: _Pair | None) -> None:
        self.total += 1
        if len(self.changes) < self.most:
            self.changes.append(Change(path, before and _value(before), after and _value(after)))

    def compare(self, path: str, before: _Pair, after: _Pair, depth: int) -> None:
        old, new = before[0], after[0]
        if depth < _DEEPEST and isinstance(old, dict) and isinstance(new, dict):
            self._compare_dicts(path, before, after, depth)
        elif depth < _DEEPEST and isinstance(old, list) and isinstance(new, list):
            self._compare_lists(path, before, after, depth)
        elif old != new or type(old) is not type(new):
            self.add(path, before, after)

    def _compare_dicts(self, path: str, before: _Pair, after: _Pair, depth: int) -> None:
        old, new = _children(before), _children(after)
        for name in [*old, *(name for name in new if name not in old)]:
            below = f"{path}.{name}" if path else name
            if name not in new:
                self.add(below, old[name], None)
            elif name not in old:
                self.add(below, None, new[name])
            else:
                self.compare(below, old[name], new[name], depth + 1)

    def _compare_lists(self, path: str, before: _Pair, after: _Pair, depth: int) -> None:
        """What is the same at both ends is left out: mostly something was put at one of them."""
        old, new = list(_children(before).values()), list(_children(after).values())
        first = 0
        while first < min(len(old), len(new)) and old[first][0] == new[first][0]:
            first += 1
        last = 0
        shorter = min(len(old), len(new)) - first
        while last < shorter and old[-1 - last][0] == new[-1 - last][0]:
            last += 1
        left, right = old[first : len(old) - last], new[first : len(new) - last]
        for at in range(max(len(left), len(right))):
            below = f"{path}[{first + at}]"
            if at >= len(right):
                self.add(below, left[at], None)
            elif at >= len(left):
                self.add(below, None, right[at])
            else:
                self.compare(below, left[at], right[at], depth + 1)


def diff(before: State, after: State, most: int = 50) -> tuple[list[Change], int]:
    """At most so many differences between two states of one process, and how many there are in all."""
    found = _Diff(most)
    found.compare("", (before.data, before.decoded), (after.data, after.decoded), 0)
    return found.changes, found.total
