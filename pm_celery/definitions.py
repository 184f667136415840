"""What is known of a process manager's class once its body has been read.

Whatever is wrong with a declaration is collected, not raised, so that ``manage.py check`` can name all
of it at once; publishing an event to a broken process raises.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pm_celery import registry
from pm_celery.durations import parse_duration
from pm_celery.exceptions import InvalidMessage
from pm_celery.handlers import Correlate, EventHandler, Mark, Unmatched, Wait
from pm_celery.messages import LONGEST_NAME, MessageType, message_type
from pm_celery.retries import DEFAULT_RETRY, Retry
from pm_celery.states import StateCodec
from pm_celery.versions import LARGEST, is_version

if TYPE_CHECKING:
    from pm_celery.process import ProcessManager

__all__ = ["Problem", "ProcessDefinition"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a declaration: the id of the check that reports it, what, and the remedy."""

    id: str
    text: str
    hint: str


_META_OPTIONS = (
    "name",
    "abstract",
    "timeout",
    "retry",
    "started_by",
    "completed_by",
    "correlate",
    "unmatched",
    "state_version",
)


class ProcessDefinition(StateCodec):
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
            self.problem(
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

    def problem(self, id: str, text: str, hint: str) -> None:
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
                self.problem("E008", f".Meta has no option {name!r}.", remedy)
        own_options = vars(own) if own is not None else {}
        self.given_name: str | None = own_options.get("name")
        self.abstract = bool(own_options.get("abstract", False))
        if self.given_name is not None and (
            not isinstance(self.given_name, str) or not 0 < len(self.given_name) <= LONGEST_NAME
        ):
            self.problem(
                "E008", ".Meta.name is no usable name.", f"Give 1 to {LONGEST_NAME} characters."
            )
            self.given_name = None
        self.timeout: timedelta | None = None
        if options.get("timeout") is not None:
            try:
                self.timeout = parse_duration(options["timeout"])
            except ValueError as error:
                self.problem("E008", f".Meta.timeout: {error}.", 'Write timeout = "7d".')
        self._read_state_version(options.get("state_version", 1))
        self.retry: Retry = options.get("retry") or DEFAULT_RETRY
        if not isinstance(self.retry, Retry):
            self.problem("E008", ".Meta.retry is no Retry.", 'Write retry = Retry("exponential").')
            self.retry = DEFAULT_RETRY
        self.default_correlate: Correlate | None = _unbound(options.get("correlate"))
        self.default_unmatched: Unmatched = (
            self._unmatched(options.get("unmatched"), ".Meta") or "ignore"
        )
        self.started_by = self._listed(options, "started_by")
        self.completed_by = self._listed(options, "completed_by")

    def _read_state_version(self, version: Any) -> None:
        self.state_version = version if is_version(version) else 1
        if not is_version(version):
            self.problem(
                "E016",
                f".Meta.state_version = {version!r:.80} is no version.",
                f"Give a whole number from 1 to {LARGEST}.",
            )
        upgrade = inspect.getattr_static(self.cls, "upgrade_state")
        is_usable = isinstance(upgrade, classmethod | staticmethod)
        if is_usable:
            try:
                inspect.signature(self.cls.upgrade_state).bind({}, 1)
            except TypeError:
                is_usable = False
        if not is_usable or inspect.iscoroutinefunction(upgrade.__func__):
            self.problem(
                "E016",
                ".upgrade_state is no classmethod of a state and its version.",
                "Write @classmethod def upgrade_state(cls, state, from_version): …",
            )

    def _listed(self, options: Mapping[str, Any], name: str) -> list[MessageType]:
        listed = options.get(name, ())
        if not isinstance(listed, list | tuple):
            self.problem("E008", f".Meta.{name} is no list.", "List event classes.")
            return []
        events = []
        for target in listed:
            try:
                events.append(message_type(target, "event"))
            except InvalidMessage as error:
                self.problem("E003", f".Meta.{name}: {error}", "List classes declared with @event.")
        return events

    def _unmatched(self, value: object, where: str) -> Unmatched | None:
        if value is None or value in ("ignore", "dead_letter"):
            return value
        if isinstance(value, Wait):
            try:
                value.duration  # noqa: B018 -- raises for what is no duration
            except ValueError as error:
                self.problem("E008", f"{where}: unmatched={value!r}: {error}.", 'Write Wait("1h").')
                return None
            return value
        self.problem(
            "E008",
            f"{where}: unmatched={value!r} is unknown.",
            'Give "ignore", "dead_letter" or Wait("1h").',
        )
        return None

    def _read_methods(self) -> None:
        for name in dir(self.cls):
            method = inspect.getattr_static(self.cls, name)
            marks: list[Mark] = getattr(method, "__pm_marks__", [])
            if not marks:
                continue
            where = f".{name}()"
            if len(marks) > 1:
                self.problem(
                    "E006",
                    f"{where} is bound {len(marks)} times.",
                    "Write one method for each message.",
                )
            if inspect.iscoroutinefunction(method) or inspect.isgeneratorfunction(method):
                self.problem(
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
        if any(
            p.kind is p.KEYWORD_ONLY and p.default is p.empty
            for p in inspect.signature(method).parameters.values()
        ):
            needed = most + 1
        variadic = any(
            p.kind is p.VAR_POSITIONAL for p in inspect.signature(method).parameters.values()
        )
        if needed > most or (len(parameters) < least and not variadic):
            self.problem("E009", f"{where} takes the wrong parameters.", f"Write def {example}.")

    def _read_event(self, name: str, where: str, method: Any, mark: Mark) -> None:
        self._takes(method, where, 1, 1, f"{name}(self, event)")
        try:
            declared = message_type(mark.target, "event")
        except InvalidMessage as error:
            self.problem("E003", f"{where}: {error}", "Handle a class declared with @event.")
            return
        if declared in self.event_handlers:
            other = self.event_handlers[declared].method
            self.problem(
                "E004",
                f"{where} and .{other}() both handle {declared.cls.__name__}.",
                "Keep one handler for each event.",
            )
            return
        retry = mark.options["retry"]
        if retry is not None and not isinstance(retry, Retry):
            self.problem("E008", f"{where}: retry={retry!r} is no Retry.", "Write retry=Retry(…).")
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

    def _read_timer(self, name: str, where: str, method: Any, mark: Mark) -> None:
        self._takes(method, where, 1, 0, f"{name}(self) or {name}(self, payload)")
        if not isinstance(mark.target, str) or not 0 < len(mark.target) <= LONGEST_NAME:
            self.problem(
                "E010",
                f"{where}: {mark.target!r} is no timer's name.",
                'Write @on_timer("reminder").',
            )
        elif mark.target in self.timer_handlers:
            other = self.timer_handlers[mark.target]
            self.problem(
                "E010",
                f"{where} and .{other}() both handle the timer {mark.target!r}.",
                "Keep one handler for each timer.",
            )
        else:
            self.timer_handlers[mark.target] = name

    def _read_timeout(self, name: str, where: str, method: Any, mark: Mark) -> None:
        self._takes(method, where, 0, 0, f"{name}(self)")
        if self.timeout_handler:
            self.problem("E010", f"{where} is a second @on_timeout.", "Keep one.")
        self.timeout_handler = name

    def _read_failure(self, name: str, where: str, method: Any, mark: Mark) -> None:
        self._takes(method, where, 1, 1, f"{name}(self, failure)")
        if self.failure_handler:
            self.problem("E010", f"{where} is a second @on_failure.", "Keep one.")
        self.failure_handler = name

    def _read_command_failed(self, name: str, where: str, method: Any, mark: Mark) -> None:
        self._takes(method, where, 1, 1, f"{name}(self, failure)")
        try:
            declared = message_type(mark.target, "command")
        except InvalidMessage as error:
            self.problem("E010", f"{where}: {error}", "Give a class declared with @command.")
            return
        if declared in self.command_failed_handlers:
            self.problem(
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
            self.problem(
                "E002",
                f"{where} has no correlate for {event.cls.__name__}.",
                'Write @handle(…, correlate="order_id"), or Meta.correlate for all handlers.',
            )
            return
        if callable(correlate):
            if inspect.iscoroutinefunction(correlate):
                self.problem(
                    "E005", f"{where}: correlate is no plain function.", "Write it with plain def."
                )
            return
        pair = list(correlate.items()) if isinstance(correlate, Mapping) else [(None, correlate)]
        if len(pair) != 1 or not isinstance(pair[0][1], str):
            self.problem(
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
            self.problem(
                "E005",
                f"{where}: correlate names {event_field!r}, which {event.cls.__name__} lacks.",
                remedy,
            )
        if state_field is not None and state_field not in getattr(
            self.cls, "__dataclass_fields__", {}
        ):
            self.problem(
                "E005",
                f"{where}: correlate names {state_field!r}, which is no field of the process.",
                f"Declare it: {state_field}: UUID | None = None",
            )

    # -- what the engine asks -------------------------------------------------------------------

    def events(self) -> list[MessageType]:
        return list(self.event_handlers)

    def calls_user_code(self, declared: MessageType) -> bool:
        """Whether a function of the user's picks the instance."""
        return callable(self.event_handlers[declared].correlate)

    def key_of(self, declared: MessageType, event: object) -> str | None:
        return self.event_handlers[declared].key_of(event)

    @cached_property
    def lets_events_wait(self) -> bool:
        return any(isinstance(h.unmatched, Wait) for h in self.event_handlers.values())

    def __repr__(self) -> str:
        return f"<process {self.name}>"


def _unbound(correlate: Any) -> Any:
    return correlate.__func__ if inspect.ismethod(correlate) else correlate
