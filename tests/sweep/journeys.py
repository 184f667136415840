"""Journeys: what the world outside does to trips, step by step, and when.

A step is what somebody does again who does not know whether it was done: a request whose own row is not
there is sent again, an operator who finds a letter open retries it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from django.db import transaction

from pm_celery import publish, publish_many
from pm_celery.durations import parse_duration
from pm_celery.models import DeadLetter
from pm_celery.operations import dead_letters
from tests.sweep.trips import TripBooked, TripChanged, mended, note
from tests.testapp.models import Effect

__all__ = ["MAIN", "OTHERS", "Journey", "Step", "request"]


@dataclass(frozen=True)
class Step:
    """What happens at a moment of the journey; workers and Beat then do what there is to do."""

    act: Callable[[], None]
    at: timedelta


@dataclass(frozen=True)
class Journey:
    """comes_to: what the uninterrupted run has among its lines.
    swept_from: the step from which on its deaths are not like another journey's.
    is_deadly: whether its own handlers kill processes.
    is_long: whether it is left to ``make sweep``.
    """

    name: str
    steps: list[Step]
    comes_to: list[str]
    swept_from: int = 0
    is_deadly: bool = False
    is_long: bool = False
    settings: dict[str, object] = field(default_factory=dict)


def request(name: str, *events: object) -> None:
    """A user's request: its own row and its events in one transaction. Without the row it is repeated."""
    if Effect.objects.filter(name=f"request {name}").exists():
        return
    with transaction.atomic():
        note(f"request {name}")
        publish_many(events)


def again(event_id: str, event: object) -> None:
    """Somebody who publishes without a transaction, and again with the same id if there was no answer."""
    publish(event, event_id=event_id)


def settle_letter(name: str, verb: Callable[..., None], mends: str = "") -> None:
    """An operator who mends what is broken, and then settles the letter of an event or command, if that is
    open."""
    if mends and not Effect.objects.filter(name=mended(mends)).exists():
        note(mended(mends))
    letter = DeadLetter.objects.open().filter(name=f"tests.{name}").first()
    if letter is not None:
        verb(letter.pk, by="operator")


def nothing() -> None:
    """Time goes by."""


def _step(at: str, act: Callable[..., None], *arguments: object) -> Step:
    return Step(partial(act, *arguments), parse_duration(at) if at else timedelta(0))


# Trips stumble where their names say so.
_STUMBLES = "B: booking stumbles, seat stumbles"
_CHANGES = "C: first is broken"
_SEATLESS = "D: seat is broken"
_KILLS = "I: first kills"
_MANY = [TripBooked(name) for name in ("E", "F: booking stumbles", "G: seat stumbles")]

_FAILING = [
    _step("", request, "booking", TripBooked(_CHANGES, at_once=False)),
    _step("1h", request, "first", TripChanged(_CHANGES, "first")),
    _step("2h", nothing),
    _step("3h", request, "second", TripChanged(_CHANGES, "second")),
]

#: From ``publish`` to the end of the last command, and of the instance.
MAIN = Journey(
    "an event, its command, and so on to the end",
    [_step("", request, "booking", TripBooked("A"))],
    ["effect reserved A", "effect issued A", "effect ended A", "effect thanked A"],
)
OTHERS = [
    Journey(
        "a timer and the timeout",
        [
            _step("", again, "booking", TripBooked("A", at_once=False)),
            _step("6d", nothing),
            _step("31d", nothing),
            _step("31d", request, "late", TripChanged("A", "too late")),
        ],
        [
            "effect reminded A",
            "effect refunded A",
            "message event tests.TripChanged for tests.Trip A: skipped the instance is timed_out",
        ],
    ),
    Journey(
        "a Celery signature",
        [
            _step("", request, "booking", TripBooked("A", at_once=False)),
            _step("1h", request, "change", TripChanged("A", "signature")),
            # One that has begun holds its lease for an hour.
            _step("3h", nothing),
        ],
        ["task tests.run_alone ran"],
        swept_from=1,
    ),
    Journey(
        "a handler and a command handler that fail once",
        [
            _step("", request, "booking", TripBooked(_STUMBLES)),
            _step("1h", nothing),
            _step("2h", nothing),
        ],
        [f"effect reserved {_STUMBLES}", f"effect ended {_STUMBLES}"],
    ),
    Journey(
        "the dead letter of an event, retried",
        [*_FAILING, _step("4h", settle_letter, "TripChanged", dead_letters.retry, "first")],
        [f"effect reviewed {_CHANGES}", f"effect changed first {_CHANGES}"],
        swept_from=1,
    ),
    Journey(
        "the dead letter of an event, discarded",
        [*_FAILING, _step("4h", settle_letter, "TripChanged", dead_letters.discard)],
        [f"effect reviewed {_CHANGES}", f"effect changed second {_CHANGES}"],
        swept_from=4,
    ),
    Journey(
        "the dead letter of a command, retried",
        [
            _step("", request, "booking", TripBooked(_SEATLESS)),
            _step("1h", nothing),
            _step("2h", settle_letter, "ReserveSeat", dead_letters.retry, "seat"),
        ],
        [f"effect reserved {_SEATLESS}", f"effect ended {_SEATLESS}"],
        swept_from=1,
    ),
    Journey(
        "the dead letter of a command, discarded",
        [
            _step("", request, "booking", TripBooked(_SEATLESS)),
            _step("1h", nothing),
            _step("2h", settle_letter, "ReserveSeat", dead_letters.discard),
        ],
        [],
        swept_from=2,
    ),
    Journey(
        "an event that kills whoever handles it",
        [
            _step("", request, "booking", TripBooked(_KILLS, at_once=False)),
            _step("1h", request, "changes", *(TripChanged(_KILLS, c) for c in ("first", "second"))),
            _step("2h", settle_letter, "TripChanged", dead_letters.discard),
        ],
        [f"effect reviewed {_KILLS}", f"effect changed second {_KILLS}"],
        swept_from=1,
        is_deadly=True,
    ),
    Journey(
        "several instances in a batch, and several commands in a message",
        [
            _step("", request, "bookings", *_MANY),
            _step("1h", nothing),
        ],
        [f"effect ended {event.trip}" for event in _MANY],
        settings={"COMMANDS_PER_MESSAGE": 3},
    ),
    Journey(
        "a backlog that several workers share",
        [
            _step("", request, "bookings", *_MANY),
            _step("1h", nothing),
        ],
        [f"effect ended {event.trip}" for event in _MANY],
        is_long=True,
        settings={"BATCH_SIZE": 4},
    ),
]
