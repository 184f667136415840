"""What must be true after a run, or its figures are worth nothing.

Every check raises ``CheckFailed`` with what was expected and what was found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from uuid import UUID

from django.db.models import Count

from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand, Transition
from tests.benchmarks.results import CheckFailed
from tests.benchmarks.shop.effects import Effects
from tests.benchmarks.shop.models import Order, OrderTransition, Purchase
from tests.benchmarks.traffic import EVENTS_PER_ORDER

__all__ = [
    "check_by_hand",
    "check_commands",
    "check_effects",
    "check_process",
    "check_purchases",
    "expect",
]

COMMANDS = ("ReserveStock", "ShipOrder")


def expect(what: str, expected: object, found: object) -> None:
    """Raise ``CheckFailed`` unless both are equal."""
    if expected != found:
        raise CheckFailed(f"{what}: expected {expected!r:.500}, found {found!r:.500}")


def check_process(orders: int, names: Sequence[str]) -> None:
    """Each order went through its events once and in order, and pm_celery's tables say so.

    names: the wire names of the process's events, in order.
    """
    expect("instances by status", {"completed": orders}, _by_status(Instance))
    expect("inbox rows by status", {"handled": orders * len(names)}, _by_status(InboxMessage))
    expect("dead letters", 0, DeadLetter.objects.count())
    # (instance, number) is unique, so these counts leave room for no gap.
    numbered = Transition.objects.values_list("number", "name").annotate(count=Count("pk"))
    expected = {(number, name, orders) for number, name in enumerate(names, 1)}
    expect("transitions by number and event", expected, set(numbered))
    in_order = Instance.objects.filter(state__contains=f'"seen":{_seen()}'.replace(" ", ""))
    expect("instances whose state has every event in order", orders, in_order.count())


def check_commands(orders: int) -> None:
    """Each command ran, and pm_celery's outbox says so."""
    by_name = OutboxCommand.objects.values_list("name", "status").annotate(count=Count("pk"))
    expect(
        "commands by name and status",
        {(f"shop.{name}", "done", orders) for name in COMMANDS},
        set(by_name),
    )


def check_by_hand(orders: int) -> None:
    """Each order went through its events once and in order, and the tables written by hand say so."""
    expect("orders by status", {"delivered": orders}, _by_status(Order))
    numbered = OrderTransition.objects.values_list("number", "event").annotate(count=Count("pk"))
    expected = {
        (number, event, orders) for number, event in enumerate(("placed", "paid", "delivered"), 1)
    }
    expect("transitions by number and event", expected, set(numbered))
    in_order = Order.objects.filter(seen=_seen())
    expect("orders whose state has every event in order", orders, in_order.count())


def check_effects(orders: Iterable[UUID], effects: Effects, commands: Iterable[str]) -> None:
    """Each effect of each order is there exactly once."""
    counts = Counter((command, order) for command, order, _ in effects.read())
    expected = {(command, order) for command in commands for order in orders}
    expect("effects that are missing", [], sorted(expected - counts.keys()))
    expect("effects of nobody's", [], sorted(counts.keys() - expected))
    expect("effects that came twice", [], [key for key, count in counts.items() if count > 1])


def check_purchases(events: int) -> None:
    """Each publishing transaction left its business row."""
    expect("business rows", events, Purchase.objects.count())


def _by_status(model: type[Instance | InboxMessage | Order]) -> dict[str, int]:
    return dict(model._default_manager.values_list("status").annotate(Count("pk")))


def _seen() -> list[int]:
    return list(range(1, EVENTS_PER_ORDER + 1))
