"""Beat's entries: installed by themselves wherever Beat or a worker starts."""

from __future__ import annotations

from typing import Any

from celery import signals

from pm_celery.conf import get_settings

__all__ = ["connect", "entries"]

# A tick that waited longer than this behind a backlog helps nobody. Long, for the clocks of Beat and of
# the workers may differ by minutes, and a worker that finds every tick expired would never tick.
_EXPIRES_SECONDS = 300


def entries() -> dict[str, dict[str, Any]]:
    """The schedule entries, by name, in the form of Celery's ``beat_schedule``."""
    settings = get_settings()
    if settings.tick_seconds is None:
        return {}
    found: dict[str, dict[str, Any]] = {
        "pm_celery.tick": {
            "task": "pm_celery.tick",
            "schedule": settings.tick_seconds,
            "options": {"expires": _EXPIRES_SECONDS},
        }
    }
    if settings.retention is not None:
        found["pm_celery.prune"] = {"task": "pm_celery.prune", "schedule": 3600.0}
    return found


def _install(sender: Any, **_: Any) -> None:
    # Both of Celery's schedulers, the file's and django-celery-beat's, read `beat_schedule`.
    for name, entry in entries().items():
        sender.conf.beat_schedule.setdefault(name, entry)


def connect() -> None:
    """Install the entries when a Celery app imports its modules, as worker and Beat do first."""
    signals.import_modules.connect(_install, weak=False, dispatch_uid="pm_celery.beat")
