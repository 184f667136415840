"""Checks of ``PM_CELERY``, and of what it names."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

from django.core.checks import CheckMessage, register

from pm_celery import export, redaction, registry
from pm_celery.checks.reports import TAG, AppConfigs, mistake, warning
from pm_celery.conf import Settings, get_settings
from pm_celery.definitions import ProcessDefinition
from pm_celery.exceptions import SettingsError

__all__ = ["check_settings"]


@register(TAG)
def check_settings(app_configs: AppConfigs = None, **_: Any) -> list[CheckMessage]:
    """E030: ``PM_CELERY`` is usable. W049, W050, W054: what it names is there."""
    try:
        settings = get_settings()
        export.keeper()
    except SettingsError as error:
        return [mistake("E030", str(error), "Correct PM_CELERY in your settings.")]
    return [
        *_check_redaction(settings),
        *_check_retention(settings),
        *_check_external_events(settings),
    ]


def _check_redaction(settings: Settings) -> Iterator[CheckMessage]:
    known: dict[str, frozenset[str]] = {}
    older = {message.name for message in registry.messages if message.version > 1}
    older |= {owner.name for owner in registry.listeners if getattr(owner, "state_version", 1) > 1}
    for owner in (*registry.messages, *registry.listeners):
        # What is broken has been reported; a policy has no fields.
        with suppress(Exception):
            known[owner.name] = owner.fields.names
    for listener in registry.listeners:
        if isinstance(listener, ProcessDefinition) and listener.name in known:
            known[listener.name] |= set(listener.timer_handlers)
    for pattern in settings.redact:
        owner_pattern, field_pattern = redaction.split(pattern)
        owners = [name for name in known if fnmatchcase(name, owner_pattern)]
        names = {name for owner in owners for name in known[owner]}
        if any(fnmatchcase(name, field_pattern) for name in names):
            continue
        if owner_pattern != "*" and older & set(owners):
            # Rows of theirs may have a field that is called so no longer.
            continue
        near = difflib.get_close_matches(field_pattern, sorted(names), n=1)
        if not owners:
            near = difflib.get_close_matches(owner_pattern, sorted(known), n=1)
        yield warning(
            "W049",
            f"PM_CELERY['REDACT'] names {pattern!r}, which no event, command or process has: nothing is "
            "hidden by it.",
            f"Did you mean {near[0]!r}?" if near else "Correct it, or remove it.",
        )


def _check_retention(settings: Settings) -> Iterator[CheckMessage]:
    known = sorted({listener.name for listener in registry.listeners})
    for process in settings.retention.processes:
        if process not in known:
            near = difflib.get_close_matches(process, known, n=1)
            yield warning(
                "W050",
                f"PM_CELERY['RETENTION'] names {process!r}, which no process and no policy is called.",
                f"Did you mean {near[0]!r}?"
                if near
                else "Remove it once none of its rows are left.",
            )


def _check_external_events(settings: Settings) -> Iterator[CheckMessage]:
    known = sorted({declared.name for declared in registry.messages if declared.kind == "event"})
    for pattern in settings.external_events:
        if not any(fnmatchcase(name, pattern) for name in known):
            near = difflib.get_close_matches(pattern, known, n=1)
            yield warning(
                "W054",
                f"PM_CELERY['EXTERNAL_EVENTS'] names {pattern!r}, which no event is called.",
                f"Did you mean {near[0]!r}?" if near else "Correct it, or remove it.",
            )
