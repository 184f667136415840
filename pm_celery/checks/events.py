"""Checks of events that lead nowhere: nobody handles them, or nobody publishes them.

Told only where it can be known: of events that the project's own apps declare. What another package brings
may be meant for others; what other services publish, or hear, is named in ``PM_CELERY["EXTERNAL_EVENTS"]``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, register

from pm_celery import registry
from pm_celery.checks.mentions import TooMuch, is_anything_published, unused
from pm_celery.checks.reports import TAG, AppConfigs, warning
from pm_celery.conf import Settings, get_settings
from pm_celery.definitions import ProcessDefinition
from pm_celery.exceptions import SettingsError
from pm_celery.messages import MessageType

__all__ = ["check_events"]

# Commands that check the project too, many times a day: they do not read all its sources.
_HASTY = {"makemigrations", "migrate", "runserver", "test"}


@register(TAG)
def check_events(app_configs: AppConfigs = None, **_: Any) -> list[CheckMessage]:
    """W008: an event that nobody handles. W009: an event that no source of the project makes."""
    try:
        settings = get_settings()
    except SettingsError:
        return []
    if any(listener.problems for listener in registry.listeners):
        # Who hears what is not known before these are put right.
        return []
    heard = {event.name for listener in registry.listeners for event in listener.events()}
    ours = [declared for declared in registry.messages if _is_ours(declared, settings)]
    unheard = [declared for declared in ours if declared.name not in heard]
    found = [*_unheard(unheard, settings)]
    if _HASTY.isdisjoint(sys.argv[1:2]):
        found += _unpublished([declared for declared in ours if declared.name in heard])
    return found


def _is_ours(declared: MessageType, settings: Settings) -> bool:
    # A class that others are derived from is there for them.
    if declared.kind != "event" or declared.cls.__subclasses__():
        return False
    if any(fnmatchcase(declared.name, pattern) for pattern in settings.external_events):
        return False
    app = apps.get_containing_app_config(declared.cls.__module__)
    return app is not None and _is_of_the_project(Path(app.path))


def _is_of_the_project(path: Path) -> bool:
    return not {"site-packages", "dist-packages"}.intersection(path.parts)


def _unheard(events: Sequence[MessageType], settings: Settings) -> Iterator[CheckMessage]:
    modules = ", ".join(f"{name}.py" for name in settings.autodiscover)
    for declared in events:
        yield warning(
            "W008",
            f"Nobody handles the event {_where(declared)}: publishing it does nothing.",
            f"Write @handle or @policy for it, in one of {modules} of an installed app, or remove it. "
            f"{_external(declared)}",
        )


def _unpublished(events: Sequence[MessageType]) -> Iterator[CheckMessage]:
    folders = _folders(events)
    try:
        if not is_anything_published(folders, but_in=_homes_of_handlers()):
            # What begins a process comes by hand, or from elsewhere: a first try, or another service.
            return
        left = unused({declared.cls.__name__ for declared in events}, folders)
    except (TooMuch, OSError):
        return
    for declared in events:
        if declared.cls.__name__ in left:
            yield warning(
                "W009",
                f"Nobody publishes the event {_where(declared)}: it is handled, and no source of this "
                "project makes one.",
                f"Publish it, or remove it and its handlers. {_external(declared)}",
            )


def _homes_of_handlers() -> set[Path]:
    """The files of processes, policies and command handlers: what these publish is an answer to something."""
    modules = {
        listener.cls.__module__
        if isinstance(listener, ProcessDefinition)
        else listener.function.__module__
        for listener in registry.listeners
    }
    modules |= {handler.function.__module__ for handler in registry.command_handlers}
    found = (getattr(sys.modules.get(name), "__file__", None) for name in modules)
    return {Path(file) for file in found if file}


def _where(declared: MessageType) -> str:
    return f"{declared.cls.__module__}.{declared.cls.__qualname__}"


def _external(declared: MessageType) -> str:
    return (
        "If other services have to do with it, write "
        f'PM_CELERY = {{"EXTERNAL_EVENTS": ["{declared.name}"]}}.'
    )


def _folders(events: Sequence[MessageType]) -> list[Path]:
    """Where a project's sources are: the apps that declare events first, for there most are published."""
    found = [
        Path(app.path)
        for declared in events
        if (app := apps.get_containing_app_config(declared.cls.__module__)) is not None
    ]
    names = {app.name.partition(".")[0] for app in apps.get_app_configs()}
    names.add(str(getattr(django_settings, "ROOT_URLCONF", "")).partition(".")[0])
    for name in sorted(names):
        package = sys.modules.get(name)
        found += [Path(folder) for folder in getattr(package, "__path__", ())]
    base = getattr(django_settings, "BASE_DIR", None)
    if base is not None:
        with suppress(TypeError):
            found.append(Path(base))
    own = Path(__file__).parents[1]
    return [
        folder for folder in dict.fromkeys(found) if _is_of_the_project(folder) and folder != own
    ]
