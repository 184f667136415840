"""What a worker that starts tells of the checks.

Celery runs Django's checks then, and throws away what they find: a worker would start with a process that has
no start event, and say nothing.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from celery import signals
from celery.exceptions import WorkerShutdown
from django.core.checks import run_checks

from pm_celery.checks.reports import TAG

__all__ = ["connect"]

# As in sysexits.h: for whoever supervises it, there is no use in starting it again.
_EX_CONFIG = 78

logger = logging.getLogger("pm_celery")


def _check(**_: Any) -> None:
    # Celery's own way to start without any checks.
    if os.environ.get("CELERY_SKIP_CHECKS"):
        return
    found = [message for message in run_checks(tags=[TAG]) if not message.is_silenced()]
    for message in found:
        logger.log(message.level, "%s: %s %s", message.id, message.msg, message.hint or "")
    if any(message.is_serious() for message in found):
        logger.critical("The worker does not start: its project has errors. They are above.")
        # Not any exception: Celery's signals swallow those.
        raise WorkerShutdown(_EX_CONFIG)


def connect() -> None:
    """Let every worker that starts in this process run the checks, once its logging is set up. Idempotent."""
    signals.celeryd_after_setup.connect(_check, weak=False, dispatch_uid="pm_celery.checks")
