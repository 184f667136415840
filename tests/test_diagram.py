"""The picture of a process: what its declarations and its handlers' sources tell, and an instance's road."""

from __future__ import annotations

import re
from uuid import uuid4

import pytest
from celery import shared_task
from hypothesis import given, settings
from hypothesis import strategies as st

from pm_celery import (
    Failure,
    ProcessManager,
    command,
    command_handler,
    event,
    handle,
    on_command_failed,
    on_timer,
    publish,
)
from pm_celery.models import Instance
from pm_celery.operations.diagram import Diagram, RoadStep, diagram, draw, road
from pm_celery.operations.layout import lay_out
from pm_celery.operations.sources import events_published_by, read_handler
from tests.driving import Time, drain
from tests.orders import Paid, Placed, reserve

HOSTILE = '"]; click b0 "javascript:alert(1)"\n%% <script>alert("pm")</script> #quot; `x` ]] -->'


def arrows(found: Diagram) -> set[tuple[str, str, str, bool]]:
    """What leads where, by names; with what, and whether it was taken."""
    names = {box.id: box.name.rpartition(".")[2] or box.sort for box in found.boxes}
    names |= {ending.id: ending.status for ending in found.endings}
    return {
        (names[arrow.source], names[arrow.target], arrow.label.rpartition(".")[2], arrow.taken)
        for arrow in found.arrows
    }


def test_a_process_is_drawn_from_its_declarations_and_its_handlers_sources() -> None:
    found = draw("tests.Order")

    assert arrows(found) == {
        ("Placed", "Reserved", "Reserve", False),
        ("Placed", "reminder", "reminder", False),
        ("Paid", "Ship", "Ship", False),  # if it fails
        ("Shipped", "completed", "", False),
        ("timeout", "timed_out", "", False),
        ("failure", "failed", "", False),
    }
    boxes = {box.name or box.sort: box for box in found.boxes}
    assert {name: box.comes for name, box in boxes.items() if box.comes} == {
        "tests.Placed": "start",
        "tests.Paid": "elsewhere",
        "tests.Shipped": "elsewhere",
    }
    assert list(boxes["tests.Paid"].sends) == ["tests.Ship"]
    assert list(boxes["timeout"].sends) == ["tests.Cancel"]
    assert found.notes == []


def test_mermaid_names_events_commands_timers_timeout_and_failure() -> None:
    text = diagram("tests.Order")

    assert text.startswith("%% tests.Order\nflowchart TD\n")
    for line in (
        'b0["Placed<br/>sends Reserve<br/>sets timer reminder"]',
        '{{"timer reminder"}}',
        '{{"timeout<br/>sends Cancel"}}',
        '[/"anything else failed<br/>sends Cancel"/]',
        '[/"Ship failed"/]',
        '-->|"Reserve"|',
        '-.->|"reminder"|',
        'e0(["completed"])',
    ):
        assert line in text


# -- sources ----------------------------------------------------------------------------------------


@event
class Begun:
    key: str


@event
class Ended:
    key: str


@command
class First:
    key: str


@command
class Second:
    key: str


@shared_task
def old_task() -> None: ...


NIGHTLY = "nightly"


class Winding(ProcessManager):
    """Decides in every way that one may write."""

    class Meta:
        abstract = True

    @handle(Begun, start=True, correlate="key")
    def either(self, event: Begun) -> None:
        self.send(First(key="1") if event.key else Second(key="2"))

    def by_variable(self) -> None:
        wanted = First(key="1")
        if self.key:
            wanted = Second(key="2")  # type: ignore[assignment]
        self.send(wanted)

    def by_helper(self) -> None:
        self._helper()
        helper_of_module(self)

    def _helper(self) -> None:
        self.send(First(key="1"))
        self.complete()

    def by_signature(self) -> None:
        self.send(old_task.s())

    def by_timers(self) -> None:
        self.set_timer("weekly", "7d")
        self.set_timer(NIGHTLY, "1d")
        self.cancel_timer("weekly")

    def unknowable(self) -> None:
        for wanted in (First, Second):
            self.send(wanted(key="1"))
        self.set_timer(f"timer-{self.key}", "1d")

    def by_parent(self) -> None:
        self.send(First(key="1"))

    @on_timer("nightly")
    @on_timer("weekly")
    def wind(self) -> None: ...


class WindingOn(Winding):
    class Meta:
        abstract = True

    def by_parent(self) -> None:
        super().by_parent()
        self.send(Second(key="2"))


def helper_of_module(process: Winding) -> None:
    publish(Ended(key=process.key))


@pytest.mark.parametrize(
    ("method", "commands"),
    [
        ("either", ["tests.First", "tests.Second"]),
        ("by_variable", ["tests.First", "tests.Second"]),
        ("by_signature", ["tests.test_diagram.old_task"]),
        ("by_helper", ["tests.First"]),
    ],
)
def test_commands_are_found_however_they_are_written(method: str, commands: list[str]) -> None:
    found = read_handler(Winding, method)

    assert found.commands == commands
    assert found.unknown == []


def test_a_helper_s_decisions_are_its_caller_s() -> None:
    found = read_handler(Winding, "by_helper")

    assert found.completes
    assert found.events == ["tests.Ended"]


def test_what_an_overridden_method_sends_is_found_by_way_of_super() -> None:
    assert read_handler(WindingOn, "by_parent").commands == ["tests.First", "tests.Second"]


def test_timers_are_found_by_their_text_or_by_a_constant() -> None:
    found = read_handler(Winding, "by_timers")

    assert found.timers == ["weekly", "nightly"]
    assert found.cancelled_timers == ["weekly"]


def test_what_a_source_does_not_name_is_said_to_be_unknown() -> None:
    found = read_handler(Winding, "unknowable")

    assert found.commands == []
    assert found.unknown == [
        "unknowable() sends something that its source does not name",
        "unknowable() sets a timer that its source does not name",
    ]


def test_source_that_is_not_there_tells_nothing_and_breaks_nothing() -> None:
    made: dict[str, object] = {}
    exec("def handler(self):\n    self.send(1)\n", made)

    found = read_handler(type("Made", (), {"handler": made["handler"]}), "handler")

    assert found.unknown == ["the source of handler() cannot be read"]


def test_the_events_of_a_command_handler_are_found() -> None:
    assert events_published_by(reserve).events == ["tests.Reserved"]


# -- roads ------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_the_road_that_an_instance_took_is_marked(time: Time) -> None:
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    time.elapse("24h")
    publish(Paid(order_id=order_id))
    drain()

    found = draw("tests.Order", road(Instance.objects.get()))

    taken = {arrow[:3] for arrow in arrows(found) if arrow[3]}
    assert taken == {("Placed", "Reserved", "Reserve"), ("Placed", "reminder", "reminder")}
    boxes = {box.name or box.sort: box for box in found.boxes}
    assert {name: box.taken for name, box in boxes.items() if box.taken} == {
        "tests.Placed": [1],
        "tests.Reserved": [2],
        "reminder": [3],
        "tests.Paid": [4],
    }
    assert boxes["tests.Paid"].sends == {"tests.Ship": True}
    assert found.last == boxes["tests.Paid"].id
    text = diagram("tests.Order", road(Instance.objects.get()))
    assert "linkStyle 0,3,4 " in text or re.search(r"linkStyle 0,\d+,\d+ ", text)


@pytest.mark.django_db(transaction=True)
def test_the_road_up_to_a_transition_ends_there(time: Time) -> None:
    publish(Placed(order_id=uuid4()))
    drain()

    found = draw("tests.Order", road(Instance.objects.get(), until=1))

    assert [box.name for box in found.boxes if box.taken] == ["tests.Placed"]


def step(number: int, name: str, **values: object) -> RoadStep:
    known = {"kind": "event", "handler": "", "status": "started", "commands": []}
    ids = {"message_id": f"m{number}", "causation_id": ""}
    return RoadStep(number=number, name=name, **(known | ids | values))  # type: ignore[arg-type]


def test_a_process_that_is_no_longer_declared_is_drawn_from_the_road_alone() -> None:
    found = draw(
        "old.Process",
        [
            step(1, "old.Begun", commands=[("c1", "old.Do")]),
            step(2, "old.Done", causation_id="c1", status="completed"),
        ],
    )

    assert arrows(found) == {("Begun", "Done", "Do", True), ("Done", "completed", "", True)}
    assert [(box.comes, box.declared) for box in found.boxes] == [("start", False), ("", False)]
    assert found.notes == ["this release declares no such process"]


def test_what_an_operator_ended_leads_to_its_status() -> None:
    found = draw(
        "old.Process", [step(1, "old.Begun"), step(2, "olga", kind="cancelled", status="cancelled")]
    )

    assert arrows(found) == {("Begun", "cancelled", "", True)}
    assert found.last == found.endings[0].id


def test_a_handler_that_ends_an_instance_leads_to_nothing_else() -> None:
    class Ending(ProcessManager):
        @handle(Begun, start=True, end=True, correlate="key")
        def begun(self, event: Begun) -> None:
            self.send(First(key="1"))

        @handle(Ended, correlate="key")
        def ended(self, event: Ended) -> None: ...

        @on_command_failed(First)
        def failed(self, failure: Failure) -> None: ...

    @command_handler(First)
    def first(command: First) -> None:
        publish(Ended(key=command.key))

    found = draw(Ending.definition.name)

    assert arrows(found) == {("Begun", "completed", "", False)}


def test_no_name_breaks_out_of_mermaid_s_quotes() -> None:
    text = diagram(
        HOSTILE, [step(1, HOSTILE, commands=[("c", HOSTILE)]), step(2, "x", causation_id="c")]
    )

    for line in text.splitlines():
        outside = re.sub(r'"[^"]*"', "", line)
        assert line.startswith("%%") or re.fullmatch(
            r"\s*(flowchart TD|start\(\(start\)\)|[be]\d+\[\]|(start|b\d) -->(\|\|)? b\d|"
            r"classDef taken [-#:,\w]+|class [b\d,]+ taken|linkStyle [\d,]+ [-#:,\w]+)",
            outside,
        ), line
    assert "<script>" not in text
    assert len(text.splitlines()) == 11


# -- layout -----------------------------------------------------------------------------------------

names = st.integers(0, 11).map("b{}".format)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(names, names), max_size=30), st.sets(names, max_size=3))
def test_whatever_leads_where_no_two_boxes_overlap(
    pairs: list[tuple[str, str]], last: set[str]
) -> None:
    sizes = {f"b{number}": (110.0 + 9 * number, 30.0 + number) for number in range(12)}
    pairs = [pair for pair in pairs if pair[0] not in last]

    laid = lay_out(sizes, pairs, {}, sorted(last))

    assert set(laid.arrows) == set(pairs)
    places = [(*laid.boxes[name], *size) for name, size in sizes.items()]
    for at, (x, y, width, height) in enumerate(places):
        assert 0 <= x <= laid.width - width
        assert 0 <= y <= laid.height - height
        for left, top, wide, high in places[:at]:
            apart = x + width <= left or left + wide <= x or y + height <= top or top + high <= y
            assert apart
