"""A log's event classes, one for each activity, and the process manager that follows its cases.

They are known only when a log has been read. The command declares them and gives its workers the same
definition: pm_celery imports this module there, and they declare what the command declared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pm_celery import ProcessManager, event, handle
from replay.definition import Definition

__all__ = ["declare"]


class Case(ProcessManager):
    """Follows one case of a log."""

    events: int = 0
    activity: str = ""
    at: datetime | None = None

    class Meta:
        abstract = True


def declare(definition: Definition) -> list[type]:
    """Declare the event classes, which are returned in the activities' order, and the process."""
    events = [_event(definition, number) for number in range(len(definition.activities))]
    handlers = {
        f"activity_{number}": handle(
            events[number], correlate="case", start=activity.start, end=activity.end
        )(_follow(activity.name))
        for number, activity in enumerate(definition.activities)
    }
    meta = type("Meta", (), {"name": definition.process})
    type("Replay", (Case,), {"__module__": __name__, "Meta": meta, **handlers})
    return events


def _event(definition: Definition, number: int) -> type:
    fields = [("case", str), ("at", datetime | None)]
    cls = dataclasses.make_dataclass(f"Activity{number}", fields, frozen=True)
    cls.__module__ = __name__
    return event(name=definition.event(number))(cls)


def _follow(activity: str) -> Callable[[Any, Any], None]:
    def follow(self: Case, event: Any) -> None:
        self.events += 1
        self.activity = activity
        self.at = event.at

    return follow


_definition = Definition.of_this_worker()
if _definition is not None:
    declare(_definition)
