"""The one place that logs: announcements become log lines, with stable keys in ``extra``."""

from __future__ import annotations

import logging
from typing import Any

from pm_celery import signals

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
        "%(process)s %(key)s: %(name)s failed in run %(attempts)s, again at %(retry_at)s: %(error)r",
    ),
    (
        signals.command_retried,
        logging.WARNING,
        "%(name)s %(command_id)s failed in run %(attempts)s, again at %(retry_at)s: %(error)r",
    ),
    (signals.command_settled, logging.DEBUG, "%(name)s %(command_id)s: %(status)s"),
    (
        signals.died,
        logging.ERROR,
        "dead letter %(letter_id)s (%(place)s): %(process)s %(key)s %(name)s %(message_id)s: %(error)r",
    ),
    (
        signals.unknown_message,
        logging.WARNING,
        "%(process)s: %(name)s v%(version)s (%(message_id)s) is unknown to this release; it waits",
    ),
    (
        signals.worker_lost,
        logging.WARNING,
        "a worker died in a batch of %(messages)s messages; each is now run by itself",
    ),
    (
        signals.broker_unreachable,
        logging.WARNING,
        "Celery did not take %(what)s, a later tick sends it: %(error)r",
    ),
    (signals.operated, logging.INFO, "%(verb)s %(subject)s by %(by)s"),
]


def connect() -> None:
    """Connect every announcement to its log line. Idempotent."""
    for signal, level, text in _NEWS:
        signal.connect(_line(level, text), weak=False, dispatch_uid=f"pm_celery.log:{text}")


def _line(level: int, text: str) -> Any:
    def log(sender: object, signal: object, **news: Any) -> None:
        if logger.isEnabledFor(level):
            extra = {f"pm_{key}": value for key, value in news.items()}
            logger.log(level, text, news, extra=extra)

    return log
