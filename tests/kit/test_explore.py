"""Conformance 48: every order of events, with time and failures, and the shortest way to what must not be."""

from __future__ import annotations

import time
from dataclasses import field
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest

from pm_celery import (
    ProcessManager,
    command,
    event,
    handle,
    on_timeout,
    on_timer,
)
from pm_celery.exceptions import InvalidMessage, Misuse
from pm_celery.testing import Broken, Report, Scenario, explore, given
from pm_celery.testing.exploration.checks import Checks
from tests.kit.parcels import (
    Delivered,
    Ordered,
    Pack,
    Packed,
    Paid,
    Parcel,
    Send,
    Unpack,
    print_label,
)

pytestmark = pytest.mark.any_database

ORDERED, PACKED, PAID, DELIVERED = Ordered("p"), Packed("p"), Paid("p"), Delivered("p")
EVENTS = [ORDERED, PACKED, PAID, DELIVERED]
CAUSES = {Packed: Pack, Delivered: Send}


@event(name="lamps.Plugged")
class Plugged:
    lamp: str


@event(name="lamps.Pressed")
class Pressed:
    lamp: str


@event(name="lamps.Unplugged")
class Unplugged:
    lamp: str


@command(name="lamps.Light")
class Light:
    lamp: str


@command(name="lamps.Dim")
class Dim:
    lamp: str


class Lamp(ProcessManager):
    is_on: bool = False

    class Meta:
        name = "lamps.Lamp"
        correlate = "lamp"

    @handle(Plugged, start=True)
    def plugged(self, event: Plugged) -> None:
        self.send(Light(lamp=event.lamp))

    @handle(Pressed)
    def pressed(self, event: Pressed) -> None:
        self.is_on = not self.is_on

    @handle(Unplugged, end=True)
    def unplugged(self, event: Unplugged) -> None: ...


LAMP = [Plugged("l"), Pressed("l"), Unplugged("l")]
#: Before it is plugged in, what happens to a lamp is lost.
PLUGGED_FIRST = {Pressed: Plugged, Unplugged: Plugged}


def found_by(*arguments: Any, **options: Any) -> Report:
    with pytest.raises(Broken) as broken:
        explore(*arguments, **options)
    return broken.value.report


def steps_of(report: Report, kind: str) -> list[str]:
    """The steps to what was found, and the proof that its test runs and fails."""
    [found] = [one for one in report.violations if one.kind == kind]
    lines = [line.strip().removeprefix("instance.") for line in found.test.splitlines()]
    names: dict[str, Any] = dict(globals())
    exec(found.test, names)
    [test] = [names[name] for name in names.keys() - globals().keys() if name.startswith("test_")]
    with pytest.raises((AssertionError, ZeroDivisionError)):
        test()
    began = next(n for n, line in enumerate(lines) if line.startswith("instance = ")) + 1
    return lines[began : began + found.steps]


# -- what is found ----------------------------------------------------------------------------------


def test_a_process_without_a_mistake_passes_in_every_order_of_things() -> None:
    """Conformance 48."""
    report = explore(Parcel, EVENTS, causes=CAUSES, once=[Send])

    assert report.is_complete
    assert report.violations == []
    assert report.unreached == ["inspected", "noticed", "weighed"]
    assert {"not_sent", "remind", "timed_out"} <= set(report.reached)
    assert (report.states, report.transitions) == (3035, 9478)


def always_dark(lamp: Scenario[Lamp]) -> bool:
    return not lamp.state.is_on


def test_an_invariant_that_breaks_is_told_by_the_shortest_test() -> None:
    """Conformance 48."""
    report = found_by(Lamp, LAMP, invariants=[always_dark], ends=False)

    assert steps_of(report, "invariant") == ["when(Plugged(lamp='l'))", "when(Pressed(lamp='l'))"]
    assert [one.what for one in report.violations] == ["always_dark does not hold"]


def test_an_invariant_may_assert_and_need_not_have_a_name() -> None:
    def dark(lamp: Scenario[Lamp]) -> None:
        assert not lamp.state.is_on, "it shines"

    told = found_by(Lamp, LAMP, invariants=[dark, lambda lamp: not lamp.has_ended], ends=False)

    assert {one.what for one in told.violations} == {
        "dark does not hold: it shines",
        "<lambda> does not hold",
    }
    assert "# and from the function that declares them: dark" in str(told)


def test_a_command_that_is_sent_twice_is_found() -> None:
    """Conformance 48."""
    report = found_by(Lamp, LAMP, once=[Light], ends=False)

    assert steps_of(report, "once") == ["when(Plugged(lamp='l'))"] * 2
    explore(Lamp, LAMP, once=[Light], duplicates=0, ends=False)


def test_a_command_that_was_cancelled_before_is_not_sent_twice() -> None:
    class Wavering(Lamp):
        @handle(Plugged, start=True)
        def plugged(self, event: Plugged) -> None:
            self.send(Light(lamp=event.lamp), delay="1h")

        @handle(Pressed)
        def pressed(self, event: Pressed) -> None:
            self.cancel_command(Light)
            self.send(Light(lamp=event.lamp), delay="1h")

    checks = Checks(frozenset({"lamps.Light"}), [])
    in_time = given(Wavering, LAMP[0]).when(LAMP[1])
    too_late = given(Wavering, LAMP[0]).elapse("1h").when(LAMP[1])

    assert checks.broken(in_time) is None
    assert checks.broken(too_late) is not None


def test_a_process_that_never_ends_is_found() -> None:
    """Conformance 48: nothing ends a lamp that nobody unplugs."""
    report = found_by(Lamp, LAMP)

    assert steps_of(report, "ends") == ["when(Plugged(lamp='l'))"]
    explore(Lamp, LAMP, causes=PLUGGED_FIRST, missing=[Pressed])
    explore(Lamp, LAMP, causes=PLUGGED_FIRST, missing=False)


def test_an_end_that_comes_too_early_is_lost() -> None:
    report = found_by(Lamp, LAMP, missing=False)

    assert steps_of(report, "ends") == [
        "when(Pressed(lamp='l'))",
        "when(Unplugged(lamp='l'))",
        "when(Plugged(lamp='l'))",
    ]


def test_an_end_that_only_a_mishap_brings_is_none() -> None:
    class OnceMore(ProcessManager):
        pressed_times: int = 0

        @handle(Plugged, start=True, correlate="lamp")
        def plugged(self, event: Plugged) -> None: ...

        @handle(Pressed, correlate="lamp")
        def pressed(self, event: Pressed) -> None:
            self.pressed_times += 1
            if self.pressed_times == 2:
                self.complete()

    report = found_by(OnceMore, LAMP[:2], missing=False)

    assert [one.kind for one in report.violations] == ["ends"]


def test_a_timer_that_sets_itself_for_ever_never_ends_a_process() -> None:
    class Blinking(ProcessManager):
        is_on: bool = False

        @handle(Plugged, start=True, correlate="lamp")
        def plugged(self, event: Plugged) -> None:
            self.set_timer("blink", "1s")

        @on_timer("blink")
        def blink(self) -> None:
            self.is_on = not self.is_on
            self.set_timer("blink", "1s")

    report = found_by(Blinking, LAMP[:1], duplicates=0)

    assert [one.kind for one in report.violations] == ["ends"]
    assert report.is_complete
    assert 'instance.elapse("1s")\n    assert instance.has_ended' in str(report)


def test_what_a_handler_raises_is_found() -> None:
    """Conformance 48."""
    report = found_by(Fragile, LAMP, causes=PLUGGED_FIRST, missing=False)

    assert steps_of(report, "raises") == ["when(Plugged(lamp='l'))", "when(Pressed(lamp='l'))"]
    report = explore(Fragile, LAMP, causes=PLUGGED_FIRST, missing=False, raises=ZeroDivisionError)
    assert report.violations == []


class Fragile(ProcessManager):
    """Breaks when it is pressed."""

    class Meta:
        name = "lamps.Fragile"
        correlate = "lamp"

    @handle(Plugged, start=True)
    def plugged(self, event: Plugged) -> None: ...

    @handle(Pressed)
    def pressed(self, event: Pressed) -> None:
        raise ZeroDivisionError

    @handle(Unplugged, end=True)
    def unplugged(self, event: Unplugged) -> None: ...


def test_what_was_found_first_is_the_shortest_of_each_kind() -> None:
    report = found_by(
        Lamp,
        LAMP,
        once=[Light],
        invariants=[lambda lamp: True, lambda lamp: lamp.handled[-2:] != LAMP[1:]],
    )

    assert [(one.kind, one.steps) for one in report.violations] == [
        ("ends", 1),
        ("once", 2),
        ("invariant", 3),
    ]


# -- what may happen --------------------------------------------------------------------------------


def seen(*arguments: Any, **options: Any) -> set[tuple[Any, ...]]:
    """All sequences of handlers that an exploration goes through."""
    ways: set[tuple[Any, ...]] = set()

    def note(scenario: Scenario[Any]) -> None:
        ways.add(tuple(step.handler for step in scenario.transitions if step.handler))

    explore(*arguments, **options, invariants=[note], ends=False)
    return ways


def test_every_order_of_events_is_gone_through() -> None:
    ways = seen(Lamp, LAMP, duplicates=0, command_failures=0)

    assert ways == {
        (),
        ("plugged",),
        ("plugged", "pressed"),
        ("plugged", "unplugged"),
        ("plugged", "pressed", "unplugged"),
    }


def test_an_event_happens_only_after_its_causes() -> None:
    only = {"duplicates": 0, "command_failures": 0}

    assert ("plugged", "unplugged") not in seen(
        Lamp, LAMP, causes={Pressed: Plugged, Unplugged: Pressed}, **only
    )
    assert seen(Lamp, LAMP, causes=[(Pressed, Dim("l"))], **only) == {
        (),
        ("plugged",),
        ("plugged", "unplugged"),
    }
    assert ("plugged", "pressed") in seen(Lamp, LAMP, causes={Pressed: Light("l")}, **only)
    assert ("plugged", "unplugged") not in seen(
        Lamp,
        LAMP,
        causes={Unplugged: [Plugged, lambda lamp: lamp.state.is_on]},
        **only,
    )


def test_a_celery_task_may_be_the_cause_of_an_event() -> None:
    events, only = [ORDERED, PACKED, DELIVERED], {"duplicates": 0, "command_failures": 0}
    sent = print_label.s("p", copies=2)

    for cause in (print_label, sent):
        ways = seen(Parcel, events, causes={Packed: Ordered, Delivered: cause}, **only)
        assert ("ordered", "packed", "delivered") in ways
        assert ("ordered", "delivered") not in ways
    never = {Packed: Ordered, Delivered: print_label.s("q")}
    assert ("ordered", "packed", "delivered") not in seen(Parcel, events, causes=never, **only)


def test_of_alternatives_one_happens() -> None:
    ways = seen(Lamp, LAMP, alternatives=[(Pressed, Unplugged)], duplicates=0)

    assert ("plugged", "pressed", "unplugged") not in ways
    assert {("plugged", "pressed"), ("plugged", "unplugged")} <= ways


def test_an_event_may_come_twice_and_no_oftener_than_is_said() -> None:
    twice = ("plugged", "pressed", "pressed")

    assert twice not in seen(Lamp, LAMP, duplicates=0)
    assert twice in seen(Lamp, LAMP, duplicates=1)
    assert (*twice, "pressed") not in seen(Lamp, LAMP, duplicates=1)


def test_timers_and_the_timeout_fire_between_any_two_events() -> None:
    ways = seen(Parcel, [ORDERED, PAID], duplicates=0, command_failures=0)

    reminded = ("ordered", "remind", "remind", "remind")
    assert {("ordered", "paid", "timed_out"), (*reminded, "paid"), (*reminded, "timed_out")} <= ways


def test_a_command_fails_unless_its_event_has_come() -> None:
    events: list[Any] = [ORDERED, PAID, PACKED]
    causes = {Packed: [Pack, Send]}
    ways = seen(Parcel, events, causes=causes, duplicates=0)

    assert ("ordered", "paid", "not_sent") in ways
    assert not any(way[-2:] == ("packed", "not_sent") for way in ways)
    assert not any(
        "not_sent" in way
        for way in seen(Parcel, events, causes=causes, duplicates=0, command_failures=0)
    )


def test_a_handler_fails_and_an_operator_retries_it() -> None:
    options: dict[str, Any] = {"duplicates": 0, "command_failures": 0}
    ways = seen(Parcel, [ORDERED, PAID], handler_failures=1, **options)

    assert ("ordered", "failed", "paid") in ways
    assert ("ordered", "failed", "remind") in ways
    assert not any("failed" in way for way in seen(Parcel, [ORDERED, PAID], **options))


def test_while_an_instance_has_failed_two_messages_are_parked_at_most() -> None:
    parked: list[int] = []
    explore(
        Parcel,
        EVENTS,
        causes=dict.fromkeys((Packed, Paid, Delivered), Ordered),
        handler_failures=1,
        duplicates=0,
        command_failures=0,
        invariants=[lambda parcel: parked.append(len(parcel.parked)) is None],
    )

    assert max(parked) == 2


def test_a_failing_handler_is_written_into_the_test() -> None:
    report = found_by(
        Parcel, [ORDERED], handler_failures=1, invariants=[lambda p: p.status != "failed"]
    )

    assert ".failing('ordered', times=1, for_good=True).when(Ordered(" in str(report)


def test_a_failing_command_is_written_into_the_test() -> None:
    report = found_by(
        Parcel, [ORDERED, PAID], invariants=[lambda p: Unpack("p") not in p.sent or p.has_ended]
    )

    assert "instance.command_fails(" in str(report)


def test_a_command_id_in_the_state_makes_no_state_a_new_one() -> None:
    class Rememberer(Lamp):
        last: str = ""

        @handle(Plugged, start=True)
        def plugged(self, event: Plugged) -> None:
            self.last = self.send(Light(lamp=event.lamp), delay="1h")

    # If each run's ids counted, there would be 337.
    assert explore(Rememberer, LAMP, ends=False).states == 180


# -- how much ---------------------------------------------------------------------------------------


def declare_ten() -> tuple[type[ProcessManager], list[Any], dict[Any, Any]]:
    """A process of ten events, two timers and a timeout; of two chains of events both may be ahead."""

    classes = [
        event(name=f"ten.Step{number}")(
            type(f"Step{number}", (), {"__annotations__": {"key": str}})
        )
        for number in range(10)
    ]

    def handler(number: int) -> Any:
        def handle_it(self: Any, event: Any) -> None:
            self.seen = sorted({*self.seen, number})
            if number == 0:
                self.set_timer("a", "1d")
                self.set_timer("b", "2d")
            if number in (3, 7):
                self.send(Light(lamp=str(number)))
            if len(self.seen) == 10:
                self.complete()

        return handle(classes[number], start=number == 0, correlate="key")(handle_it)

    class Base(ProcessManager):
        seen: list[int] = field(default_factory=list)

        class Meta:
            abstract = True
            timeout = "7d"

        @on_timer("a")
        def a(self) -> None:
            self.send(Dim(lamp="a"))

        @on_timer("b")
        def b(self) -> None:
            self.send(Dim(lamp="b"))

        @on_timeout
        def timed_out(self) -> None: ...

    ten = type("Ten", (Base,), {f"step{n}": handler(n) for n in range(10)})
    causes = {classes[n]: classes[max(n - 2, 0)] for n in range(1, 10)}
    return ten, [cls("k") for cls in classes], causes


def test_ten_events_and_two_timers_take_seconds() -> None:
    """Conformance 48."""
    ten, events, causes = declare_ten()
    began = time.process_time()

    report = explore(ten, events, causes=causes)

    assert report.is_complete
    assert report.states == 3331
    assert report.reached == [*"ab", *(f"step{n}" for n in range(10)), "timed_out"]
    assert time.process_time() - began < 30


def test_an_exploration_that_grows_too_large_stops_and_says_so() -> None:
    report = explore(Parcel, EVENTS, most_states=50)

    assert not report.is_complete
    assert "stopped at its bound: there is more" in str(report)
    assert "Never reached" in str(report)


# -- how it is told ---------------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"


@event(name="lamps.Painted")
class Painted:
    lamp: str
    colour: Colour = Colour.RED
    price: Decimal = Decimal("1.50")
    on: date = date(2030, 1, 1)
    by: UUID = UUID(int=7)
    layers: tuple[int, ...] = (1, 2)
    tags: frozenset[str] = frozenset({"a"})
    notes: dict[str, list[int]] = field(default_factory=lambda: {"x": [1]})
    took: timedelta = timedelta(hours=1, seconds=2)


class Painting(ProcessManager):
    class Meta:
        name = "lamps.Painting"

    @handle(Painted, start=True, correlate="lamp")
    def painted(self, event: Painted) -> None: ...


def test_whatever_an_event_holds_is_written_as_python() -> None:
    report = found_by(Painting, [Painted("l", took=timedelta(microseconds=5))])

    assert steps_of(report, "ends") == [
        "when(Painted(lamp='l', colour=Colour.RED, price=Decimal('1.50'), on=datetime.date(2030, 1, 1), "
        "by=UUID('00000000-0000-0000-0000-000000000007'), layers=(1, 2,), tags=frozenset({'a'}), "
        "notes={'x': [1]}, took=timedelta(microseconds=5)))"
    ]


def test_a_report_tells_how_much_was_seen_and_gives_a_test() -> None:
    report = found_by(Lamp, LAMP, duplicates=0, command_failures=0)

    assert (
        str(report).splitlines()[0].startswith("lamps.Lamp: 13 states and 14 steps between them, ")
    )
    assert (
        str(report).split("\n\n", 1)[1]
        == '''\
It never ends: no timer, no timeout and no event that is sure to come ends it (1 steps)

from pm_celery.testing import given
from tests.kit.test_explore import Lamp, Plugged


def test_lamp_ends() -> None:
    """It never ends: no timer, no timeout and no event that is sure to come ends it."""
    instance = given(Lamp)
    instance.when(Plugged(lamp='l'))
    # Nothing that is sure to come ends it.
    assert instance.has_ended
'''
    )


def test_what_is_asked_wrongly_is_told() -> None:
    with pytest.raises(Misuse, match="does not handle"):
        explore(Lamp, [ORDERED])
    with pytest.raises(Misuse, match="none of the events"):
        explore(Lamp, LAMP[:2], causes={Unplugged: Pressed})
    with pytest.raises(Misuse, match="of several instances: a, b"):
        explore(Lamp, [Plugged("a"), Pressed("b")])
    with pytest.raises(Misuse, match="no event, no command"):
        explore(Lamp, LAMP, causes={Unplugged: 7})
    with pytest.raises(InvalidMessage):
        explore(Lamp, LAMP, once=[Pressed])
    with pytest.raises(Misuse, match="none of the events"):
        explore(Lamp, LAMP, missing=[Ordered])
