"""Policies: stateless reactions to one event."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pm_celery import registry
from pm_celery.decisions import Ignored, Message, Turn
from pm_celery.definitions import Problem
from pm_celery.durations import Duration
from pm_celery.exceptions import InvalidMessage
from pm_celery.messages import LONGEST_NAME, MessageType, message_type
from pm_celery.retries import DEFAULT_RETRY, Retry
from pm_celery.wording import printable

if TYPE_CHECKING:
    from celery.canvas import Signature

__all__ = ["PolicyDefinition", "Reaction", "policy"]

E = TypeVar("E")
R = TypeVar("R")


class Reaction:
    """What a policy may ask and decide while it reacts to one event."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    @property
    def now(self) -> datetime:
        """The moment of handling, in UTC; virtual in tests."""
        return self._turn.now

    @property
    def message(self) -> Message:
        """Ids, attempt and moments of the event."""
        return self._turn.message

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
        """Issue a command; see :meth:`pm_celery.ProcessManager.send`."""
        return self._turn.send(
            command,
            delay=delay,
            expires=expires,
            queue=queue,
            priority=priority,
            time_limit=time_limit,
            soft_time_limit=soft_time_limit,
        )

    def ignore(self, reason: str) -> Ignored:
        """``return reaction.ignore("why")``: record the event as skipped."""
        return Ignored(printable(str(reason)))


class PolicyDefinition:
    """A policy as the engine sees it."""

    kind = "policy"

    def __init__(
        self, function: Callable[..., Any], event: object, name: str | None, retry: Retry | None
    ) -> None:
        self.function = function
        self.given_name = name
        self.retry = retry or DEFAULT_RETRY
        self.problems: list[Problem] = []
        if not isinstance(self.retry, Retry):
            self.problems.append(
                Problem(
                    "E008", f"{self.where}: retry={retry!r} is no Retry.", "Write retry=Retry(…)."
                )
            )
            self.retry = DEFAULT_RETRY
        if name is not None and not (isinstance(name, str) and 0 < len(name) <= LONGEST_NAME):
            self.problems.append(
                Problem(
                    "E008",
                    f"{self.where}: name={name!r:.80} is no usable name.",
                    f"Give 1 to {LONGEST_NAME} characters.",
                )
            )
            self.given_name = None
        self.event: MessageType | None = None
        try:
            self.event = message_type(event, "event")
        except InvalidMessage as error:
            self.problems.append(
                Problem("E003", f"{self.where}: {error}", "Give a class declared with @event.")
            )
        if inspect.iscoroutinefunction(function):
            self.problems.append(
                Problem("E009", f"{self.where} is no plain function.", "Write it with plain def.")
            )
        try:
            inspect.signature(function).bind(None, None)
        except TypeError:
            self.problems.append(
                Problem(
                    "E009",
                    f"{self.where} takes the wrong parameters.",
                    f"Write def {function.__name__}(event, reaction).",
                )
            )

    @property
    def name(self) -> str:
        module = self.function.__module__
        return self.given_name or f"{registry.app_label_of(module)}.{self.function.__name__}"

    @property
    def where(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}"

    def events(self) -> list[MessageType]:
        return [self.event] if self.event else []

    def calls_user_code(self, declared: MessageType) -> bool:
        return False

    def key_of(self, declared: MessageType, event: object) -> str | None:
        return ""

    def __repr__(self) -> str:
        return f"<policy {self.name}>"


def policy(
    event: type[E], *, name: str | None = None, retry: Retry | None = None
) -> Callable[[Callable[[E, Reaction], R]], Callable[[E, Reaction], R]]:
    """Declare a function ``(event, reaction)`` as a stateless reaction to one event.

    It is delivered, retried and dead-lettered like a process manager's handler; it has no key, no
    state and no order. It returns nothing, or ``reaction.ignore("why")``.

    event: a class that is declared with :func:`event`.
    name: stored in rows, so stable; default ``<app label>.<function name>``.
    retry: default ``Retry()``.
    """

    def declare(function: Callable[[E, Reaction], R]) -> Callable[[E, Reaction], R]:
        registry.listeners.add(PolicyDefinition(function, event, name, retry))
        return function

    return declare
