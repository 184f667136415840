"""Beat's entries: installed by themselves wherever Beat or a worker starts."""

from __future__ import annotations

from typing import Any

from celery import current_app, signals

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
    if settings.retention.ages:
        found["pm_celery.prune"] = {"task": "pm_celery.prune", "schedule": 3600.0}
    return found


def _install(sender: Any, **_: Any) -> None:
    """Add our entries to a configured app's schedule, where both of Celery's schedulers read them."""
    for name, entry in entries().items():
        sender.conf.beat_schedule.setdefault(name, entry)


def connect() -> None:
    """Install the entries once the project's Celery app is configured, which it may be already.

    `celery beat` sets Django up in the middle of its start, `celery worker` at another point of it, and
    a project may configure its app before or after: so neither moment alone would do.
    """
    app: Any = current_app
    if app.configured:
        _install(app)
    else:
        app.on_after_configure.connect(_install, weak=False, dispatch_uid="pm_celery.beat")
    # For an app that becomes the current one only later.
    signals.import_modules.connect(_install, weak=False, dispatch_uid="pm_celery.beat")
