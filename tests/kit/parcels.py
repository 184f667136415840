"""A process that touches no database: a parcel is packed, paid for and sent."""

from __future__ import annotations

from celery import shared_task

from pm_celery import (
    Failure,
    ProcessManager,
    Retry,
    Wait,
    command,
    event,
    handle,
    on_command_failed,
    on_failure,
    on_timeout,
    on_timer,
)


@event(name="parcels.Ordered")
class Ordered:
    parcel: str
    weight: int = 1


@event(name="parcels.Packed")
class Packed:
    parcel: str


@event(name="parcels.Paid")
class Paid:
    parcel: str
    amount: int = 10


@event(name="parcels.Noticed")
class Noticed:
    """May come before anything else is known of a parcel."""

    parcel: str


@event(name="parcels.Inspected")
class Inspected:
    """Must not come before anything else."""

    parcel: str


@event(name="parcels.Weighed")
class Weighed:
    """Of several parcels, or of none."""

    parcels: list[str]


@event(name="parcels.Delivered")
class Delivered:
    parcel: str


@command(name="parcels.Pack")
class Pack:
    parcel: str
    weight: int = 1


@command(name="parcels.Send")
class Send:
    parcel: str


@command(name="parcels.Remind")
class Remind:
    parcel: str


@command(name="parcels.Unpack")
class Unpack:
    parcel: str


@command(name="parcels.AskForRating")
class AskForRating:
    parcel: str


@shared_task(name="parcels.print_label")
def print_label(parcel: str, copies: int = 1) -> None:
    """A plain Celery task."""


def _first(event: Weighed) -> str | None:
    return event.parcels[0] if event.parcels else None


class Parcel(ProcessManager):
    parcel: str = ""
    weight: int = 0
    is_paid: bool = False
    reminded: int = 0
    problem: str = ""

    class Meta:
        name = "parcels.Parcel"
        timeout = "14d"
        correlate = {"parcel": "parcel"}
        retry = Retry("exponential", delay="10s", max_retries=3)

    @handle(Ordered, start=True)
    def ordered(self, event: Ordered) -> None:
        self.weight = event.weight
        self.send(Pack(parcel=event.parcel, weight=event.weight))
        self.set_timer("reminder", "1d")

    @handle(Packed)
    def packed(self, event: Packed) -> None:
        self.send(print_label.s(event.parcel, copies=2))

    @handle(Paid)
    def paid(self, event: Paid) -> object:
        if self.is_paid:
            return self.ignore("it is paid already")
        self.is_paid = True
        self.cancel_timer("reminder")
        self.send(Send(parcel=event.parcel))
        self.send(AskForRating(parcel=event.parcel), delay="3d")
        return None

    @handle(Noticed, unmatched=Wait("1h"))
    def noticed(self, event: Noticed) -> None: ...

    @handle(Inspected, unmatched="dead_letter")
    def inspected(self, event: Inspected) -> None: ...

    @handle(Weighed, correlate=_first)
    def weighed(self, event: Weighed) -> None:
        self.weight += 1

    @handle(Delivered, end=True)
    def delivered(self, event: Delivered) -> None: ...

    @on_timer("reminder")
    def remind(self) -> None:
        self.reminded += 1
        self.send(Remind(parcel=self.parcel))
        if self.reminded < 3:
            self.set_timer("reminder", "2d")

    @on_timeout
    def timed_out(self) -> None:
        self.cancel_command(AskForRating)
        self.send(Unpack(parcel=self.parcel))

    @on_command_failed(Send)
    def not_sent(self, failure: Failure) -> None:
        self.problem = f"not sent: {failure.error}"
        self.send(Unpack(parcel=self.parcel))

    @on_failure
    def failed(self, failure: Failure) -> None:
        self.problem = f"{failure.name}: {failure.exception}"
        self.send(Unpack(parcel=self.parcel))
