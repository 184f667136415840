"""Command handlers: functions that users declare, each with a Celery task of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar

from celery import shared_task
from django.apps import apps

from pm_celery import registry
from pm_celery.accepting import JSON_ONLY, careful
from pm_celery.durations import Duration, parse_duration
from pm_celery.exceptions import DeclarationError, InvalidMessage
from pm_celery.messages import MessageType, message_type
from pm_celery.retries import DEFAULT_RETRY, Retry

__all__ = ["CommandHandler", "command_handler", "register_tasks"]

C = TypeVar("C")
Handler = TypeVar("Handler", bound=Callable[..., Any])


class CommandHandler:
    """A command's handler as the outbox sees it."""

    def __init__(
        self,
        function: Callable[..., Any],
        command: MessageType,
        retry: Retry,
        expires: timedelta | None,
        options: dict[str, Any],
    ) -> None:
        self.function = function
        self.command = command
        self.retry = retry
        self.expires = expires
        # Celery frowns on queue and priority as attributes of a task: they go with each message.
        self.message_options = {k: v for k, v in options.items() if k in ("queue", "priority")}
        self.task_options = {k: v for k, v in options.items() if k not in self.message_options}
        self.registered_as: str | None = None

    @property
    def name(self) -> str:
        return self.command.name

    @property
    def task_name(self) -> str:
        """The name of the Celery task that runs it."""
        return f"pm_celery.command.{self.name}"

    @cached_property
    def takes_message(self) -> bool:
        """Whether the function has a second parameter, for the :class:`Message`."""
        try:
            inspect.signature(self.function).bind(None, None)
        except TypeError:
            return False
        return True

    @property
    def may_share_a_message(self) -> bool:
        """Whether several commands may come in one message: a limit of one task would be theirs in all."""
        return not self.task_options

    def register_task(self) -> None:
        """Register the Celery task, once the command's wire name is known."""
        if self.registered_as == self.name:
            return
        self.registered_as = self.name

        name = self.name

        @careful(self.task_name)
        def run(command_id: str | list[str]) -> str:
            from pm_celery import execution

            if isinstance(command_id, list):
                return execution.run_each(command_id, name)
            return execution.run(command_id, name)

        run.__doc__ = inspect.getdoc(self.function)
        run.__module__ = self.function.__module__
        shared_task(name=self.task_name, ignore_result=True, **JSON_ONLY, **self.task_options)(run)  # type: ignore[no-untyped-call]


def command_handler(
    command: type[C],
    *,
    retry: Retry | None = None,
    queue: str | None = None,
    priority: int | None = None,
    rate_limit: str | None = None,
    time_limit: float | None = None,
    soft_time_limit: float | None = None,
    expires: Duration | None = None,
) -> Callable[[Handler], Handler]:
    """Declare a function ``(command)`` or ``(command, message)`` as the handler of one command.

    It runs in a Celery task, in one database transaction with the mark that it ran: what it writes and
    publishes takes effect once, however often the task is delivered. Calls to third parties may repeat:
    give them ``message.id`` as idempotency key. The function itself stays callable as it is.

    retry: after which errors and waits it runs again. Default: ``Retry()``.
    expires: give the command up, as a dead letter, if it did not start within this time after it was
        issued; a duration, or a ``timedelta``.
    queue, priority: of its Celery messages.
    rate_limit, time_limit, soft_time_limit: of its Celery task; limits in seconds.

    Raises ``DeclarationError`` for what is no command, or cannot be. The row that waits until the handler ran
    is a *transactional outbox*, and the mark that it ran makes it an *idempotent receiver*.
    """
    try:
        declared = message_type(command, "command")
    except InvalidMessage as error:
        raise DeclarationError(f"@command_handler: {error}") from None
    if retry is not None and not isinstance(retry, Retry):
        raise DeclarationError(
            f"@command_handler({command.__name__}, retry={retry!r}): give a Retry."
        )
    try:
        life = None if expires is None else parse_duration(expires)
    except ValueError as error:
        raise DeclarationError(
            f"@command_handler({command.__name__}, expires=…): {error}"
        ) from None
    options = {
        "queue": queue,
        "priority": priority,
        "rate_limit": rate_limit,
        "time_limit": time_limit,
        "soft_time_limit": soft_time_limit,
    }

    def declare(function: Handler) -> Handler:
        if inspect.iscoroutinefunction(function):
            raise DeclarationError(
                f"@command_handler on {function.__qualname__}: write it with plain def."
            )
        registry.command_handlers.add(
            CommandHandler(
                function,
                declared,
                retry or DEFAULT_RETRY,
                life,
                {name: value for name, value in options.items() if value is not None},
            )
        )
        _register_tasks_if_ready()
        return function

    return declare


def register_tasks() -> None:
    """Register a Celery task for every command handler. Idempotent."""
    for handler in registry.command_handlers:
        handler.register_task()


def _register_tasks_if_ready() -> None:
    # Before that, wire names that depend on app labels are not known; AppConfig.ready() does it then.
    if apps.ready:
        register_tasks()
