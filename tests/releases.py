"""Three releases of a small shop, of which each gives its event, its command and its state another shape."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from pm_celery import (
    Failure,
    ProcessManager,
    Retry,
    command,
    command_handler,
    event,
    handle,
    on_command_failed,
    on_failure,
    policy,
    upcast,
)
from pm_celery.registry import isolated_registries

NEWEST = 3


class Release:
    """What one release declares. told: what its handlers were given. broken: those that raise."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.told: list[Any] = []
        self.broken: set[str] = set()
        self.Placed = self.declare_event("releases.Placed", event)
        self.Charge = self.declare_event("releases.Charge", command)
        self.Asked: Any = self.declare_asked()
        self.declare_upcasts(self.Placed)
        self.declare_upcasts(self.Charge)
        self.Order = self.declare_process()
        self.declare_functions()

    def declare_event(self, name: str, decorator: Any) -> Any:
        declare = decorator(name=name, version=self.number)
        match self.number:
            case 1:

                class First:
                    order: str
                    cents: int

                return declare(First)
            case 2:

                class Second:
                    order: str
                    total: Decimal

                return declare(Second)
            case _:

                class Third:
                    order: str
                    total: Decimal
                    currency: str

                return declare(Third)

    def declare_asked(self) -> Any:
        @event(name="releases.Asked")
        class Asked:
            order: str

        return Asked

    def declare_upcasts(self, message: Any) -> None:
        if self.number > 1:

            @upcast(message, from_version=1)
            def in_whole_units(payload: dict[str, Any]) -> dict[str, Any]:
                if payload["cents"] < 0:
                    raise ValueError(f"{payload['cents']} cents?")
                payload["total"] = Decimal(payload.pop("cents")) / 100
                return payload

        if self.number > 2:

            @upcast(message, from_version=2)
            def with_currency(payload: dict[str, Any]) -> dict[str, Any]:
                return {**payload, "currency": "EUR"}

    def declare_process(self) -> type[ProcessManager]:
        release = self
        fields: dict[str, tuple[Any, Any]] = {
            "asked": (int, 0),
            **({"cents": (int, 0)} if self.number == 1 else {"total": (Decimal, Decimal(0))}),
            **({"currency": (str, "")} if self.number > 2 else {}),
        }

        class Order(ProcessManager):
            __annotations__ = {name: kind for name, (kind, _) in fields.items()}
            locals().update({name: default for name, (_, default) in fields.items()})

            class Meta:
                name = "releases.order"
                correlate = "order"
                retry = Retry("none")
                state_version = self.number

            @classmethod
            def upgrade_state(cls, state: dict[str, Any], from_version: int) -> dict[str, Any]:
                if from_version == 1:
                    if state["cents"] < 0:
                        raise ValueError(f"{state['cents']} cents?")
                    state["total"] = str(Decimal(state.pop("cents")) / 100)
                elif from_version == 2:
                    state["currency"] = "EUR"
                return state

            @handle(self.Placed, start=True)
            def placed(self, event: Any) -> None:
                release.tell("placed", event)
                for name, value in asdict(event).items():
                    if name in fields:
                        setattr(self, name, value)
                self.send(release.Charge(**asdict(event)))

            @handle(self.Asked)
            def was_asked(self, event: Any) -> None:
                release.tell("asked", self)
                self.asked += 1

            @on_failure
            def failed(self, failure: Failure) -> None:
                release.tell("failed", failure.message)

            @on_command_failed(self.Charge)
            def not_charged(self, failure: Failure) -> None:
                release.tell("not_charged", failure.message)

        return Order

    def declare_functions(self) -> None:
        @policy(self.Placed, name="releases.count")
        def count(event: Any, reaction: Any) -> None:
            self.told.append(("counted", event))

        @command_handler(self.Charge, retry=Retry("none"))
        def charge(command: Any) -> None:
            self.tell("charge", command)

    def tell(self, place: str, thing: Any) -> None:
        if isinstance(thing, ProcessManager):
            thing = {name: getattr(thing, name) for name in type(thing).__dataclass_fields__}
        self.told.append((place, thing))
        if place in self.broken:
            raise RuntimeError(f"{place} is broken")

    def of(self, place: str) -> list[dict[str, Any]]:
        """What a place was given, as dicts."""
        return [
            thing if isinstance(thing, dict | None) else asdict(thing)
            for where, thing in self.told
            if where == place
        ]


@contextmanager
def release(number: int = NEWEST, *broken: str) -> Iterator[Release]:
    """While this release runs."""
    with isolated_registries():
        found = Release(number)
        found.broken |= set(broken)
        yield found
