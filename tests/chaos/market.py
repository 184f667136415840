"""The outside world: it places and pays orders, each in a transaction of its own.

It knows its event ids. What it could not see committed it sends again, as a browser does whose request was
cut off; and some people click twice.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from django.db import Error, connection, transaction

from pm_celery import Envelope, publish_many
from tests.chaos.shop import processes
from tests.chaos.shop.fates import FATES, choose
from tests.chaos.shop.models import Order

__all__ = ["Market", "Placed"]

_THREADS = 2
_TWICE = 0.02
_LONGEST_DELIBERATION = 3.0
_AGAIN_SECONDS = 0.1


@dataclass(frozen=True)
class Placed:
    """An order, and what is to become of it."""

    order_id: UUID
    fate: str


class _Rollback(Exception):
    pass


@dataclass
class Market:
    """Places so many orders, by threads, and pays them a little later.

    In so many seconds, if all goes well: no order is placed while more than ``under_way`` have not ended,
    or on a slow machine those would be late that only wait for their turn.
    """

    orders: int
    seconds: float
    seed: int
    under_way: int
    placed: int = 0
    # Told by whoever watches the shop.
    ended: int = 0
    events: int = 0
    repeated: int = 0
    twice: int = 0
    error: BaseException | None = None
    _threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        chance = random.Random(self.seed)
        self.all = [
            Placed(UUID(int=chance.getrandbits(128), version=4), fate)
            for fate in choose(self.orders, self.seed)
        ]
        self._lock = threading.Lock()
        self._over = threading.Event()

    def open(self) -> None:
        """Begin."""
        began = time.monotonic()
        for number in range(_THREADS):
            thread = threading.Thread(target=self._serve, args=(number, began), daemon=True)
            thread.start()
            self._threads.append(thread)

    @property
    def is_done(self) -> bool:
        """Whether everything is published. Raises what a thread died of."""
        if self.error is not None:
            raise self.error
        return not any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """End, whatever is left."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _serve(self, number: int, began: float) -> None:
        try:
            self._trade(self.all[number::_THREADS], random.Random(self.seed + number), began)
        except BaseException as error:  # noqa: BLE001 -- the run is told, and fails
            self.error = error
        finally:
            connection.close()

    def _trade(self, orders: Sequence[Placed], chance: random.Random, began: float) -> None:
        pace = self.seconds / max(len(orders), 1)
        # What is to be done, and when: place each order, pay it later.
        agenda = [(number * pace, number, False) for number in range(len(orders))]
        heapq.heapify(agenda)
        while agenda and not self._over.is_set():
            at, number, is_payment = heapq.heappop(agenda)
            self._over.wait(max(0.0, began + at - time.monotonic()))
            if not is_payment and self.placed - self.ended >= self.under_way:
                later = time.monotonic() - began + _AGAIN_SECONDS
                heapq.heappush(agenda, (later, number, False))
                continue
            order = orders[number]
            fate = FATES[order.fate]
            self._until_committed(order, fate.paid if is_payment else fate.placed, chance)
            if not is_payment:
                self._count(placed=order.fate != "ghost")
                if fate.paid:
                    later = time.monotonic() - began + chance.uniform(0, _LONGEST_DELIBERATION)
                    heapq.heappush(agenda, (later, number, True))

    def _until_committed(self, order: Placed, names: Sequence[str], chance: random.Random) -> None:
        clicks = 2 if chance.random() < _TWICE else 1
        self._count(twice=clicks - 1)
        while clicks and not self._over.is_set():
            try:
                self._transact(order, names)
            except Error:
                # Perhaps it was committed, and only the answer is lost.
                self._count(repeated=1)
                connection.close()
                time.sleep(_AGAIN_SECONDS)
            else:
                clicks -= 1
        if order.fate != "ghost":
            self._count(events=len(names))

    def _transact(self, order: Placed, names: Sequence[str]) -> None:
        try:
            with transaction.atomic():
                row = Order(order_id=order.order_id, fate=order.fate)
                Order.objects.bulk_create([row], ignore_conflicts=True)
                publish_many(
                    Envelope(_event(order, name), f"{order.order_id}: {name}") for name in names
                )
                if order.fate == "ghost":
                    raise _Rollback
        except _Rollback:
            pass

    def _count(self, **numbers: int) -> None:
        with self._lock:
            for name, number in numbers.items():
                setattr(self, name, getattr(self, name) + number)


def _event(order: Placed, name: str) -> object:
    match name.split():
        case ["placed"]:
            return processes.OrderPlaced(order.order_id, order.fate)
        case ["item", number]:
            return processes.ItemAdded(order.order_id, int(number))
        case ["paid"]:
            return processes.PaymentReceived(order.order_id)
        case ["noted"]:
            return processes.Noted(order.order_id)
    raise ValueError(name)
