"""Process managers as users declare them: a class with typed fields, and a method for each message.

Whatever is wrong with a declaration is collected, not raised, so that ``manage.py check`` can name all
of it at once; publishing an event to a broken process raises.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, dataclass_transform

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from pm_celery import registry
from pm_celery.decisions import Ignored, Message, Turn
from pm_celery.durations import Duration, parse_duration
from pm_celery.exceptions import InvalidMessage, Misuse, UndecodableState
from pm_celery.keys import correlation_key
from pm_celery.messages import CODEC_CONFIG, LONGEST_NAME, MessageType, message_type, unstorable
from pm_celery.retries import DEFAULT_RETRY, Retry

if TYPE_CHECKING:
    from celery.canvas import Signature

__all__ = [
    "EventHandler",
    "Problem",
    "ProcessDefinition",
    "ProcessManager",
    "Wait",
    "handle",
    "on_command_failed",
    "on_failure",
    "on_timeout",
    "on_timer",
]

E = TypeVar("E")
P = TypeVar("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

Correlate = str | Mapping[str, str] | Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Wait:
    """``unmatched=Wait("1h")``: keep an early event until a start event comes, at most so long."""

    at_most: Duration

    @property
    def duration(self) -> timedelta:
        return parse_duration(self.at_most)


Unmatched = Literal["ignore", "dead_letter"] | Wait


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a declaration: the id of the check that reports it, what, and the remedy."""

    id: str
    text: str
    hint: str


@dataclass(frozen=True, slots=True)
class _Mark:
    """What a decorator leaves on a method, to be read when its class is complete."""

    sort: Literal["event", "timer", "timeout", "command_failed", "failure"]
    target: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)


def _marking(mark: _Mark) -> Callable[[F], F]:
    def leave(method: F) -> F:
        marks: list[_Mark] = [*getattr(method, "__pm_marks__", ()), mark]
        method.__pm_marks__ = marks  # type: ignore[attr-defined]
        return method

    return leave


def handle(
    event: type[E],
    *,
    correlate: Correlate | None = None,
    start: bool = False,
    end: bool = False,
    retry: Retry | None = None,
    unmatched: Unmatched | None = None,
) -> Callable[[Callable[[P, E], R]], Callable[[P, E], R]]:
    """Bind a method to one event class.

    correlate:
        what picks the instance: the name of an event's field; a mapping ``{state field: event field}``,
        which sets the state's field as well; or a function of the event, whose ``None`` means "not
        mine". Default: ``Meta.correlate``.
    start:
        the event may create an instance.
    end:
        the instance is completed when the method has returned.
    retry:
        overrides ``Meta.retry``.
    unmatched:
        what becomes of the event when no instance waits for it: ``"ignore"`` (recorded as unmatched),
        ``"dead_letter"``, or ``Wait("1h")``. Default: ``Meta.unmatched``, else ignore.
    """
    options = {
        "correlate": correlate,
        "start": start,
        "end": end,
        "retry": retry,
        "unmatched": unmatched,
    }
    return _marking(_Mark("event", event, options))


def on_timer(name: str) -> Callable[[F], F]:
    """Bind a method to the timer of that name; it may take the timer's payload."""
    return _marking(_Mark("timer", name))


def on_timeout(method: F) -> F:
    """Bind a method to the process's timeout; the status is timed_out when it has returned."""
    return _marking(_Mark("timeout"))(method)


def on_command_failed(command: type) -> Callable[[F], F]:
    """Bind a method to the failure, for good, of commands of one class that this instance sent."""
    return _marking(_Mark("command_failed", command))


def on_failure(method: F) -> F:
    """Bind a method to what failed for good and has no handler of its own; it gets a ``Failure``."""
    return _marking(_Mark("failure"))(method)


@dataclass(frozen=True)
class EventHandler:
    """How one process handles one event. ``method`` is "" for an event that only ``Meta`` lists."""

    event: MessageType
    method: str
    correlate: Correlate | None
    start: bool
    end: bool
    retry: Retry
    unmatched: Unmatched

    def key_of(self, event: object) -> str | None:
        """The correlation key; None where a function says "not mine". Raises what a correlate raises."""
        if callable(self.correlate):
            value = self.correlate(event)
            return None if value is None else correlation_key(value)
        return correlation_key(getattr(event, self.event_field))

    @cached_property
    def event_field(self) -> str:
        if isinstance(self.correlate, Mapping):
            return str(next(iter(self.correlate.values())))
        return str(self.correlate)

    @cached_property
    def state_field(self) -> str | None:
        return next(iter(self.correlate)) if isinstance(self.correlate, Mapping) else None


_META_OPTIONS = (
    "name",
    "abstract",
    "timeout",
    "retry",
    "started_by",
    "completed_by",
    "correlate",
    "unmatched",
)


class ProcessDefinition:
    """Everything that is known of a process manager's class once its body has been read."""

    kind = "process"

    def __init__(self, cls: type[ProcessManager]) -> None:
        self.cls = cls
        self.problems: list[Problem] = []
        self._read_meta()
        self.event_handlers: dict[MessageType, EventHandler] = {}
        self.timer_handlers: dict[str, str] = {}
        self.command_failed_handlers: dict[MessageType, str] = {}
        self.timeout_handler: str | None = None
        self.failure_handler: str | None = None
        self._read_methods()
        self._read_listed_events()
        if not self.abstract and not any(h.start for h in self.event_handlers.values()):
            self._problem(
                "E001",
                " has no start event: no instance of it can ever begin.",
                "Write @handle(…, start=True), or Meta.started_by.",
            )

    # -- names ----------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """``Meta.name``, else ``<app label>.<class name>``: stored in rows, so it must be stable."""
        return (
            self.given_name or f"{registry.app_label_of(self.cls.__module__)}.{self.cls.__name__}"
        )

    @property
    def where(self) -> str:
        return f"{self.cls.__module__}.{self.cls.__qualname__}"

    def _problem(self, id: str, text: str, hint: str) -> None:
        self.problems.append(Problem(id, f"{self.where}{text}", hint))

    # -- reading the class ----------------------------------------------------------------------

    def _read_meta(self) -> None:
        meta: Any = getattr(self.cls, "Meta", None)
        own: Any = self.cls.__dict__.get("Meta")
        options = {name: getattr(meta, name) for name in dir(meta) if not name.startswith("_")}
        if meta is None:
            options = {}
        for name in options:
            if name not in _META_OPTIONS:
                near = difflib.get_close_matches(name, _META_OPTIONS, n=1)
                remedy = (
                    f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(_META_OPTIONS)}."
                )
                self._problem("E008", f".Meta has no option {name!r}.", remedy)
        self.given_name: str | None = getattr(own, "name", None)
        self.abstract = bool(getattr(own, "abstract", False))
        if self.given_name is not None and (
            not isinstance(self.given_name, str) or not 0 < len(self.given_name) <= LONGEST_NAME
        ):
            self._problem(
                "E008", ".Meta.name is no usable name.", f"Give 1 to {LONGEST_NAME} characters."
            )
            self.given_name = None
        self.timeout: timedelta | None = None
        if options.get("timeout") is not None:
            try:
                self.timeout = parse_duration(options["timeout"])
            except ValueError as error:
                self._problem("E008", f".Meta.timeout: {error}.", 'Write timeout = "7d".')
        self.retry: Retry = options.get("retry") or DEFAULT_RETRY
        if not isinstance(self.retry, Retry):
            self._problem("E008", ".Meta.retry is no Retry.", 'Write retry = Retry("exponential").')
            self.retry = DEFAULT_RETRY
        self.default_correlate: Correlate | None = _unbound(options.get("correlate"))
        self.default_unmatched: Unmatched = (
            self._unmatched(options.get("unmatched"), ".Meta") or "ignore"
        )
        self.started_by = self._listed(options, "started_by")
        self.completed_by = self._listed(options, "completed_by")

    def _listed(self, options: Mapping[str, Any], name: str) -> list[MessageType]:
        listed = options.get(name, ())
        if not isinstance(listed, list | tuple):
            self._problem("E008", f".Meta.{name} is no list.", "List event classes.")
            return []
        events = []
        for target in listed:
            try:
                events.append(message_type(target, "event"))
            except InvalidMessage as error:
                self._problem(
                    "E003", f".Meta.{name}: {error}", "List classes declared with @event."
                )
        return events

    def _unmatched(self, value: object, where: str) -> Unmatched | None:
        if value is None or value in ("ignore", "dead_letter"):
            return value
        if isinstance(value, Wait):
            try:
                value.duration  # noqa: B018 -- raises for what is no duration
            except ValueError as error:
                self._problem(
                    "E008", f"{where}: unmatched={value!r}: {error}.", 'Write Wait("1h").'
                )
                return None
            return value
        self._problem(
            "E008",
            f"{where}: unmatched={value!r} is unknown.",
            'Give "ignore", "dead_letter" or Wait("1h").',
        )
        return None

    def _read_methods(self) -> None:
        for name in dir(self.cls):
            method = inspect.getattr_static(self.cls, name)
            marks: list[_Mark] = getattr(method, "__pm_marks__", [])
            if not marks:
                continue
            where = f".{name}()"
            if len(marks) > 1:
                self._problem(
                    "E006",
                    f"{where} is bound {len(marks)} times.",
                    "Write one method for each message.",
                )
            if inspect.iscoroutinefunction(method) or inspect.isgeneratorfunction(method):
                self._problem(
                    "E009", f"{where} is no plain function.", "Handlers are written with plain def."
                )
            mark = marks[0]
            getattr(self, f"_read_{mark.sort}")(name, where, method, mark)

    def _takes(self, method: Any, where: str, most: int, least: int, example: str) -> None:
        parameters = [
            p
            for p in list(inspect.signature(method).parameters.values())[1:]
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        needed = sum(p.default is p.empty for p in parameters)
        variadic = any(
            p.kind is p.VAR_POSITIONAL for p in inspect.signature(method).parameters.values()
        )
        if needed > most or (len(parameters) < least and not variadic):
            self._problem("E009", f"{where} takes the wrong parameters.", f"Write def {example}.")

    def _read_event(self, name: str, where: str, method: Any, mark: _Mark) -> None:
        self._takes(method, where, 1, 1, f"{name}(self, event)")
        try:
            declared = message_type(mark.target, "event")
        except InvalidMessage as error:
            self._problem("E003", f"{where}: {error}", "Handle a class declared with @event.")
            return
        if declared in self.event_handlers:
            other = self.event_handlers[declared].method
            self._problem(
                "E004",
                f"{where} and .{other}() both handle {declared.cls.__name__}.",
                "Keep one handler for each event.",
            )
            return
        retry = mark.options["retry"]
        if retry is not None and not isinstance(retry, Retry):
            self._problem("E008", f"{where}: retry={retry!r} is no Retry.", "Write retry=Retry(…).")
            retry = None
        correlate = mark.options["correlate"]
        self.event_handlers[declared] = EventHandler(
            event=declared,
            method=name,
            correlate=self.default_correlate if correlate is None else correlate,
            start=bool(mark.options["start"]) or declared in self.started_by,
            end=bool(mark.options["end"]) or declared in self.completed_by,
            retry=retry or self.retry,
            unmatched=self._unmatched(mark.options["unmatched"], where) or self.default_unmatched,
        )
        self._check_correlate(self.event_handlers[declared], where)

    def _read_timer(self, name: str, where: str, method: Any, mark: _Mark) -> None:
        self._takes(method, where, 1, 0, f"{name}(self) or {name}(self, payload)")
        if not isinstance(mark.target, str) or not 0 < len(mark.target) <= LONGEST_NAME:
            self._problem(
                "E010",
                f"{where}: {mark.target!r} is no timer's name.",
                'Write @on_timer("reminder").',
            )
        elif mark.target in self.timer_handlers:
            other = self.timer_handlers[mark.target]
            self._problem(
                "E010",
                f"{where} and .{other}() both handle the timer {mark.target!r}.",
                "Keep one handler for each timer.",
            )
        else:
            self.timer_handlers[mark.target] = name

    def _read_timeout(self, name: str, where: str, method: Any, mark: _Mark) -> None:
        self._takes(method, where, 0, 0, f"{name}(self)")
        if self.timeout_handler:
            self._problem("E010", f"{where} is a second @on_timeout.", "Keep one.")
        self.timeout_handler = name

    def _read_failure(self, name: str, where: str, method: Any, mark: _Mark) -> None:
        self._takes(method, where, 1, 1, f"{name}(self, failure)")
        if self.failure_handler:
            self._problem("E010", f"{where} is a second @on_failure.", "Keep one.")
        self.failure_handler = name

    def _read_command_failed(self, name: str, where: str, method: Any, mark: _Mark) -> None:
        self._takes(method, where, 1, 1, f"{name}(self, failure)")
        try:
            declared = message_type(mark.target, "command")
        except InvalidMessage as error:
            self._problem("E010", f"{where}: {error}", "Give a class declared with @command.")
            return
        if declared in self.command_failed_handlers:
            self._problem(
                "E010", f"{where} is a second handler for {declared.cls.__name__}.", "Keep one."
            )
        self.command_failed_handlers[declared] = name

    def _read_listed_events(self) -> None:
        for declared in [*self.started_by, *self.completed_by]:
            if declared not in self.event_handlers:
                listed = EventHandler(
                    event=declared,
                    method="",
                    correlate=self.default_correlate or self._common_correlate(),
                    start=declared in self.started_by,
                    end=declared in self.completed_by,
                    retry=self.retry,
                    unmatched=self.default_unmatched,
                )
                self.event_handlers[declared] = listed
                self._check_correlate(listed, f".Meta ({declared.cls.__name__})")

    def _common_correlate(self) -> Correlate | None:
        """The correlate on which all handlers agree: an event listed in Meta may share it."""
        shared = {
            handler.correlate if isinstance(handler.correlate, str) else None
            for handler in self.event_handlers.values()
        }
        return shared.pop() if len(shared) == 1 else None

    def _check_correlate(self, handler: EventHandler, where: str) -> None:
        correlate, event = handler.correlate, handler.event
        if correlate is None:
            self._problem(
                "E002",
                f"{where} has no correlate for {event.cls.__name__}.",
                'Write @handle(…, correlate="order_id"), or Meta.correlate for all handlers.',
            )
            return
        if callable(correlate):
            return
        pair = list(correlate.items()) if isinstance(correlate, Mapping) else [(None, correlate)]
        if len(pair) != 1 or not isinstance(pair[0][1], str):
            self._problem(
                "E005",
                f"{where}: correlate={correlate!r} is unusable.",
                "Give a field's name, {state field: event field}, or a function of the event.",
            )
            return
        state_field, event_field = pair[0]
        try:
            known = event.field_names
        except TypeError:
            known = frozenset()
        if event_field not in known:
            near = difflib.get_close_matches(event_field, sorted(known), n=1)
            remedy = (
                f"Did you mean {near[0]!r}?" if near else f"Its fields: {', '.join(sorted(known))}."
            )
            self._problem(
                "E005",
                f"{where}: correlate names {event_field!r}, which {event.cls.__name__} lacks.",
                remedy,
            )
        if state_field is not None and state_field not in getattr(
            self.cls, "__dataclass_fields__", {}
        ):
            self._problem(
                "E005",
                f"{where}: correlate names {state_field!r}, which is no field of the process.",
                f"Declare it: {state_field}: UUID | None = None",
            )

    # -- what the engine asks -------------------------------------------------------------------

    def events(self) -> list[MessageType]:
        return list(self.event_handlers)

    def key_of(self, declared: MessageType, event: object) -> str | None:
        return self.event_handlers[declared].key_of(event)

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.cls)

    def initial(self) -> ProcessManager:
        return self.cls()

    def load(self, state: str) -> ProcessManager:
        """A process with the stored state. Raises ``UndecodableState``."""
        try:
            process: ProcessManager = self.adapter.validate_json(state)
        except (ValidationError, ValueError) as error:
            raise UndecodableState(
                f"The stored state no longer validates as {self.where}: {error}"
            ) from error
        return process

    def dump(self, process: ProcessManager) -> str:
        """The state's JSON text. Raises ``Misuse`` where a field holds what its type forbids."""
        try:
            text = self.adapter.dump_json(process, warnings="error").decode()
        except (PydanticSerializationError, UnicodeError, RecursionError, ValueError) as error:
            raise Misuse(f"{self.where}: the state cannot be stored: {error}") from error
        problem = unstorable(text)
        if problem:
            raise Misuse(f"{self.where}: the state {problem}")
        return text

    def __repr__(self) -> str:
        return f"<process {self.name}>"


def _unbound(correlate: Any) -> Any:
    return correlate.__func__ if inspect.ismethod(correlate) else correlate


@dataclass_transform(kw_only_default=True, field_specifiers=(dataclasses.field,))
class ProcessManager:
    """A stateful coordinator: events in, commands out.

    Annotated attributes with defaults are its state (dataclass semantics); methods decorated with
    :func:`handle` and its siblings are its handlers. A handler changes the state and collects commands
    and timers; nothing leaves before everything is recorded in one transaction.

    The idea, and most of the words, are from *Enterprise Integration Patterns* (Process Manager).
    """

    definition: ClassVar[ProcessDefinition]
    __pydantic_config__: ClassVar[Any] = {**CODEC_CONFIG, "revalidate_instances": "never"}
    _turn: ClassVar[Turn]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        reserved = _RESERVED.intersection(inspect.get_annotations(cls))
        trouble: list[tuple[str, str, str]] = [
            ("E007", f".{name} is a name that every process has already.", "Rename the field.")
            for name in sorted(reserved)
        ]
        try:
            dataclasses.dataclass(eq=False, repr=False, kw_only=True)(cls)
        except (TypeError, ValueError) as error:
            trouble.append(
                ("E007", f": {error}.", "Write items: list[str] = field(default_factory=list).")
            )
        definition = ProcessDefinition(cls)
        for problem in trouble:
            definition._problem(*problem)
        for state_field in dataclasses.fields(cls):  # type: ignore[arg-type]
            missing = dataclasses.MISSING
            if state_field.default is missing and state_field.default_factory is missing:
                definition._problem(
                    "E007",
                    f".{state_field.name} has no default.",
                    f"An instance begins before any event is handled: {state_field.name}: … = None",
                )
        cls.definition = definition
        if not definition.abstract:
            registry.listeners.add(definition)

    # -- what a handler may ask -----------------------------------------------------------------

    @property
    def key(self) -> str:
        """The correlation key of this instance."""
        return self._turn.key

    @property
    def now(self) -> datetime:
        """The moment of handling, in UTC; virtual in tests. Use it instead of the wall clock."""
        return self._turn.now

    @property
    def message(self) -> Message:
        """Ids, attempt and moments of the message that is being handled."""
        return self._turn.message

    # -- what a handler may decide --------------------------------------------------------------

    def send(
        self,
        command: object | Signature[Any],
        *,
        delay: Duration | None = None,
        queue: str | None = None,
        priority: int | None = None,
        expires: Duration | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
    ) -> str:
        """Issue a command, or a Celery signature, once this step is committed; returns its id.

        delay: dispatch it later. expires: give it up if it did not start within this time.
        queue, priority, time_limit, soft_time_limit (seconds): Celery's, for this one command.
        """
        return self._turn.send(
            command,
            delay=delay,
            expires=expires,
            queue=queue,
            priority=priority,
            time_limit=time_limit,
            soft_time_limit=soft_time_limit,
        )

    def cancel_command(self, command: str | type) -> None:
        """Cancel a delayed command by the id that ``send`` returned, or all of a command class.

        What has been dispatched already runs all the same.
        """
        self._turn.cancel_command(command)

    def set_timer(
        self,
        name: str,
        after: Duration | None = None,
        *,
        at: datetime | None = None,
        payload: object = None,
    ) -> None:
        """Let ``@on_timer(name)`` run after a duration or at a moment; set again, it moves."""
        if name not in self.definition.timer_handlers:
            raise Misuse(
                f"set_timer({name!r}): {self.definition.where} has no @on_timer({name!r}) method."
            )
        self._turn.set_timer(name, after, at=at, payload=payload)

    def cancel_timer(self, name: str) -> None:
        """Let a timer not fire; one that is not set is no error."""
        if name not in self.definition.timer_handlers:
            raise Misuse(
                f"cancel_timer({name!r}): {self.definition.where} has no @on_timer({name!r}) method."
            )
        self._turn.cancel_timer(name)

    def complete(self) -> None:
        """End this instance as completed when the handler has returned."""
        self._turn.completed = True

    def ignore(self, reason: str) -> Ignored:
        """``return self.ignore("why")``: record the message as skipped; change and end nothing."""
        return Ignored(str(reason))

    def __repr__(self) -> str:
        values = ", ".join(
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(self)  # type: ignore[arg-type]
        )
        return f"{type(self).__name__}({values})"


_RESERVED = {name for name in vars(ProcessManager) if not name.startswith("__")} | {
    "definition",
    "_turn",
    "Meta",
}
