"""Keys, ids and names are compared character by character, on every database.

MariaDB and MySQL compare text as people do unless told otherwise: ``a`` is ``A`` and ``ä``, blanks at
the end do not count, and in older collations every emoji is every other. With `IdentifierField` an
ordinary column these tests fail there, and there only.
"""

from __future__ import annotations

import json
from dataclasses import field

import pytest

from pm_celery import (
    ProcessManager,
    command,
    event,
    handle,
    on_timer,
    publish,
    publish_many,
)
from pm_celery.models import InboxMessage, Instance, OutboxCommand, Timer, Transition
from tests.driving import Time, drain

pytestmark = pytest.mark.django_db(transaction=True)

# Each is another text than all others, however alike they look.
ALIKE = [
    "order-a",
    "order-A",
    "Order-a",
    "order-ä",
    "order-a\u0308",
    "order-a ",
    "order-a  ",
    " order-a",
    "order-a\t",
    "order-a\n",
    "straße",
    "strasse",
    "apple 🍎",
    "apple 🍏",
    "ﬁle",
    "file",
]


@event(name="texts.Noted")
class Noted:
    key: str
    text: str = ""


class Notes(ProcessManager):
    """Keeps what was noted for its key."""

    texts: list[str] = field(default_factory=list)

    @handle(Noted, start=True, correlate="key")
    def noted(self, event: Noted) -> None:
        self.texts = [*self.texts, event.text]


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one by one"])
def test_keys_that_look_alike_are_different_instances(together: bool) -> None:
    for round_ in ("first", "second"):
        events = [Noted(key, f"{round_} of {key}") for key in ALIKE]
        if together:
            publish_many(events)
            drain()
        else:
            for each in events:
                publish(each)
                drain()

    found = {row.key: row for row in Instance.objects.filter(process=Notes.definition.name)}
    assert set(found) == set(ALIKE)
    for key in ALIKE:
        assert found[key].number == 2
        texts = json.loads(found[key].state)["texts"]
        assert texts == [f"first of {key}", f"second of {key}"]


def test_event_ids_that_look_alike_are_different_events() -> None:
    for id_ in ALIKE:
        publish(Noted("one", id_), event_id=id_)
        publish(Noted("one", id_), event_id=id_)
    drain()

    stored = InboxMessage.objects.order_by("id").values_list("message_id", "status")
    assert list(stored) == [(id_, "handled") for id_ in ALIKE]
    assert json.loads(Instance.objects.get().state)["texts"] == ALIKE


def test_processes_whose_names_look_alike_have_instances_of_their_own() -> None:
    """Each hears every event once; to the unique constraint they are two."""

    class Upper(ProcessManager):
        class Meta:
            name = "tests.Invoice"

        @handle(Noted, start=True, correlate="key")
        def noted(self, event: Noted) -> None: ...

    class Lower(ProcessManager):
        class Meta:
            name = "tests.invoice"

        @handle(Noted, start=True, correlate="key")
        def noted(self, event: Noted) -> None: ...

    publish(Noted("one"))
    publish(Noted("one"))
    drain()

    numbers = Instance.objects.exclude(process=Notes.definition.name).values_list(
        "process", "number"
    )
    assert sorted(numbers) == [("tests.Invoice", 2), ("tests.invoice", 2)]


@event(name="texts.Asked")
class Asked:
    key: str


@event(name="texts.Moved")
class Moved:
    key: str
    name: str


def test_timers_whose_names_look_alike_fire_each_by_itself(time: Time) -> None:
    """One that is cancelled leaves the other; neither takes the other's moment."""
    rang: list[str] = []

    class Rings(ProcessManager):
        @handle(Asked, start=True, correlate="key")
        def asked(self, event: Asked) -> None:
            self.set_timer("call", "1m")
            self.set_timer("Call", "2m")
            self.set_timer("cäll", "3m")

        @handle(Moved, correlate="key")
        def moved(self, event: Moved) -> None:
            self.cancel_timer(event.name)

        @on_timer("call")
        def small(self) -> None:
            rang.append("call")

        @on_timer("Call")
        def big(self) -> None:
            rang.append("Call")

        @on_timer("cäll")
        def other(self) -> None:
            rang.append("cäll")

    publish_many([Asked("one"), Asked("two")])
    drain()
    publish(Moved("two", "Call"))
    drain()
    assert Timer.objects.count() == 5

    time.elapse("61s")
    assert rang == ["call", "call"]
    time.elapse("60s")
    assert rang == ["call", "call", "Call"]
    time.elapse("60s")
    assert rang == ["call", "call", "Call", "cäll", "cäll"]
    assert Transition.objects.filter(kind="timer").count() == 5


@command(name="texts.Ship")
class Ship:
    key: str


@command(name="texts.ship")
class SmallShip:
    key: str


def test_of_delayed_commands_whose_names_look_alike_the_one_that_is_meant_is_cancelled() -> None:
    class Sends(ProcessManager):
        @handle(Asked, start=True, correlate="key")
        def asked(self, event: Asked) -> None:
            self.send(Ship(event.key), delay="1h")
            self.send(SmallShip(event.key), delay="1h")

        @handle(Moved, correlate="key")
        def moved(self, event: Moved) -> None:
            self.cancel_command(event.name)

    publish(Asked("one"))
    drain()
    publish(Moved("one", "texts.ship"))
    drain()

    found = dict(OutboxCommand.objects.values_list("name", "status"))
    assert found == {"texts.Ship": "pending", "texts.ship": "cancelled"}
