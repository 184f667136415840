"""Process managers (sagas) for Django and Celery.

Importing this package loads no models and reads no settings; what needs them is loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pm_celery.commands import command_handler as command_handler
    from pm_celery.decisions import Failure as Failure
    from pm_celery.decisions import Message as Message
    from pm_celery.handlers import Wait as Wait
    from pm_celery.handlers import handle as handle
    from pm_celery.handlers import on_command_failed as on_command_failed
    from pm_celery.handlers import on_failure as on_failure
    from pm_celery.handlers import on_timeout as on_timeout
    from pm_celery.handlers import on_timer as on_timer
    from pm_celery.messages import command as command
    from pm_celery.messages import event as event
    from pm_celery.policies import Reaction as Reaction
    from pm_celery.policies import policy as policy
    from pm_celery.process import ProcessManager as ProcessManager
    from pm_celery.publishing import Envelope as Envelope
    from pm_celery.publishing import apublish as apublish
    from pm_celery.publishing import publish as publish
    from pm_celery.publishing import publish_many as publish_many
    from pm_celery.redaction import Sensitive as Sensitive
    from pm_celery.retries import Retry as Retry
    from pm_celery.versions import upcast as upcast

__all__ = [
    "Envelope",
    "Failure",
    "Message",
    "ProcessManager",
    "Reaction",
    "Retry",
    "Sensitive",
    "Wait",
    "apublish",
    "command",
    "command_handler",
    "event",
    "handle",
    "on_command_failed",
    "on_failure",
    "on_timeout",
    "on_timer",
    "policy",
    "publish",
    "publish_many",
    "upcast",
]

_HOMES = {
    "commands": ("command_handler",),
    "decisions": ("Failure", "Message"),
    "messages": ("command", "event"),
    "policies": ("Reaction", "policy"),
    "process": ("ProcessManager",),
    "handlers": (
        "Wait",
        "handle",
        "on_command_failed",
        "on_failure",
        "on_timeout",
        "on_timer",
    ),
    "publishing": ("Envelope", "apublish", "publish", "publish_many"),
    "redaction": ("Sensitive",),
    "retries": ("Retry",),
    "versions": ("upcast",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'pm_celery' has no attribute {name!r}")
    try:
        found = getattr(import_module(f"pm_celery.{_HOME_OF[name]}"), name)
    except Exception as error:
        _explain(error, name)
        raise
    globals()[name] = found
    return found


def _explain(error: Exception, name: str) -> None:
    from django.apps import apps

    if not apps.apps_ready:
        error.add_note(
            f"pm_celery.{name} needs Django's models, and Django is not set up yet. In a script, set "
            "DJANGO_SETTINGS_MODULE and call django.setup() before. In apps.py, or in the __init__.py of "
            "an app or of the project, import it in the function that uses it."
        )


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
