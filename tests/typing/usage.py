"""What a user's code looks like to a type checker: mypy --strict passes on this file.

Lines with ``type: ignore`` are mistakes that it must find; mypy complains if one of them is none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID, uuid4

import pydantic
from celery import shared_task

from pm_celery import (
    Envelope,
    Failure,
    Message,
    ProcessManager,
    Reaction,
    Retry,
    Sensitive,
    Wait,
    apublish,
    command,
    command_handler,
    event,
    handle,
    on_command_failed,
    on_failure,
    on_timeout,
    on_timer,
    policy,
    publish,
    publish_many,
    upcast,
)
from pm_celery.conf import PmCelerySettings


@event
class OrderPlaced:
    order_id: UUID
    total: Decimal = Decimal(0)


@event(name="shop.paid", version=2)
@dataclass(frozen=True)
class Paid:
    order_id: UUID
    iban: Annotated[str, Sensitive] = ""


@upcast(Paid, from_version=1)
def paid_before(payload: dict[str, Any]) -> dict[str, Any]:
    return {"order_id": payload["order"]}


@upcast(Paid, from_version="1")  # type: ignore[arg-type]
def mistaken_version(payload: dict[str, Any]) -> dict[str, Any]:
    return payload


@upcast(Paid, from_version=1)  # type: ignore[type-var]
def mistaken_upcast(payload: Paid) -> Paid:
    return payload


@event
class Left(pydantic.BaseModel):
    order_id: UUID


@command
class Reserve:
    order_id: UUID


@shared_task
def plain(order_id: str) -> None: ...


class Fulfilment(ProcessManager):
    order_id: UUID | None = None
    lines: list[str] = field(default_factory=list)

    class Meta:
        timeout = "7d"
        retry = Retry("linear", max_retries=2, delay=timedelta(seconds=2), terminal=(ValueError,))
        completed_by = (Left,)
        state_version = 2

    @classmethod
    def upgrade_state(cls, state: dict[str, Any], from_version: int) -> dict[str, Any]:
        return {**state, "lines": []} if from_version == 1 else state

    @handle(OrderPlaced, start=True, correlate="order_id")
    def placed(self, event: OrderPlaced) -> None:
        self.order_id = event.order_id
        self.order_id = 3  # type: ignore[assignment]
        command_id: str = self.send(Reserve(order_id=event.order_id), delay="1m", queue="slow")
        self.send(plain.s(str(event.order_id)))
        self.cancel_command(command_id)
        self.cancel_command(Reserve)
        self.set_timer("reminder", "24h", payload={"n": 1})
        Reserve(order="x")  # type: ignore[call-arg]

    @handle(Paid, correlate={"order_id": "order_id"}, end=True, unmatched=Wait("1h"))
    def paid(self, event: Paid) -> object:
        if self.message.attempt > 1:
            return self.ignore("late")
        return None

    @handle(Paid, correlate="order_id")  # type: ignore[arg-type]
    def mistaken(self, event: OrderPlaced) -> None: ...

    @on_timer("reminder")
    def remind(self, payload: dict[str, int]) -> None:
        self.set_timer("reminder", at=self.now + timedelta(days=1))

    @on_timeout
    def timed_out(self) -> None:
        self.complete()

    @on_command_failed(Reserve)
    def not_reserved(self, failure: Failure) -> None:
        print(failure.error, failure.attempts + 1)  # noqa: T201

    @on_failure
    def failed(self, failure: Failure) -> None: ...


@policy(OrderPlaced, retry=Retry("none"))
def thank(event: OrderPlaced, reaction: Reaction) -> None:
    reaction.send(Reserve(order_id=event.order_id), delay="5m")


@command_handler(Reserve, retry=Retry("exponential"), queue="slow", rate_limit="10/m")
def reserve(command: Reserve, message: Message) -> None:
    publish(OrderPlaced(order_id=command.order_id, total=Decimal(1)), correlation_id=message.id)


def use() -> list[str]:
    one: str = publish(Paid(uuid4()), event_id="e1")
    reserve(Reserve(order_id=uuid4()), "m")  # type: ignore[arg-type]
    return [one, *publish_many([Paid(uuid4()), Envelope(Paid(uuid4()), event_id=uuid4())])]


async def use_async() -> str:
    return await apublish(Paid(uuid4()))


PM_CELERY: PmCelerySettings = {"DATABASE": "default", "WAKE_LEASE": "5s", "RETENTION": None}
WRONG: PmCelerySettings = {"DATABSE": "default"}  # type: ignore[typeddict-unknown-key]
