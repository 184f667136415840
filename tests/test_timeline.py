"""The timeline of one instance: what is told, in which order, and what is not told."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest

from pm_celery import ProcessManager, Sensitive, clock, event, handle, publish
from pm_celery.models import DeadLetter, InboxMessage, Instance, Transition
from pm_celery.operations import dead_letters, instances
from pm_celery.operations.entries import Act, FailedRun, Letter, Step, Timeline
from pm_celery.operations.states import State, Value, diff, lines, read_state
from pm_celery.operations.timeline import state_as_of, timeline
from tests.driving import Time, drain
from tests.orders import Broken, Paid, Placed, Plan, Shipped

pytestmark = pytest.mark.django_db(transaction=True)


def told(found: Timeline) -> list[str]:
    """A timeline, an entry a line."""
    texts = []
    for entry in found.entries:
        match entry:
            case Step():
                texts.append(f"{entry.number} {entry.kind} {entry.name.removeprefix('tests.')}")
            case Act():
                texts.append(f"{entry.by}: {entry.verb}, because {entry.reason}")
            case FailedRun():
                texts.append(
                    f"attempt {entry.number} of {entry.name.removeprefix('tests.')} failed"
                )
            case Letter():
                texts.append(f"letter of {entry.name.removeprefix('tests.')}, {entry.status}")
    return texts


def failed_order(time: Time) -> Instance:
    """An order whose payment died, with its delivery parked behind it."""
    order_id = uuid4()
    publish(Placed(order_id=order_id, total=Decimal("12.50")))
    drain()
    Plan.raise_in["paid"] = Broken("no stock")
    publish(Paid(order_id=order_id))
    drain()
    for _ in range(3):
        time.elapse("1s")
    publish(Shipped(order_id=order_id))
    drain()
    return Instance.objects.get()


def test_everything_that_happened_to_an_instance_stands_in_order(time: Time) -> None:
    instance = failed_order(time)
    parked = timeline(instance).messages

    Plan.raise_in.clear()
    time.elapse("1h")
    dead_letters.retry(DeadLetter.objects.get().pk, by="olga", reason="the shelf is full again")
    drain()

    assert [(message.name, message.status) for message in parked] == [("tests.Shipped", "parked")]
    instance.refresh_from_db()
    assert instance.status == "completed"
    assert told(timeline(instance)) == [
        "1 event Placed",
        "2 event Reserved",
        "attempt 1 of Paid failed",
        "attempt 2 of Paid failed",
        "attempt 3 of Paid failed",
        "3 failed Paid",
        "attempt 4 of Paid failed",
        "letter of Paid, retried",
        "4 failure Paid",
        "5 resumed olga",
        "olga: retry dead letter, because the shelf is full again",
        "6 event Paid",
        "7 event Shipped",
    ]


def test_a_transition_tells_what_it_did_and_what_caused_it(time: Time) -> None:
    order_id = uuid4()
    publish(Placed(order_id=order_id, total=Decimal("12.50")))
    drain()

    placed, reserved = timeline(Instance.objects.get()).steps

    assert [(command.name, command.status) for command in placed.commands] == [
        ("tests.Reserve", "done")
    ]
    assert [timer.name for timer in placed.timers] == ["reminder"]
    assert json.loads(placed.payload or "") == {"order_id": str(order_id), "total": "12.50"}
    assert placed.duration is not None
    assert reserved.caused_by == 1  # by way of its command
    assert reserved.causation_id == placed.commands[0].id


def test_a_state_s_diff_tells_a_decimal_from_text(time: Time) -> None:
    order_id = uuid4()
    publish(Placed(order_id=order_id, total=Decimal("12.50")))
    drain()

    changes = {change.path: change for change in timeline(Instance.objects.get()).steps[0].changes}

    assert set(changes) == {"order_id", "total"}
    assert changes["order_id"].after == Value(str(order_id), "UUID")
    assert changes["total"].before == Value("0", "Decimal")
    assert changes["total"].after == Value("12.50", "Decimal")
    assert Value('"12.50"', "str") != changes["total"].after


def test_what_backs_off_is_told_with_the_moment_of_its_next_attempt(time: Time) -> None:
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    Plan.raise_in["paid"] = Broken("no stock")
    publish(Paid(order_id=order_id))
    drain()

    (message,) = timeline(Instance.objects.get()).messages

    assert (message.status, message.attempts) == ("pending", 1)
    assert message.due_at > clock.now()
    assert message.reason == "Broken: no stock"


def test_what_was_parked_when_its_instance_was_cancelled_is_told_as_skipped(time: Time) -> None:
    instance = failed_order(time)

    instances.cancel(instance.pk, by="olga", reason="sold out")

    instance.refresh_from_db()
    found = timeline(instance)
    assert [(message.name, message.status) for message in found.messages] == [
        ("tests.Shipped", "skipped")
    ]
    assert told(found)[-2:] == ["5 cancelled olga", "olga: cancel, because sold out"]
    assert found.timers == []


def test_what_came_after_the_end_is_told_as_skipped_the_newest_last() -> None:
    order_id = uuid4()
    for happened in (Placed(order_id=order_id), Shipped(order_id=order_id)):
        publish(happened)
        drain()
    for late in (Paid(order_id=order_id), Shipped(order_id=order_id)):
        publish(late)
        drain()

    found = timeline(Instance.objects.get()).messages

    assert [(message.name, message.status, message.reason) for message in found][-2:] == [
        ("tests.Paid", "skipped", "the instance is completed"),
        ("tests.Shipped", "skipped", "the instance is completed"),
    ]


def test_timers_that_stand_are_told(time: Time) -> None:
    publish(Placed(order_id=uuid4()))
    drain()

    (timer,) = timeline(Instance.objects.get()).timers

    assert (timer.name, timer.fired_at) == ("reminder", None)


def test_the_state_is_told_as_of_any_transition(time: Time) -> None:
    order_id = uuid4()
    publish(Placed(order_id=order_id, total=Decimal("12.50")))
    drain()
    time.elapse("24h")
    instance = Instance.objects.get()

    reminded = {
        number: {line.name: line.value for line in lines(state_as_of(instance, number)[1])}
        for number in (1, instance.number)
    }

    assert reminded[1]["reminded"] == Value("0", "int")
    assert reminded[instance.number]["reminded"] == Value("1", "int")


# -- long histories ---------------------------------------------------------------------------------


def long_history(length: int, **values: Any) -> Instance:
    """An instance that has counted so far, a transition each."""
    moment = clock.now()
    instance = Instance.objects.create(
        process="tests.Counter",
        key="long",
        partition=0,
        status="started",
        state=json.dumps({"count": length}),
        number=length,
        correlation_id="c",
        started_at=moment,
        changed_at=moment,
    )
    Transition.objects.bulk_create(
        [
            Transition(
                instance=instance,
                number=number,
                kind="event",
                name="tests.Counted",
                message_id=f"m{number}",
                state=json.dumps({"count": number}),
                status="started",
                correlation_id="c",
                attempt=1,
                recorded_at=moment,
                **values,
            )
            for number in range(1, length + 1)
        ],
        batch_size=1000,
    )
    return instance


def test_a_long_history_is_paged_from_its_end_to_its_beginning() -> None:
    instance = long_history(250)

    pages, until = [], None
    while True:
        page = timeline(instance, until=until)
        pages.append((page.first, page.last, len(page.steps), page.later))
        until = page.earlier
        if until is None:
            break

    assert pages == [(151, 250, 100, None), (51, 150, 100, 250), (1, 50, 50, 150)]


def test_the_first_transition_of_a_page_is_compared_with_the_last_of_the_page_before() -> None:
    page = timeline(long_history(250))

    (change,) = page.steps[0].changes
    assert (change.before, change.after) == (Value("150", "int"), Value("151", "int"))


@pytest.mark.parametrize("until", [0, -5, 10**12])
def test_a_page_that_cannot_be_is_the_nearest_that_is(until: int) -> None:
    page = timeline(long_history(3), until=until)

    assert page.steps[-1].number in (1, 3)


def test_a_state_that_is_too_long_is_neither_read_nor_compared() -> None:
    instance = long_history(2)
    Transition.objects.filter(number=2).update(state=json.dumps({"text": "x" * 100_000}))

    steps = timeline(instance).steps

    assert [step.total_changes for step in steps] == [1, None]


# -- states -----------------------------------------------------------------------------------------


def changes(before: Any, after: Any) -> list[tuple[str, str | None, str | None]]:
    found, total = diff(State(before), State(after))
    assert total == len(found)
    return [
        (change.path, change.before and change.before.text, change.after and change.after.text)
        for change in found
    ]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, [("a.b", "1", "2")]),
        ({"a": 1}, {}, [("a", "1", None)]),
        ({}, {"a": None}, [("a", None, "null")]),
        ({"a": 1}, {"a": True}, [("a", "1", "true")]),
        ({"a": 1}, {"a": "1"}, [("a", "1", '"1"')]),
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, [("a[2]", None, "3")]),
        ({"a": [1, 2, 3]}, {"a": [2, 3]}, [("a[0]", "1", None)]),
        ({"a": [{"b": 1}, 2]}, {"a": [{"b": 5}, 2]}, [("a[0].b", "1", "5")]),
        ({"a": [1]}, {"a": {"0": 1}}, [("a", "[1]", '{"0": 1}')]),
        ({"a": [[]] * 3}, {"a": [[]] * 3}, []),
    ],
)
def test_a_diff_names_the_path_of_each_difference(before: Any, after: Any, expected: Any) -> None:
    assert changes(before, after) == expected


def test_of_very_many_differences_some_are_shown_and_all_are_counted() -> None:
    found, total = diff(State({}), State({str(number): number for number in range(1000)}))

    assert (len(found), total) == (50, 1000)


@event
class Packed:
    parcel: str


@dataclass
class Parcel:
    weight: Decimal = Decimal("1.5")
    packed_at: datetime | None = None


def test_nested_values_keep_their_types() -> None:
    class Packing(ProcessManager):
        parcels: list[Parcel] = field(default_factory=list)
        by_id: dict[UUID, Decimal] = field(default_factory=dict)

        @handle(Packed, start=True, correlate="parcel")
        def packed(self, event: Packed) -> None: ...

    id_ = uuid4()
    moment = datetime.fromisoformat("2030-01-01T00:00:00+00:00")
    text, _process = Packing.definition.dump(
        Packing(parcels=[Parcel(packed_at=moment)], by_id={id_: Decimal("2.0")})
    )

    shown = [
        (line.depth, line.name, line.value.text, line.value.type)
        for line in lines(read_state(Packing.definition.name, text))
    ]

    assert shown == [
        (0, "parcels", "", "list"),
        (1, "0", "", "dict"),
        (2, "weight", "1.5", "Decimal"),
        (2, "packed_at", "2030-01-01T00:00:00Z", "datetime"),
        (0, "by_id", "", "dict"),
        (1, str(id_), "2.0", "Decimal"),
    ]


@pytest.mark.parametrize(
    "state", ["", "no JSON", "[" * 5000, '"text"', '{"total": "no number"}', "null"]
)
def test_a_state_that_no_longer_decodes_is_shown_all_the_same(state: str) -> None:
    found = read_state("tests.Order", state)

    assert found.problem
    assert lines(found)


def test_what_is_not_to_be_shown_is_in_no_part_of_a_timeline() -> None:
    class Account(ProcessManager):
        iban: Annotated[str, Sensitive] = ""
        owner: dict[str, str] = field(default_factory=dict)

        @handle(Packed, start=True, correlate="parcel")
        def opened(self, event: Packed) -> None:
            self.iban = "DE02120300000000202051"
            self.owner = {"name": "Olga", "iban": "DE02500105170137075030"}

    publish(Packed(parcel="1"))
    drain()
    instance = Instance.objects.get(process=Account.definition.name)
    assert "DE02120300000000202051" in instance.state

    found = timeline(instance)

    assert "DE02" not in repr(found)
    assert "Olga" in repr(found)
    assert "DE02" not in repr(lines(state_as_of(instance, 1)[1]))


def test_messages_of_another_instance_are_not_told_by_a_forged_inbox_id() -> None:
    instance = long_history(1)
    publish(Placed(order_id=uuid4()))
    Transition.objects.update(inbox_id=InboxMessage.objects.get().pk)

    (step,) = timeline(instance).steps

    assert step.payload is None
