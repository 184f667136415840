"""What our tasks accept: JSON, with the arguments that we send. Anything else does nothing and is logged.

A message only says where to look, so one that was forged, or left by another release, is no accident to be
retried: it is refused, in one line, and the rows tell what there is to do.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from celery.utils.log import get_task_logger

from pm_celery import signals
from pm_celery.exceptions import RefusedMessage
from pm_celery.wording import text_of

__all__ = ["JSON_ONLY", "careful", "json_only"]

R = TypeVar("R")

_JSON = "application/json"
logger = get_task_logger(__name__)


def careful(name: str) -> Callable[[Callable[..., R]], Callable[..., R | str]]:
    """Let a task refuse what it was not meant to be called with, instead of failing with a traceback."""

    def decorate(function: Callable[..., R]) -> Callable[..., R | str]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> R | str:
            try:
                signature.bind(*arguments, **named)
            except TypeError as error:
                return _refuse(name, error)
            try:
                return function(*arguments, **named)
            except RefusedMessage as refused:
                return _refuse(name, refused)

        return run

    return decorate


def _refuse(task: str, error: Exception) -> str:
    why = text_of(error)[:300]
    signals.message_refused.send_robust(sender=None, task=task, why=why)
    return f"refused: {why}"


def json_only(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Celery's strategy for a task whose messages are JSON, whatever the app accepts.

    It decides before the body is decoded. (Of a message in Celery's first protocol the body is decoded
    to find out which task it is for: there only the app's ``accept_content`` helps, see W048.)
    """
    from celery.worker.strategy import default

    handle = default(task, app, consumer, **options)

    def handle_json(message: Any, *arguments: Any, **named: Any) -> Any:
        if message.content_type != _JSON:
            # Thrown away as Celery does with a message it cannot read, but without printing what is in it.
            message.reject_log_error(logger, consumer.connection_errors)
            return _refuse(
                task.name, RefusedMessage(f"its message is {message.content_type!r:.80}")
            )
        return handle(message, *arguments, **named)

    return handle_json


# How each of our tasks is declared: its own messages are JSON too, whatever the app's serializer is.
JSON_ONLY: dict[str, Any] = {
    "serializer": "json",
    "Strategy": f"{json_only.__module__}:{json_only.__qualname__}",
}
