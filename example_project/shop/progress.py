"""What the pages show of a process: its steps so far, and what it is waiting for."""

import json
from dataclasses import dataclass
from datetime import datetime

from pm_celery.models import DeadLetter, Instance, OutboxCommand, Timer
from pm_celery.models.instances import TransitionKind
from shop.models import Customer, Order
from shop.processes import Onboarding, OrderFulfilment


@dataclass(frozen=True)
class Step:
    """One recorded transition."""

    number: int
    kind: TransitionKind
    name: str
    seconds: float
    commands: list[str]


@dataclass(frozen=True)
class Progress:
    instance: Instance | None
    steps: list[Step]
    commands: list[OutboxCommand]
    timers: list[Timer]
    dead_letters: list[DeadLetter]

    @property
    def ended(self) -> bool:
        return self.instance is not None and self.instance.ended_at is not None


def progress_of(order: Order) -> Progress:
    """An instance is found by its process and its correlation key."""
    instance = Instance.objects.filter(
        process=OrderFulfilment.definition.name, key=str(order.id)
    ).first()
    if instance is None:  # no worker has seen the event yet
        return Progress(None, [], [], [], [])
    steps = [
        Step(
            number=transition.number,
            kind=TransitionKind(transition.kind),
            name=transition.name,
            seconds=(transition.recorded_at - order.placed_at).total_seconds(),
            commands=[name for _, name in json.loads(transition.commands)],
        )
        for transition in instance.transitions.order_by("number")
    ]
    return Progress(
        instance=instance,
        steps=steps,
        commands=list(instance.commands.unsettled().order_by("id")),
        timers=list(instance.timers.order_by("due_at")),
        dead_letters=list(instance.dead_letters.open().order_by("id")),
    )


def stops_of(order: Order) -> list[tuple[str, str]]:
    """The stops on an order's road, each with its state for the style sheet."""
    status = Order.Status
    if order.status == status.CANCELLED:
        return [(status.PLACED.label, "reached"), (status.CANCELLED.label, "cancelled")]
    road = [status.PLACED, status.RESERVED, status.PAID, status.SHIPPED, status.DELIVERED]
    here = status.RESERVED if order.status == status.UNCONFIRMED else order.status
    reached = road.index(status(here))
    return [(stop.label, "reached" if at <= reached else "") for at, stop in enumerate(road)]


def planned_mails(customer: Customer) -> list[tuple[str, datetime]]:
    """The delayed commands of the customer's onboarding: which mail, and when."""
    commands = OutboxCommand.objects.unsettled().filter(
        process=Onboarding.definition.name, key=str(customer.id)
    )
    return [
        (json.loads(command.payload)["mail"], command.due_at)
        for command in commands.order_by("due_at")
    ]
