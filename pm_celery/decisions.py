"""What a handler wants, as a value: it collects here, the engine records it later.

Nothing in this module touches the database or the broker, so a handler that is rolled back has sent
nothing, and one that is tested needs neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import pydantic_core
from celery.canvas import Signature
from kombu.utils import json as kombu_json

from pm_celery.durations import Duration, parse_duration
from pm_celery.exceptions import InvalidMessage, Misuse
from pm_celery.messages import MessageType, encoded, message_type, unstorable

if TYPE_CHECKING:
    from types import TracebackType

    from pm_celery.process import ProcessManager

__all__ = [
    "Cause",
    "Decision",
    "Failure",
    "Ignored",
    "IssuedCommand",
    "Message",
    "TimerSet",
    "Turn",
    "current_cause",
]

MessageKind = Literal["event", "timer", "timeout", "command_failed", "failure", "command"]


@dataclass(frozen=True, slots=True)
class Message:
    """The envelope of what is being handled; a handler finds it as ``self.message``.

    id: the event id, or the command's id, as text. A command's stays the same however often it runs: give
        it to third parties as idempotency key.
    kind: event, timer, timeout, command_failed, failure, or command.
    name: the wire name, or the timer's name.
    correlation_id, causation_id: which conversation; which message caused this one.
    depth: how many messages caused one another before this one.
    attempt: which run of it this is, from 1.
    occurred_at, published_at: moments in UTC: when it happened, as the publisher says, and when its row was
        written. A command has for both the moment at which it was issued.

    The idea of the envelope and its ids is from *Enterprise Integration Patterns* (Correlation Identifier).
    """

    id: str
    kind: MessageKind
    name: str
    correlation_id: str
    causation_id: str
    depth: int
    attempt: int
    occurred_at: datetime
    published_at: datetime


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, as ``@on_failure`` and ``@on_command_failed`` handlers get it.

    message: the decoded event or command that failed; None where it cannot be decoded or was a timer.
    name, id: its wire name (or the timer's), and its id.
    exception, error: the class name of the exception, and its text.
    attempts: how often it was run.
    """

    message: Any
    name: str
    id: str
    exception: str
    error: str
    attempts: int


@dataclass(frozen=True, slots=True)
class IssuedCommand:
    """A command as it will be stored. ``options`` are Celery's, as JSON text."""

    command_id: str
    kind: Literal["command", "signature"]
    name: str
    version: int
    payload: str
    options: str
    delay: timedelta | None
    expires: timedelta | None


@dataclass(frozen=True, slots=True)
class TimerSet:
    name: str
    due_at: datetime
    payload: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """What ``self.ignore(reason)`` returns, and a handler returns in turn."""

    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of one message: a transition to record, or a skip with its reason.

    timers: by name, what is left of the handler's wishes: a moment, or None for a cancelled one.
    process: the process as it is read from ``state``, for the next message of its batch.
    """

    handler: str
    state: str = ""
    status: str = ""
    skipped: str | None = None
    commands: tuple[IssuedCommand, ...] = ()
    timers: Mapping[str, TimerSet | None] = field(default_factory=dict)
    cancelled_commands: tuple[str, ...] = ()
    process: ProcessManager | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """The message that is being handled in this context: what is published inside descends from it."""

    correlation_id: str
    message_id: str
    depth: int


_cause: ContextVar[Cause | None] = ContextVar("pm_celery_cause", default=None)


def current_cause() -> Cause | None:
    """The message that is being handled here, or None outside of handlers."""
    return _cause.get()


class caused_by:
    """Let everything that is published inside carry the message's correlation."""

    def __init__(self, message: Message) -> None:
        self._cause = Cause(message.correlation_id, message.id, message.depth)

    def __enter__(self) -> None:
        self._token = _cause.set(self._cause)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _cause.reset(self._token)


_OPTIONS = ("queue", "priority", "time_limit", "soft_time_limit")


class Turn:
    """One run of one handler: what it may ask, and where its wishes gather."""

    def __init__(self, key: str, now: datetime, message: Message) -> None:
        self.key = key
        self.now = now
        self.message = message
        self.commands: list[IssuedCommand] = []
        self.cancelled_commands: list[str] = []
        self.timers: dict[str, TimerSet | None] = {}
        self.completed = False

    def send(
        self,
        command: object,
        *,
        delay: Duration | None = None,
        expires: Duration | None = None,
        **options: object,
    ) -> str:
        """Collect a command; returns its id. Raises ``Misuse`` or ``InvalidMessage``."""
        for name in options:
            if name not in _OPTIONS:
                raise Misuse(f"send(…, {name}=…): the options are {', '.join(_OPTIONS)}.")
        try:
            wait = None if delay is None else parse_duration(delay, allow_zero=True)
            life = None if expires is None else parse_duration(expires)
        except ValueError as error:
            raise Misuse(f"send(…, delay=…, expires=…): {error}") from None
        kind, name, version, payload = _stored(command)
        issued = IssuedCommand(
            command_id=str(uuid4()),
            kind=kind,
            name=name,
            version=version,
            payload=payload,
            options=json.dumps({k: v for k, v in options.items() if v is not None}),
            delay=wait or None,
            expires=life,
        )
        self.commands.append(issued)
        return issued.command_id

    def cancel_command(self, command: str | type) -> None:
        """Wish that a delayed command, or all of a class, be cancelled if not yet dispatched."""
        if isinstance(command, type):
            wanted = message_type(command, "command").name
            self.commands = [c for c in self.commands if not (c.name == wanted and c.delay)]
        elif isinstance(command, str):
            wanted = command
            self.commands = [c for c in self.commands if c.command_id != wanted]
        else:
            raise Misuse("cancel_command(…): give what send() returned, or a command class.")
        self.cancelled_commands.append(wanted)

    def set_timer(
        self,
        name: str,
        after: Duration | None = None,
        *,
        at: datetime | None = None,
        payload: object = None,
    ) -> None:
        """Wish for a moment; a pending timer of that name is moved."""
        if (after is None) == (at is None):
            raise Misuse(f"set_timer({name!r}, …): give a duration, or at=<moment>.")
        if at is not None:
            if not isinstance(at, datetime) or at.utcoffset() is None:
                raise Misuse(f"set_timer({name!r}, at=…): give a datetime with a time zone.")
            due = at
        else:
            try:
                due = self.now + parse_duration(after)
            except (ValueError, OverflowError) as error:
                raise Misuse(f"set_timer({name!r}, {after!r}): {error}") from None
        try:
            text = pydantic_core.to_json(payload).decode()
        except (pydantic_core.PydanticSerializationError, ValueError) as error:
            raise Misuse(f"set_timer({name!r}, payload=…): {error}") from None
        problem = unstorable(text)
        if problem:
            raise Misuse(f"set_timer({name!r}, payload=…) {problem}")
        self.timers[name] = TimerSet(name, due, text)

    def cancel_timer(self, name: str) -> None:
        self.timers[name] = None


def _stored(command: object) -> tuple[Literal["command", "signature"], str, int, str]:
    if isinstance(command, Signature):
        return "signature", *_stored_signature(command)
    try:
        declared, payload, _ = encoded(command, "command")
    except InvalidMessage as error:
        if isinstance(getattr(type(command), "__pm_message__", None), MessageType):
            raise
        raise Misuse(
            f"send({command!r}): {error} A Celery signature may be sent as well."
        ) from None
    return "command", declared.name, declared.version, payload


def _stored_signature(signature: Signature[Any]) -> tuple[str, int, str]:
    if signature.subtask_type:
        # A canvas has many task ids; what became of it could not be learnt from one.
        raise Misuse(
            f"send({signature!r}): a {signature.subtask_type} cannot be sent. Start it from a task "
            "of its own, and send that task's signature."
        )
    plain = {
        name: signature[name]
        for name in ("task", "args", "kwargs", "options", "immutable")
        if signature.get(name)
    }
    for option in ("countdown", "eta"):
        if plain.get("options", {}).pop(option, None) is not None:
            raise Misuse(f"send({signature!r}): give send(…, delay=…) instead of {option}.")
    try:
        text = kombu_json.dumps(plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise Misuse(f"send({signature.task}): its arguments are no JSON: {error}") from None
    problem = unstorable(text)
    if problem:
        raise Misuse(f"send({signature!r}) {problem}")
    return str(signature["task"]), 1, text
