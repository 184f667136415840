"""Versions: what an older release stored, brought to the form of this one, a version at a time.

A step is a function from JSON data to JSON data: an :func:`upcast` of an event or command, or a process's
``upgrade_state``. The idea and the word are from Axon's documentation of event sourcing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import pydantic_core

from pm_celery import registry

__all__ = ["LARGEST", "Step", "StepFailed", "Upcast", "brought_up", "is_version", "upcast"]

# A small integer's column holds it.
LARGEST = 32_767

Data = dict[str, Any]
F = TypeVar("F", bound=Callable[[Data], Data])


def is_version(value: object) -> bool:
    """Whether it can be a version: a whole number from 1."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST


@dataclass(frozen=True, slots=True)
class Step:
    """What leads from one version to the next. where: how errors call it."""

    where: str
    function: Callable[[Any], Any]


class StepFailed(Exception):
    """A step raised, or returned what is no JSON; the cause is the error of its own.

    data: what the steps began with.
    """

    def __init__(self, where: str, error: Exception, data: Any) -> None:
        super().__init__(where)
        self.where = where
        self.error = error
        self.data = data


def brought_up(text: str, steps: Iterable[Step]) -> str:
    """JSON text after some steps; without any, as it was. Raises ``StepFailed``, or ``ValueError`` and
    ``RecursionError`` for what is no JSON."""
    steps = list(steps)
    if not steps:
        return text
    data = json.loads(text)
    for step in steps:
        try:
            data = step.function(data)
            if not isinstance(data, dict | list):
                raise TypeError(f"it returned {type(data).__name__}, and not the data")
            # Written after each, so that the one that made what is no JSON is named.
            text = pydantic_core.to_json(data).decode()
            data = json.loads(text)
        except Exception as error:
            raise StepFailed(step.where, error, json.loads(text)) from error
    return text


# -- of events and commands -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Upcast:
    """A declared upcast. Whatever is wrong with it, a check says."""

    target: object
    from_version: int
    function: Callable[[Any], Any]

    @property
    def name(self) -> str:
        """Of what, and from which version: no two may have the same."""
        declared = (
            vars(self.target).get("__pm_message__") if isinstance(self.target, type) else None
        )
        return name_of_step(declared.name if declared else repr(self.target), self.from_version)

    @property
    def where(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}"


def name_of_step(message: str, from_version: object) -> str:
    """What the upcast of a message from a version is called in the registry."""
    return f"{message} {from_version!r}"


def steps_of(message: str, from_version: int, to_version: int) -> list[Step]:
    """The upcasts that lead from one version of a message to another; a version without one is left out."""
    found = (
        registry.upcasts.get(name_of_step(message, at)) for at in range(from_version, to_version)
    )
    return [Step(f"the upcast {one.where}", one.function) for one in found if one is not None]


def upcast(message: type, *, from_version: int) -> Callable[[F], F]:
    """Declare a function that brings a stored payload of an event or command to the next version.

    ``@upcast(OrderPlaced, from_version=1)`` decorates a function that takes the payload of version 1, as
    JSON has it (a dict of texts, numbers, lists, …; its own, to change as it likes), and returns that of
    version 2. Several are applied one after the other. It runs wherever an older row is read, any number of
    times, and so must depend on nothing but the payload; the row itself stays as it was written.
    """

    def declare(function: F) -> F:
        registry.upcasts.add(Upcast(message, from_version, function))
        return function

    return declare
