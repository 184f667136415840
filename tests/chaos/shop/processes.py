"""The processes under chaos. Each handler writes a line of the ledger, in the transaction that it runs in."""

from __future__ import annotations

from dataclasses import field
from datetime import timedelta
from uuid import UUID

from pm_celery import (
    Failure,
    Message,
    ProcessManager,
    Retry,
    command,
    command_handler,
    event,
    handle,
    on_command_failed,
    on_failure,
    on_timeout,
    on_timer,
    publish,
)
from tests.chaos.shop.models import Entry, Repair


@event
class OrderPlaced:
    order_id: UUID
    fate: str


@event
class ItemAdded:
    order_id: UUID
    number: int


@event
class PaymentReceived:
    order_id: UUID


@event
class Noted:
    order_id: UUID


@event
class Reserved:
    order_id: UUID


@event
class Charged:
    order_id: UUID


@event
class Shipped:
    order_id: UUID


@event
class Released:
    order_id: UUID


@command
class Reserve:
    order_id: UUID


@command
class Remind:
    order_id: UUID


@command
class Charge:
    order_id: UUID
    fate: str


@command
class Ship:
    order_id: UUID


@command
class Release:
    order_id: UUID
    basket: bool = False


@command
class Flag:
    order_id: UUID


class NotMended(Exception):
    """What the orders of the fate ``broken`` fail for."""


class CardRefused(Exception):
    """What the charge of the fate ``refused`` fails for."""


class Unreachable(Exception):
    """What the first charge of the fate ``flaky`` fails for."""


# So many runs that chance does not kill the worker in each of them: whatever dies as lost is unexplained.
_PATIENT = Retry(
    "fixed",
    delay=timedelta(milliseconds=200),
    max_retries=11,
    jitter=False,
    terminal=(NotMended, CardRefused),
)


def _unless_abandoned(event: OrderPlaced) -> UUID | None:
    return None if event.fate == "abandoned" else event.order_id


def _if_abandoned(event: OrderPlaced) -> UUID | None:
    return event.order_id if event.fate == "abandoned" else None


class Fulfilment(ProcessManager):
    """Drives an order from placement to shipment."""

    order_id: UUID | None = None
    fate: str = ""
    items: list[int] = field(default_factory=list)
    is_paid: bool = False
    is_reserved: bool = False

    class Meta:
        timeout = "7d"
        retry = _PATIENT

    @handle(OrderPlaced, start=True, correlate=_unless_abandoned)
    def placed(self, event: OrderPlaced) -> None:
        self.order_id, self.fate = event.order_id, event.fate
        self._write("placed")
        self.send(Reserve(event.order_id))
        self.set_timer("reminder", "1s" if event.fate == "reminded" else "1d")

    @handle(ItemAdded, correlate="order_id")
    def added(self, event: ItemAdded) -> None:
        self.items.append(event.number)
        self._write(f"item {event.number}")

    @on_timer("reminder")
    def remind(self) -> None:
        self._write("reminded")
        self.send(Remind(self._id))

    @handle(PaymentReceived, correlate="order_id")
    def paid(self, event: PaymentReceived) -> None:
        self._write("paid")
        self.is_paid = True
        self.cancel_timer("reminder")
        self._charge_when_ready()
        if self.fate == "broken" and not Repair.objects.filter(order_id=self._id).exists():
            raise NotMended("Somebody must mend it first.")

    @handle(Noted, correlate="order_id")
    def noted(self, event: Noted) -> None:
        self._write("noted")

    @handle(Reserved, correlate="order_id")
    def reserved(self, event: Reserved) -> None:
        self._write("reserved")
        self.is_reserved = True
        self._charge_when_ready()

    @handle(Charged, correlate="order_id")
    def charged(self, event: Charged) -> None:
        self._write("charged")
        self.send(Ship(event.order_id))

    @handle(Shipped, correlate="order_id", end=True)
    def shipped(self, event: Shipped) -> None:
        self._write("shipped")

    @on_command_failed(Charge)
    def refused(self, failure: Failure) -> None:
        self._write("refused")
        self.send(Release(self._id))

    @handle(Released, correlate="order_id", end=True)
    def released(self, event: Released) -> None:
        self._write("released")

    @on_failure
    def failed(self, failure: Failure) -> None:
        self._write("failed")
        self.send(Flag(self._id))

    def _charge_when_ready(self) -> None:
        if self.is_paid and self.is_reserved:
            self.send(Charge(self._id, self.fate))

    def _write(self, name: str) -> None:
        Entry.write(self._id, "event", name)

    @property
    def _id(self) -> UUID:
        assert self.order_id is not None
        return self.order_id


class Basket(ProcessManager):
    """An order that nobody pays."""

    order_id: UUID | None = None

    class Meta:
        timeout = "5s"
        retry = _PATIENT

    @handle(OrderPlaced, start=True, correlate=_if_abandoned)
    def placed(self, event: OrderPlaced) -> None:
        self.order_id = event.order_id
        Entry.write(event.order_id, "event", "placed")

    @on_timeout
    def timed_out(self) -> None:
        assert self.order_id is not None
        Entry.write(self.order_id, "event", "timed out")
        self.send(Release(self.order_id, basket=True))


@command_handler(Reserve, retry=_PATIENT)
def reserve(command: Reserve) -> None:
    _take_effect(command.order_id, "Reserve")
    publish(Reserved(command.order_id))


@command_handler(Remind, retry=_PATIENT)
def remind(command: Remind) -> None:
    _take_effect(command.order_id, "Remind")
    publish(PaymentReceived(command.order_id))


@command_handler(Charge, retry=_PATIENT)
def charge(command: Charge, message: Message) -> None:
    _take_effect(command.order_id, "Charge")
    if command.fate == "refused":
        raise CardRefused("The card was refused.")
    if command.fate == "flaky" and message.attempt == 1:
        raise Unreachable("The bank does not answer.")
    publish(Charged(command.order_id))


@command_handler(Ship, retry=_PATIENT)
def ship(command: Ship) -> None:
    _take_effect(command.order_id, "Ship")
    publish(Shipped(command.order_id))


@command_handler(Release, retry=_PATIENT)
def release(command: Release) -> None:
    _take_effect(command.order_id, "Release")
    if not command.basket:
        publish(Released(command.order_id))


@command_handler(Flag, retry=_PATIENT)
def flag(command: Flag) -> None:
    _take_effect(command.order_id, "Flag")


def _take_effect(order_id: UUID, name: str) -> None:
    Entry.write(order_id, "command", name)
