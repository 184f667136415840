"""System checks of versions: upcasts of events and commands, and upgrades of states."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, register

from pm_celery import registry
from pm_celery.checks.reports import TAG, AppConfigs, mistake, warning
from pm_celery.definitions import ProcessDefinition
from pm_celery.messages import MessageType
from pm_celery.process import ProcessManager
from pm_celery.versions import Upcast, is_version

__all__ = ["check_versions"]


@register(TAG)
def check_versions(app_configs: AppConfigs = None, **_: Any) -> list[CheckMessage]:
    """E012 to E015, W007. E016 is a problem of the process itself."""
    found: list[CheckMessage] = []
    steps: dict[MessageType, dict[int, list[Upcast]]] = {}
    declared = {message.cls: message for message in registry.messages}
    for upcast in registry.upcasts:
        found += _check_function(upcast)
        message = declared.get(upcast.target) if isinstance(upcast.target, type) else None
        if message is None:
            found.append(_of_nothing(upcast))
        elif not is_version(upcast.from_version) or upcast.from_version >= message.version:
            found.append(_from_nothing(upcast, message))
        else:
            steps.setdefault(message, {}).setdefault(upcast.from_version, []).append(upcast)
    for message, of_message in steps.items():
        found += _check_chain(message, of_message)
    for listener in registry.listeners:
        if isinstance(listener, ProcessDefinition):
            found += _check_state(listener)
    return found


def _of_nothing(upcast: Upcast) -> CheckMessage:
    named = getattr(upcast.target, "__qualname__", repr(upcast.target))
    return mistake(
        "E012",
        f"{upcast.where} is an upcast of {named}, which is no event and no command.",
        "Decorate its class with @event or @command, and give the class and not its name.",
    )


def _from_nothing(upcast: Upcast, message: MessageType) -> CheckMessage:
    next_one = upcast.from_version + 1 if is_version(upcast.from_version) else message.version + 1
    return mistake(
        "E013",
        f"{upcast.where} is an upcast of {message.name} from version {upcast.from_version!r}, and "
        f"its present one is {message.version}.",
        f"Raise that, as in @{message.kind}(version={next_one}), or give a whole number from 1 below it.",
    )


def _check_function(upcast: Upcast) -> Iterator[CheckMessage]:
    try:
        inspect.signature(upcast.function).bind({})
        is_usable = not inspect.iscoroutinefunction(upcast.function)
    except TypeError:
        is_usable = False
    if not is_usable:
        yield mistake(
            "E015",
            f"{upcast.where} is an upcast, and no plain function of a payload.",
            "Write def …(payload): return …, which takes a dict and returns one.",
        )


def _check_chain(message: MessageType, steps: dict[int, list[Upcast]]) -> Iterator[CheckMessage]:
    for at in range(min(steps), message.version):
        found = steps.get(at, [])
        if len(found) > 1:
            yield mistake(
                "E014",
                f"{' and '.join(one.where for one in found)} are both upcasts of {message.name} from version "
                f"{at}.",
                "Keep one for each version.",
            )
        if not found:
            yield mistake(
                "E014",
                f"{message.name} has an upcast from version {min(steps)}, and none from version {at}: that "
                "step would be left out.",
                f"Write @upcast({message.cls.__name__}, from_version={at}); where nothing changed, it "
                "returns the payload as it is.",
            )


def _check_state(definition: ProcessDefinition) -> Iterator[CheckMessage]:
    own = inspect.getattr_static(definition.cls, "upgrade_state")
    has_own = own is not inspect.getattr_static(ProcessManager, "upgrade_state")
    version = definition.state_version
    if version > 1 and not has_own:
        yield warning(
            "W007",
            f"{definition.where} has Meta.state_version = {version} and no upgrade_state: the states of "
            "older releases are read as they are.",
            "Write @classmethod def upgrade_state(cls, state, from_version); where nothing changed, it "
            "returns the state as it is.",
        )
    if version == 1 and has_own:
        yield warning(
            "W007",
            f"{definition.where} has an upgrade_state that is never called: its Meta.state_version is 1.",
            "Write state_version = 2 in its Meta.",
        )
