"""Sensitive fields: stored for the handlers, and hidden wherever people look.

What is hidden is said where a field is declared, by :data:`Sensitive`, or in ``PM_CELERY["REDACT"]``. Rows of
inbox, outbox, timers and instances keep the values, for handlers need them; pages, log lines and dead
letters show ``•••``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import CoreSchema, core_schema

from pm_celery import registry
from pm_celery.conf import get_settings
from pm_celery.exceptions import DeclarationError
from pm_celery.wording import Hide, nothing_hidden, printable, text_of

__all__ = [
    "HIDDEN",
    "Fields",
    "Sensitive",
    "concerns",
    "fields_of",
    "hider",
    "is_hidden",
    "marked",
    "payload_shown",
    "split",
    "state_shown",
    "told",
]

HIDDEN = "•••"
_MARK = "pm_celery_sensitive"
# pydantic cuts a long input out of its middle: what is left of it would not be found as a value.
_INPUT = re.compile(r"input_value=.*(, input_type=[\w.]+\])")
_INPUT_OF_LINES = re.compile(r"input_value=(?!•••).*?(, input_type=[\w.]+\])", re.DOTALL)
# A value of fewer characters is hidden where it stands alone: "12" is in every moment and line number.
_SHORT = 4
_MOST_VALUES = 1000
_DEEPEST = 50
# Of what has none.
_NO_VERSION = 0


class _Sensitive:
    """Marks a field of an event, command or process as not to be shown: ``Annotated[str, Sensitive]``."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        schema: Any = handler(source)
        if _writes_asterisks(schema):
            # pydantic's SecretStr and its like would be stored as asterisks.
            schema["serialization"] = core_schema.plain_serializer_function_ser_schema(
                lambda secret: secret.get_secret_value(), when_used="json-unless-none"
            )
        schema["metadata"] = {**(schema.get("metadata") or {}), _MARK: True}
        found: CoreSchema = schema
        return found

    def __repr__(self) -> str:
        return "Sensitive"


Sensitive = _Sensitive()


# -- which fields -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fields:
    """The names of a type's fields at any depth, and which of them are marked as sensitive."""

    names: frozenset[str]
    sensitive: frozenset[str]


def fields_of(adapter: TypeAdapter[Any], where: str) -> Fields:
    """What pydantic knows of a type's fields.

    Raises ``DeclarationError`` for pydantic's secret types without the mark: they would be stored as
    asterisks, and the value would be lost.
    """
    names: set[str] = set()
    sensitive: set[str] = set()
    for name, schema, is_marked, is_masked in _walk(adapter.core_schema, (), set()):
        names |= _aliases(name, schema)
        if is_marked:
            sensitive |= _aliases(name, schema)
        if is_masked:
            raise DeclarationError(
                f"{where}.{name} is one of pydantic's secrets, which are written as asterisks: its value "
                f"would be lost. Write {name}: Annotated[SecretStr, Sensitive]."
            )
    return Fields(frozenset(names), frozenset(sensitive))


_Found = tuple[str, Any, bool, bool]


def _walk(schema: Any, within: tuple[str, Any] | tuple[()], seen: set[int]) -> Iterator[_Found]:
    """The fields in a core schema, each with the marks that stand below it and in no field of its own."""
    if isinstance(schema, list | tuple):
        for item in schema:
            yield from _walk(item, within, seen)
        return
    if not isinstance(schema, dict) or id(schema) in seen:
        return
    seen.add(id(schema))
    metadata = schema.get("metadata")
    if isinstance(metadata, dict) and metadata.get(_MARK) and within:
        yield (*within, True, False)
    if _is_mask(schema.get("serialization")) and within:
        yield (*within, False, True)
    kind = schema.get("type")
    is_written_otherwise = "serialization" in schema and kind not in ("model", "dataclass")
    if kind in ("model-field", "dataclass-field", "typed-dict-field", "named-tuple-field"):
        # A named tuple is written as a list: its fields have no names there.
        name = schema.get("name")
        if name and kind != "named-tuple-field":
            within = (name, schema)
            yield name, schema, False, False
    for key, value in schema.items():
        if key in ("metadata", "serialization", "config", "cls"):
            continue
        if key == "fields" and isinstance(value, dict):
            for name, field in value.items():
                yield from _walk({"name": name, **field}, (name, field), seen)
        elif isinstance(value, dict | list | tuple):
            for found in _walk(value, within, seen):
                if not (found[3] and is_written_otherwise):
                    yield found


def _is_mask(serialization: Any) -> bool:
    function = serialization.get("function") if isinstance(serialization, dict) else None
    return getattr(function, "__module__", "") == "pydantic.types" and "secret" in getattr(
        function, "__name__", ""
    )


def _writes_asterisks(schema: Any) -> bool:
    return any(masked for *_, masked in _walk(schema, ("", {}), set()))


def _aliases(name: str, schema: Any) -> set[str]:
    found = {name}
    alias = schema.get("validation_alias")
    if isinstance(alias, str):
        found.add(alias)
    for path in alias if isinstance(alias, list) else ():
        found |= {
            step for step in (path if isinstance(path, list) else [path]) if isinstance(step, str)
        }
    return found


def split(pattern: str) -> tuple[str, str]:
    """A pattern of ``REDACT``: that of the message or process ("*" for any), and that of the field."""
    owner, _, field = pattern.rpartition(".")
    return owner or "*", field


def _matcher(owner: str, version: int | None = None) -> Callable[[str], bool] | None:
    """Whether a field of a message, process or timer is hidden; None where nothing is.

    version: of the payload or state in question; None: any that there was.
    """
    own = marked(owner)
    patterns = [
        field
        for name, field in map(split, get_settings().redact)
        if name == "*" or fnmatchcase(owner, name)
    ]
    if not own and not patterns:
        return None
    known = _names_today(owner, version)
    return lambda name: (
        name in own
        or (known is not None and name not in known)
        or any(fnmatchcase(name, pattern) for pattern in patterns)
    )


def _names_today(owner: str, version: int | None) -> frozenset[str] | None:
    """The fields of this release, for what may be of another version than its own; else None.

    In another version a sensitive field may have another name, and nothing says which one: so of what holds
    anything sensitive, no field is shown that this release does not know.
    """
    names: frozenset[str] | None = None
    for declared in (registry.messages.get(owner), registry.listeners.get(owner)):
        today = getattr(declared, "state_version", getattr(declared, "version", None))
        if today is None or version in (today, _NO_VERSION) or (version is None and today == 1):
            continue
        try:
            names = (names or frozenset()) | declared.fields.names  # type: ignore[union-attr]
        except Exception:  # noqa: BLE001 -- a declaration that is broken: nothing of it is known
            names = names or frozenset()
    return names


def marked(owner: str) -> frozenset[str]:
    """The names of the fields that a message or process marks as sensitive."""
    found: frozenset[str] = frozenset()
    for declared in (registry.messages.get(owner), registry.listeners.get(owner)):
        try:
            fields = getattr(declared, "fields", None)
        except Exception:  # noqa: BLE001 -- a declaration that is broken; a check says so
            continue
        found |= fields.sensitive if fields else frozenset()
    return found


def concerns(owner: str) -> bool:
    """Whether anything of this message or process may be hidden."""
    return _matcher(owner) is not None


def is_hidden(owner: str, name: str) -> bool:
    """Whether a field of a message or process is hidden."""
    matches = _matcher(owner)
    return matches is not None and matches(name)


# -- what is shown ----------------------------------------------------------------------------------


def state_shown(process: str, state: str, version: int | None = None) -> str:
    """A state's JSON text as people may see it. version: its own, None for any that there was."""
    return _shown(process, state, version)


def payload_shown(
    name: str, process: str, payload: str, *, kind: str = "", version: int | None = None
) -> str:
    """A payload's JSON text as people may see it. version: its own, None for any that there was."""
    if kind == "timer":
        matches = _matcher(process, _NO_VERSION)
        return HIDDEN if matches and matches(name) else _shown(process, payload, _NO_VERSION)
    notice = _notice(payload)
    if notice is not None:
        notice["payload"] = _shown(name, notice["payload"], version)
        return json.dumps(notice, ensure_ascii=False)
    return _shown(name, payload, version)


def _notice(payload: str) -> dict[str, Any] | None:
    """The notice of a failure, which holds the payload of what failed as text; None for anything else."""
    if '"letter"' not in payload or '"exception"' not in payload:
        return None
    try:
        data = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    is_notice = isinstance(data, dict) and {"letter", "exception", "name"} <= data.keys()
    return data if is_notice and isinstance(data.get("payload"), str) else None


def _shown(owner: str, text: str, version: int | None) -> str:
    matches = _matcher(owner, version)
    if matches is None or not text:
        return text
    values: set[str] = set()
    try:
        data = _without(json.loads(text), matches, values)
    except (ValueError, RecursionError):
        return HIDDEN
    return json.dumps(data, ensure_ascii=False) if values else text


def _without(data: Any, matches: Callable[[str], bool], values: set[str]) -> Any:
    """The data with what matches hidden; the texts of that are added to ``values``."""
    if isinstance(data, dict):
        shown = {}
        for key, value in data.items():
            if value is not None and matches(key):
                values |= set(_texts(value)) or {""}
                shown[key] = HIDDEN
            else:
                shown[key] = _without(value, matches, values)
        return shown
    if isinstance(data, list):
        return [_without(item, matches, values) for item in data]
    return data


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value
    elif not isinstance(value, bool) and value is not None:
        yield str(value)


# -- hiding values in texts -------------------------------------------------------------------------


def told(
    owner: str, error: BaseException, thing: object = None
) -> tuple[str, BaseException | None]:
    """An error's words for whoever published or decodes, and its cause: none where that tells too much.

    thing: what was to be written.
    """
    matches = _matcher(owner)
    if matches is None:
        return text_of(error), error
    values: set[str] = set()
    _without(_plain(thing, 0), matches, values)
    return text_of(error, _Hider(values)), None


def _plain(thing: Any, depth: int) -> Any:
    """What a message holds, as lists and dicts, though it could not be written as JSON."""
    if depth > _DEEPEST:
        return None
    if isinstance(thing, dict):
        return {str(name): _plain(value, depth + 1) for name, value in thing.items()}
    if isinstance(thing, list | tuple | set | frozenset):
        return [_plain(value, depth + 1) for value in thing]
    if hasattr(thing, "get_secret_value"):
        return _plain(thing.get_secret_value(), depth + 1)
    names = getattr(type(thing), "__dataclass_fields__", None) or getattr(
        type(thing), "model_fields", None
    )
    if names is None:
        return thing if thing is None or isinstance(thing, bool) else text_of(thing)
    return {name: _plain(getattr(thing, name, None), depth + 1) for name in names}


def hider(name: str, process: str, payload: str, *, kind: str = "", state: str = "") -> Hide:
    """What takes the sensitive values of a message, and of its instance's state, out of a text."""
    owner = process if kind == "timer" else name
    pairs = [(owner, payload), (process, state)]
    notice = _notice(payload)
    if notice is not None:
        pairs = [(name, notice["payload"]), (process, state)]
    # A timer's payload has no version; of all else it may be any.
    of_first = _NO_VERSION if kind == "timer" else None
    matchers = [
        (_matcher(owner, None if at else of_first), text) for at, (owner, text) in enumerate(pairs)
    ]
    if not any(matches for matches, _text in matchers):
        return nothing_hidden
    values: set[str] = set()
    for matches, text in matchers:
        if matches is None or not text:
            continue
        try:
            data = json.loads(text, parse_float=str, parse_int=str)
            if kind == "timer" and text == payload and matches(name):
                values |= set(_texts(data))
            _without(data, matches, values)
        except (ValueError, RecursionError):
            # It cannot be told where a value is: nothing of the text is shown.
            return lambda text: HIDDEN if text else text
    return _Hider(values)


class _Hider:
    def __init__(self, values: set[str]) -> None:
        written = {form for value in values for form in _forms(value) if form.strip()}
        self._is_too_much = len(written) > 4 * _MOST_VALUES
        ordered = sorted(written, key=len, reverse=True)
        self._values = None
        if ordered and not self._is_too_much:
            self._values = re.compile("|".join(map(_expression, ordered)))

    def __call__(self, text: str) -> str:
        if self._is_too_much:
            return HIDDEN if text else text
        text = _without_inputs(text)
        return self._values.sub(HIDDEN, text) if self._values else text


def _without_inputs(text: str) -> str:
    """pydantic's words without the values that it found."""
    if "input_value=" not in text:
        return text
    shown = rf"input_value={HIDDEN}\1"
    return _INPUT_OF_LINES.sub(shown, _INPUT.sub(shown, text))


def _forms(value: str) -> set[str]:
    """A value as it may be written in a text: as it is, in a repr, in JSON."""
    return {
        value,
        printable(value),
        repr(value)[1:-1],
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
    }


def _expression(value: str) -> str:
    expression = re.escape(value)
    return rf"(?<!\w){expression}(?!\w)" if len(value) < _SHORT else expression
