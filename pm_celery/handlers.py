"""The decorators that bind a process manager's methods to messages, and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal, TypeVar

from pm_celery.durations import Duration, parse_duration
from pm_celery.keys import correlation_key
from pm_celery.messages import MessageType
from pm_celery.retries import Retry

__all__ = [
    "Correlate",
    "EventHandler",
    "Mark",
    "Unmatched",
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
    """``unmatched=Wait("1h")``: keep an early event until a start event comes, at most so long.

    at_most: a duration, or a ``timedelta``, from the moment at which the event was published.
    """

    at_most: Duration

    @property
    def duration(self) -> timedelta:
        return parse_duration(self.at_most)


Unmatched = Literal["ignore", "dead_letter"] | Wait


@dataclass(frozen=True, slots=True)
class Mark:
    """What a decorator leaves on a method, to be read when its class is complete."""

    sort: Literal["event", "timer", "timeout", "command_failed", "failure"]
    target: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)


def _marking(mark: Mark) -> Callable[[F], F]:
    def leave(method: F) -> F:
        marks: list[Mark] = [*getattr(method, "__pm_marks__", ()), mark]
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
    """Bind a method ``(self, event)`` to one event class.

    event:
        a class that is declared with :func:`event`.
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

    What is wrong with any of it is told by ``manage.py check`` and when a worker starts; nothing is raised
    while the class is declared. That correlation is declared and checked at the start is Commanded's idea.
    """
    options = {
        "correlate": correlate,
        "start": start,
        "end": end,
        "retry": retry,
        "unmatched": unmatched,
    }
    return _marking(Mark("event", event, options))


def on_timer(name: str) -> Callable[[F], F]:
    """Bind a method to the timer of that name: ``(self)``, or ``(self, payload)``, which is validated by its
    annotation."""
    return _marking(Mark("timer", name))


def on_timeout(method: F) -> F:
    """Bind a method ``(self)`` to the process's timeout; the status is timed_out when it has returned."""
    return _marking(Mark("timeout"))(method)


def on_command_failed(command: type) -> Callable[[F], F]:
    """Bind a method ``(self, failure)`` to commands of one class that this instance sent and that failed for
    good; it gets a :class:`Failure`."""
    return _marking(Mark("command_failed", command))


def on_failure(method: F) -> F:
    """Bind a method ``(self, failure)`` to what failed for good and has no handler of its own: a message of
    this instance, or a command that it sent; it gets a :class:`Failure`.

    It runs in a transaction of its own, without retries. If it raises, that is written on the dead letter.
    """
    return _marking(Mark("failure"))(method)


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
