"""The one place that logs: announcements become log lines, with stable keys in ``extra``."""

from __future__ import annotations

import logging
from typing import Any

from pm_celery import signals
from pm_celery.wording import name_of, one_line, text_of

__all__ = ["connect"]

logger = logging.getLogger("pm_celery")

_NEWS: list[tuple[Any, int, str]] = [
    (
        signals.batch_recorded,
        logging.DEBUG,
        "partition %(partition)s: %(transitions)s transitions, %(skipped)s skipped, "
        "%(unmatched)s unmatched",
    ),
    (
        signals.message_retried,
        logging.WARNING,
        "%(process)s %(key)s: %(name)s failed in run %(attempts)s, again at %(retry_at)s: %(error_text)s",
    ),
    (
        signals.command_retried,
        logging.WARNING,
        "%(process)s %(key)s: %(name)s %(command_id)s failed in run %(attempts)s, again at %(retry_at)s: "
        "%(error_text)s",
    ),
    (signals.command_settled, logging.DEBUG, "%(name)s %(command_id)s: %(status)s"),
    (
        signals.died,
        logging.ERROR,
        "dead letter %(letter_id)s (%(place)s): %(process)s %(key)s %(name)s %(message_id)s: %(error_text)s",
    ),
    (
        signals.unknown_message,
        logging.WARNING,
        "%(process)s: %(name)s v%(version)s (%(message_id)s) is unknown to this release; it waits: %(why)s",
    ),
    (
        signals.worker_lost,
        logging.WARNING,
        "a worker died in a batch of %(messages)s messages; each is now run by itself",
    ),
    (
        signals.broker_unreachable,
        logging.WARNING,
        "Celery did not take %(what)s, a later tick sends it: %(error_text)s",
    ),
    (signals.message_refused, logging.WARNING, "%(task)s did nothing: %(why)s"),
    (signals.operated, logging.INFO, "%(verb)s %(subject)s by %(by)s; reason: %(reason)s"),
    (
        signals.pruned,
        logging.INFO,
        "pruned %(instances)s instances and %(rows)s other rows, %(spared)s were spared",
    ),
]


def connect() -> None:
    """Connect every announcement to its log line. Idempotent."""
    for signal, level, text in _NEWS:
        signal.connect(_line(level, text), weak=False, dispatch_uid=f"pm_celery.log:{text}")


def _plain(value: Any) -> Any:
    """A value as a log may hold it: names and keys come from outside, and may hold anything."""
    if isinstance(value, BaseException):
        return one_line(f"{name_of(value)}: {text_of(value)}")
    return one_line(value) if isinstance(value, str) else value


def _line(level: int, text: str) -> Any:
    def log(sender: object, signal: object, **news: Any) -> None:
        if logger.isEnabledFor(level):
            told = {key: _plain(value) for key, value in news.items()}
            if "error" in news:
                # Never the exception itself: it may hold what PM_CELERY["REDACT"] hides.
                told["error"] = told.setdefault("error_text", _plain(news["error"]))
            extra = {f"pm_{key}": value for key, value in told.items()}
            logger.log(level, text, told, extra=extra)

    return log
