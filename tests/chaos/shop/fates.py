"""What is to become of an order, and what the ledger shows then. Chosen when it is placed."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["FATES", "Fate", "choose"]

_PLACED = ("placed", "item 1", "item 2")
_PAID = ("paid", "noted")


@dataclass(frozen=True)
class Fate:
    """An order's fate.

    share: of all orders, in percent.
    placed, paid: the events that the outside world publishes, in two transactions, in this order.
    inside: the other messages that are handled.
    after: pairs of messages, of which the first is handled before the second.
    effects: the commands that take effect.
    letter: the exception of its dead letter.
    """

    share: int
    placed: tuple[str, ...] = _PLACED
    paid: tuple[str, ...] = _PAID
    inside: tuple[str, ...] = ("reserved", "charged", "shipped")
    effects: tuple[str, ...] = ("Reserve", "Charge", "Ship")
    after: tuple[tuple[str, str], ...] = (
        ("placed", "reserved"),
        ("paid", "charged"),
        ("reserved", "charged"),
        ("charged", "shipped"),
    )
    process: str = "Fulfilment"
    status: str = "completed"
    letter: str = ""

    @property
    def outside(self) -> tuple[str, ...]:
        return (*self.placed, *self.paid)


FATES = {
    "normal": Fate(80),
    # The customer pays when a timer reminds him: a command's handler publishes the payment.
    "reminded": Fate(
        5,
        paid=(),
        inside=("reserved", "reminded", "paid", "charged", "shipped"),
        effects=("Reserve", "Remind", "Charge", "Ship"),
        after=(("placed", "reminded"), ("reminded", "paid"), *Fate.after),
    ),
    # Nobody ever pays: the timeout compensates.
    "abandoned": Fate(
        4,
        placed=("placed",),
        paid=(),
        inside=("timed out",),
        effects=("Release",),
        after=(("placed", "timed out"),),
        process="Basket",
        status="timed_out",
    ),
    # The charge fails for good: a dead letter, and the instance compensates.
    "refused": Fate(
        3,
        inside=("reserved", "refused", "released"),
        effects=("Reserve", "Release"),
        after=(("paid", "refused"), ("reserved", "refused"), ("refused", "released")),
        letter="CardRefused",
    ),
    # The charge fails once, and is retried.
    "flaky": Fate(4),
    # A handler fails until somebody mends it: a dead letter, what follows is parked, an operator retries.
    "broken": Fate(
        2,
        inside=("reserved", "failed", "charged", "shipped"),
        effects=("Reserve", "Flag", "Charge", "Ship"),
        letter="NotMended",
    ),
    # Published in a transaction that rolls back: nothing of it may be there.
    "ghost": Fate(2, paid=(), inside=(), effects=(), after=(), process=""),
}


def choose(orders: int, seed: int) -> list[str]:
    """The fates of so many orders: their shares are exact, and their sequence is chance."""
    names = [name for name, fate in FATES.items() for _ in range(fate.share)]
    fates = [names[number * len(names) // orders] for number in range(orders)]
    random.Random(seed).shuffle(fates)
    return fates
