"""What an instance waits for: the events that its handlers could still take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pm_celery import registry
from pm_celery.definitions import ProcessDefinition
from pm_celery.models import Instance
from pm_celery.operations.diagram import RoadStep, road

__all__ = ["Awaited", "awaited"]


@dataclass(frozen=True, slots=True)
class Awaited:
    """An event that a handler of the instance could still take. handled: whether one came already."""

    name: str
    handled: bool


def awaited(instance: Instance, seen: Sequence[RoadStep] | None = None) -> list[Awaited]:
    """What an instance that runs could still take: what it has not had yet comes first.

    seen: its road, if the caller has it. Of one that has ended, or whose process this release does not
    declare, nothing is known.
    """
    definition = registry.listeners.get(instance.process)
    if instance.ended_at is not None or not isinstance(definition, ProcessDefinition):
        return []
    had = {step.name for step in (road(instance) if seen is None else seen) if step.kind == "event"}
    names = [event.name for event in definition.event_handlers]
    return sorted((Awaited(name, name in had) for name in names), key=lambda one: one.handled)
