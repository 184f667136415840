"""Checks of what users declare: processes, policies, events, commands and their handlers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from django.core.checks import CheckMessage, register
from pydantic import ValidationError

from pm_celery import redaction, registry
from pm_celery.checks.reports import TAG, AppConfigs, mistake, warning
from pm_celery.conf import get_settings
from pm_celery.definitions import ProcessDefinition
from pm_celery.exceptions import SettingsError
from pm_celery.process import ProcessManager

__all__ = ["check_declarations"]


@register(TAG)
def check_declarations(app_configs: AppConfigs = None, **_: Any) -> list[CheckMessage]:
    """E001 to E023, W001 to W006: processes, policies, events, commands and their handlers."""
    found: list[CheckMessage] = []
    for listener in registry.listeners:
        found += [mistake(p.id, p.text, p.hint) for p in listener.problems]
        if isinstance(listener, ProcessDefinition) and not listener.problems:
            found += _check_process(listener)
            found += _check_shown_keys(listener)
    found += _check_names()
    found += _check_messages()
    return found


def _check_process(definition: ProcessDefinition) -> Iterator[CheckMessage]:
    try:
        definition.dump(definition.initial())
    except SettingsError:
        # E030 tells it, once.
        return
    except Exception as error:  # noqa: BLE001 -- a field's default or type may raise anything
        yield mistake(
            "E007",
            f"{definition.where}: its state cannot be stored: {error}",
            "Give each field a type that pydantic can write as JSON, and a default of that type.",
        )
        return
    handlers = definition.event_handlers.values()
    methods = [h.method for h in handlers] + list(definition.timer_handlers.values())
    methods += [*definition.command_failed_handlers.values()]
    methods += [m for m in (definition.timeout_handler, definition.failure_handler) if m]
    completes = any(map(_calls_complete, _members(definition.cls)))
    if not definition.timeout and not completes and not any(h.end for h in handlers):
        yield warning(
            "W001",
            f"{definition.where} has no path to an end: its instances run for ever.",
            "Write @handle(…, end=True), Meta.completed_by, Meta.timeout, or call self.complete().",
        )
    if len(methods) == 1 and not definition.timeout:
        yield warning(
            "W005",
            f"{definition.where} handles one event and has no timeout: it coordinates nothing.",
            "Use @policy for a reaction to a single event.",
        )
    elif not definition.timeout:
        yield warning(
            "W002",
            f"{definition.where} has no timeout: an instance whose next event never comes stays for ever.",
            'Write timeout = "7d" in its Meta.',
        )
    elif not definition.timeout_handler:
        yield warning(
            "W003",
            f"{definition.where} has a timeout but no handler for it: nothing is undone when it passes.",
            "Write a method with @on_timeout.",
        )
    if not definition.failure_handler and len(methods) > 1:
        yield warning(
            "W004",
            f"{definition.where} has no failure handler: a failure is seen in the dead letters only.",
            "Write a method with @on_failure.",
        )


def _members(cls: type) -> Iterator[object]:
    """What the user's classes define, helper methods included."""
    for base in cls.__mro__:
        if base not in (ProcessManager, object):
            yield from vars(base).values()


def _calls_complete(member: object) -> bool:
    code = getattr(member, "__code__", None)
    return code is not None and "complete" in code.co_names


def _check_names() -> Iterator[CheckMessage]:
    for name, listeners in registry.listeners.shared_names().items():
        where = " and ".join(listener.where for listener in listeners)
        yield mistake(
            "E011",
            f"{where} share the name {name!r}: their instances would be mixed up.",
            'Write name = "…" in the Meta of one of them.',
        )
    for name, declared in registry.messages.shared_names().items():
        where = " and ".join(f"{m.cls.__module__}.{m.cls.__qualname__}" for m in declared)
        yield mistake(
            "E022",
            f"{where} share the wire name {name!r}.",
            f'Write @{declared[0].kind}(name="…").',
        )
    for name, handlers in registry.command_handlers.shared_names().items():
        where = " and ".join(f"{h.function.__module__}.{h.function.__qualname__}" for h in handlers)
        yield mistake("E021", f"{where} both handle {name}.", "A command has exactly one handler.")


def _check_messages() -> Iterator[CheckMessage]:
    for declared in registry.messages:
        where = f"{declared.cls.__module__}.{declared.cls.__qualname__}"
        try:
            # Reads nothing that could be right; what is not defined raises something else.
            with suppress(ValidationError):
                declared.adapter.validate_json("null")
        except Exception as error:  # noqa: BLE001 -- pydantic raises what annotations raise
            yield mistake(
                "E023",
                f"{where} cannot be stored: {str(error).splitlines()[0]}",
                "Give its fields types that pydantic can write as JSON.",
            )
            continue
        if declared.kind == "command" and registry.command_handlers.get(declared.name) is None:
            modules = ", ".join(f"{name}.py" for name in _autodiscovered())
            yield mistake(
                "E020",
                f"The command {where} has no handler.",
                f"Write @command_handler({declared.cls.__name__}) in one of {modules} of an installed app.",
            )


def _check_shown_keys(definition: ProcessDefinition) -> Iterator[CheckMessage]:
    for declared, handler in definition.event_handlers.items():
        if callable(handler.correlate) or handler.correlate is None:
            continue
        with suppress(Exception):
            if redaction.is_hidden(declared.name, handler.event_field):
                yield warning(
                    "W006",
                    f"{definition.where} correlates {declared.cls.__name__} by {handler.event_field!r}, "
                    "which is a sensitive field: keys are shown on pages and in logs.",
                    "Correlate by an id that says nothing about a person.",
                )


def _autodiscovered() -> tuple[str, ...]:
    try:
        return get_settings().autodiscover
    except SettingsError:
        return ("processes",)
