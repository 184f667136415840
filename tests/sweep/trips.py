"""Trips: a process whose handlers and commands stumble where the trip's name says so.

Whether something is mended is a row in the database, because the process that stumbles is killed, too.
"""

from __future__ import annotations

import os
from dataclasses import field

from celery import current_task, shared_task

from pm_celery import (
    Failure,
    Message,
    ProcessManager,
    Reaction,
    Retry,
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
)
from tests.sweep.points import KILLED
from tests.testapp.models import Effect

# Before the id of a task that ran.
RAN = "ran as "


@event
class TripBooked:
    trip: str
    at_once: bool = True


@event
class SeatReserved:
    trip: str


@event
class TripChanged:
    trip: str
    change: str


@event
class TicketIssued:
    trip: str


@command
class ReserveSeat:
    trip: str


@command
class IssueTicket:
    trip: str


@command
class Remind:
    trip: str


@command
class Refund:
    trip: str


@command
class Review:
    trip: str


@command
class Thank:
    trip: str


@shared_task(name="tests.run_alone")
def run_alone() -> None:
    """A task that knows nothing of us. It may run twice, but only if somebody wants it."""
    note(f"{RAN}{current_task.request.id}")


class Stumbled(Exception):
    """What goes wrong on a trip."""


def pass_by(place: str, trip: str, attempt: int) -> None:
    """Raise where the trip's name says so: "seat stumbles", once; "seat is broken", until it is mended.

    "seat kills" ends the process.
    """
    if f"{place} kills" in trip:
        os._exit(KILLED)
    if f"{place} stumbles" in trip and attempt == 1:
        raise Stumbled(place)
    if f"{place} is broken" in trip and not Effect.objects.filter(name=mended(place)).exists():
        raise Stumbled(place)


def mended(place: str) -> str:
    """The row that tells that a place is mended."""
    return f"mended {place}"


def note(what: str) -> None:
    """Write an effect that is to be there once."""
    Effect.objects.create(name=what)


_RETRY = Retry("fixed", delay="1s", max_retries=1, jitter=False)


class Trip(ProcessManager):
    """Drives a trip from its booking to its ticket."""

    trip: str = ""
    changes: list[str] = field(default_factory=list)
    problem: str = ""

    class Meta:
        timeout = "30d"
        retry = _RETRY

    @handle(TripBooked, start=True, correlate="trip")
    def booked(self, event: TripBooked) -> None:
        note(f"booked {event.trip}")
        pass_by("booking", event.trip, self.message.attempt)
        self.trip = event.trip
        self.set_timer("reminder", "5d")
        if event.at_once:
            self.send(ReserveSeat(event.trip))

    @handle(SeatReserved, correlate="trip")
    def reserved(self, event: SeatReserved) -> None:
        self.send(IssueTicket(event.trip))

    @handle(TripChanged, correlate="trip")
    def changed(self, event: TripChanged) -> None:
        note(f"changed {event.change} {event.trip}")
        pass_by(event.change, event.trip, self.message.attempt)
        self.changes.append(event.change)
        if event.change == "signature":
            self.send(run_alone.s())

    @handle(TicketIssued, correlate="trip", end=True)
    def issued(self, event: TicketIssued) -> None:
        note(f"ended {event.trip}")

    @on_timer("reminder")
    def remind(self) -> None:
        self.send(Remind(self.trip))

    @on_timeout
    def timed_out(self) -> None:
        self.send(Refund(self.trip))

    @on_command_failed(ReserveSeat)
    def not_reserved(self, failure: Failure) -> None:
        self.problem = f"{failure.exception}: {failure.error}"

    @on_failure
    def failed(self, failure: Failure) -> None:
        self.problem = f"{failure.exception}: {failure.error}"
        self.send(Review(self.trip))


@policy(TicketIssued)
def thank(event: TicketIssued, reaction: Reaction) -> None:
    reaction.send(Thank(event.trip))


@command_handler(ReserveSeat, retry=_RETRY)
def reserve(command: ReserveSeat, message: Message) -> None:
    note(f"reserved {command.trip}")
    pass_by("seat", command.trip, message.attempt)
    publish(SeatReserved(command.trip))


@command_handler(IssueTicket)
def issue(command: IssueTicket) -> None:
    note(f"issued {command.trip}")
    publish(TicketIssued(command.trip))


@command_handler(Remind)
def remind(command: Remind) -> None:
    note(f"reminded {command.trip}")


@command_handler(Refund)
def refund(command: Refund) -> None:
    note(f"refunded {command.trip}")


@command_handler(Review)
def review(command: Review) -> None:
    note(f"reviewed {command.trip}")


@command_handler(Thank)
def thanked(command: Thank) -> None:
    note(f"thanked {command.trip}")
