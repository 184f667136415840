"""Events and commands: how they are declared, named, and turned into stored text and back.

A payload is encoded once, here, by pydantic; the row holds those very bytes, and what comes back from
them has been validated again.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, TypeVar, dataclass_transform, overload

import pydantic
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from pm_celery import registry
from pm_celery.conf import get_settings
from pm_celery.exceptions import (
    DeclarationError,
    InvalidMessage,
    UndecodablePayload,
    UnknownMessage,
)
from pm_celery.redaction import Fields, fields_of, told
from pm_celery.versions import LARGEST, StepFailed, brought_up, is_version, steps_of
from pm_celery.wording import name_of

__all__ = ["MessageType", "command", "encoded", "event", "message_type"]

T = TypeVar("T")
Kind = Literal["event", "command"]

CODEC_CONFIG = ConfigDict(
    # A dataclass checks nothing when it is built: publishing does.
    revalidate_instances="always",
    # JSON has no word for these; the default would store null.
    ser_json_inf_nan="strings",
    ser_json_bytes="base64",
    val_json_bytes="base64",
)
# PostgreSQL refuses U+0000 in text and in jsonb. A backslash that is itself escaped starts no escape.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
LONGEST_NAME = 200


class MessageType:
    """A declared event or command: its class, wire name, version and codec."""

    def __init__(self, cls: type, kind: Kind, name: str | None, version: int) -> None:
        self.cls = cls
        self.kind = kind
        self.given_name = name
        self.version = version

    @property
    def name(self) -> str:
        """The wire name: ``<app label>.<class name>`` unless the declaration gives one."""
        return (
            self.given_name or f"{registry.app_label_of(self.cls.__module__)}.{self.cls.__name__}"
        )

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        # Built when first needed: annotations may name classes declared further down in the module.
        adapter: TypeAdapter[Any] = TypeAdapter(self.cls)
        self._fields = fields_of(adapter, f"{self.cls.__module__}.{self.cls.__qualname__}")
        return adapter

    @property
    def fields(self) -> Fields:
        """Its fields at any depth, and which of them are sensitive."""
        self.adapter  # noqa: B018 -- builds it, and reads its fields
        return self._fields

    @cached_property
    def field_names(self) -> frozenset[str]:
        if issubclass(self.cls, pydantic.BaseModel):
            return frozenset(self.cls.model_fields)
        return frozenset(field.name for field in dataclasses.fields(self.cls))  # type: ignore[arg-type]

    def encode(self, message: object) -> tuple[str, Any]:
        """The JSON text to store, and the message as it will come back from it.

        Raises ``InvalidMessage`` with pydantic's words, also for what could be written and not be read.
        """
        try:
            text = self.adapter.dump_json(
                self.adapter.validate_python(message), warnings="error"
            ).decode()
            validated = self._read(text)
        except ValidationError as error:
            words, cause = told(self.name, error, message)
            raise InvalidMessage(f"{self.name} does not validate: {words}") from cause
        except (PydanticSerializationError, UnicodeError, RecursionError, ValueError) as error:
            words, cause = told(self.name, error, message)
            raise InvalidMessage(f"{self.name} cannot be written as JSON: {words}") from cause
        problem = unstorable(text)
        if problem:
            raise InvalidMessage(f"{self.name} {problem}")
        return text, validated

    def decode(self, text: str, version: int | None = None) -> Any:
        """The message as it was, brought to this version by its upcasts.

        version: in which the text was written; None: in this one. Raises ``UndecodablePayload`` with the
        words of pydantic or of what an upcast raised, and ``UnknownMessage`` for a newer version.
        """
        is_older = version is not None and version != self.version
        try:
            return self._read(self._brought_up(text, version or 0) if is_older else text)
        except StepFailed as failed:
            words, cause = told(self.name, failed.error, failed.data)
            raise UndecodablePayload(
                f"The stored payload of {self.name} is of version {version}, and {failed.where} raised "
                f"{name_of(failed.error)}: {words}"
            ) from cause
        except (ValidationError, ValueError, RecursionError) as error:
            words, cause = told(self.name, error)
            raise UndecodablePayload(
                f"The stored payload of {self.name} no longer validates: {words}"
                + (self._remedy(version or 0) if is_older else "")
            ) from cause

    def _brought_up(self, text: str, version: int) -> str:
        if version > self.version:
            raise UnknownMessage(
                f"this release knows {self.name} up to version {self.version}, and not version {version}"
            )
        return brought_up(text, steps_of(self.name, version, self.version))

    def _remedy(self, version: int) -> str:
        missing = [at for at in range(version, self.version) if not steps_of(self.name, at, at + 1)]
        told = f" It is of version {version}, and this release has version {self.version}"
        if not missing:
            return f"{told}: its upcasts make nothing valid of it."
        return f"{told}: write @upcast({self.cls.__name__}, from_version={missing[0]})."

    def _read(self, text: str) -> Any:
        # Rows hold field names, other services may send aliases.
        return self.adapter.validate_json(text, by_alias=True, by_name=True)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name} v{self.version}>"


def unstorable(text: str) -> str | None:
    """Why this JSON text cannot be stored, or None."""
    if "\\u0000" in text and _ESCAPED_NUL.search(text):
        return "holds the character U+0000, which databases refuse; remove it before publishing."
    largest = get_settings().max_payload_bytes
    # Escaped text is never shorter than its bytes: most payloads are measured without encoding them.
    if len(text) * 4 > largest and len(text.encode()) > largest:
        return (
            f"is {len(text.encode()):,} bytes, more than PM_CELERY['MAX_PAYLOAD_BYTES'] = "
            f"{largest:,}. Store the data elsewhere and send its id."
        )
    return None


def message_type(message: object, kind: Kind) -> MessageType:
    """The declaration behind an event or command, or its class. Raises ``InvalidMessage``."""
    cls = message if isinstance(message, type) else type(message)
    found = cls.__dict__.get("__pm_message__")
    if isinstance(found, MessageType) and found.kind == kind:
        return found
    article = "an event" if kind == "event" else "a command"
    if isinstance(found, MessageType):
        raise InvalidMessage(f"{found.name} is declared as {found.kind}, not as {article}.")
    raise InvalidMessage(
        f"{cls.__module__}.{cls.__qualname__} is not {article}: decorate its class with @{kind}."
    )


def encoded(message: object, kind: Kind) -> tuple[MessageType, str, Any]:
    """Declaration, stored text, and the message as validated. Raises ``InvalidMessage``."""
    if isinstance(message, type):
        raise InvalidMessage(
            f"{message.__qualname__} is a class: give an instance, {message.__name__}(…)."
        )
    declared = message_type(message, kind)
    return declared, *declared.encode(message)


def _declare(cls: type[T], kind: Kind, name: str | None, version: int) -> type[T]:
    if not isinstance(cls, type):
        raise DeclarationError(f"@{kind} decorates a class, not {cls!r}.")
    if name is not None and (not isinstance(name, str) or not name or len(name) > LONGEST_NAME):
        raise DeclarationError(
            f"@{kind}(name={name!r}) on {cls.__qualname__}: give 1 to {LONGEST_NAME} characters."
        )
    if not is_version(version):
        raise DeclarationError(
            f"@{kind}(version={version!r}) on {cls.__qualname__}: give a whole number from 1 to {LARGEST}."
        )
    if not issubclass(cls, pydantic.BaseModel):
        if "__dataclass_fields__" not in cls.__dict__:
            cls = dataclasses.dataclass(frozen=True)(cls)
        if not hasattr(cls, "__pydantic_config__"):
            cls.__pydantic_config__ = CODEC_CONFIG  # type: ignore[attr-defined]
    declared = MessageType(cls, kind, name, version)
    cls.__pm_message__ = declared  # type: ignore[attr-defined]
    registry.messages.add(declared)
    return cls


@overload
def event(cls: type[T], /) -> type[T]: ...
@overload
def event(*, name: str | None = None, version: int = 1) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform()
def event(
    cls: type[T] | None = None, /, *, name: str | None = None, version: int = 1
) -> type[T] | Callable[[type[T]], type[T]]:
    """Declare a class as an event: something that happened, in the past tense.

    A plain class becomes a frozen dataclass; a dataclass or a pydantic model stays what it is.

    name:
        the wire name, stable while the class may be renamed; default ``<app label>.<class name>``.
    version:
        of the payload's shape; a worker leaves newer versions than its own to a newer release, and brings
        older ones to its own by :func:`upcast`.
    """
    if cls is None:
        return lambda cls: _declare(cls, "event", name, version)
    return _declare(cls, "event", name, version)


@overload
def command(cls: type[T], /) -> type[T]: ...
@overload
def command(*, name: str | None = None, version: int = 1) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform()
def command(
    cls: type[T] | None = None, /, *, name: str | None = None, version: int = 1
) -> type[T] | Callable[[type[T]], type[T]]:
    """Declare a class as a command: a request, in the imperative, with exactly one handler.

    Parameters as for :func:`event`.
    """
    if cls is None:
        return lambda cls: _declare(cls, "command", name, version)
    return _declare(cls, "command", name, version)
