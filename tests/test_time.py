"""Conformance 28 to 32: timeouts, timers and delays, all of them rows."""

from __future__ import annotations

import json
from dataclasses import field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from celery.signals import before_task_publish

from pm_celery import (
    ProcessManager,
    clock,
    command,
    command_handler,
    event,
    handle,
    on_timer,
    publish,
    publish_many,
    ticks,
)
from pm_celery.exceptions import Refused
from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand, Timer, Transition
from pm_celery.operations import instances as verbs
from pm_celery.operations import timers as timer_verbs
from tests.driving import Time, advance_all, drain
from tests.orders import Broken, Paid, Placed, Plan, Shipped
from tests.testapp.models import Effect

pytestmark = pytest.mark.django_db(transaction=True)


def test_when_the_timeout_passes_its_handler_runs_and_the_status_is_timed_out(time: Time) -> None:
    """Conformance 28."""
    publish(Placed(order_id=uuid4()))
    drain()

    time.elapse("6d")
    assert Instance.objects.get().status == "started"
    time.elapse("2d")

    instance = Instance.objects.get()
    assert instance.status == "timed_out"
    assert instance.ended_at is not None
    assert Effect.objects.filter(name__startswith="cancelled").count() == 1


def test_the_timeout_fires_once_with_two_beats_and_after_an_outage(time: Time) -> None:
    """Conformance 28."""
    publish_many([Placed(order_id=uuid4()) for _ in range(3)])
    drain()

    with clock.travel(timedelta(days=30)):
        ticks.tick()
        ticks.tick()
        advance_all()
        ticks.tick()
        drain()

        assert Plan.ran.count("timed_out") == 3
        assert Transition.objects.filter(kind="timeout").count() == 3


def test_an_ended_instance_does_not_time_out(time: Time) -> None:
    order_id = uuid4()
    publish_many([Placed(order_id=order_id), Shipped(order_id=order_id)])
    drain()

    time.elapse("30d")

    assert Instance.objects.get().status == "completed"
    assert "timed_out" not in Plan.ran


# -- timers -----------------------------------------------------------------------------------------


def declare_diary() -> tuple[type[ProcessManager], Any, Any]:
    """A process that sets, moves and cancels the timers that its events name."""

    @event
    class Opened:
        key: str

    @event
    class Changed:
        key: str
        set: dict[str, str] = field(default_factory=dict)
        cancel: list[str] = field(default_factory=list)
        close: bool = False
        payload: dict[str, int] | None = None

    class Diary(ProcessManager):
        fired: list[str] = field(default_factory=list)

        @handle(Opened, start=True, correlate="key")
        def opened(self, event: Opened) -> None: ...

        @handle(Changed, correlate="key")
        def changed(self, event: Changed) -> None:
            for name, after in event.set.items():
                self.set_timer(name, after, payload=event.payload)
            for name in event.cancel:
                self.cancel_timer(name)
            Plan.visit("changed")
            if event.close:
                self.complete()

        @on_timer("a")
        def a(self) -> None:
            self.fired.append("a")

        @on_timer("b")
        def b(self, payload: dict[str, int] | None) -> None:
            self.fired.append(f"b {payload}")

    return Diary, Opened, Changed


def fired() -> list[str]:
    return list(json.loads(Instance.objects.get().state)["fired"])


def test_timers_are_set_moved_and_cancelled_several_for_an_instance(time: Time) -> None:
    """Conformance 29."""
    _, opened, changed = declare_diary()
    publish_many([opened("k"), changed("k", {"a": "1h", "b": "2h"}, payload={"n": 5})])
    drain()
    assert Timer.objects.count() == 2
    publish(changed("k", {"a": "3h"}))
    drain()

    time.elapse("2h30m")
    assert fired() == ["b {'n': 5}"]
    time.elapse("1h")
    assert fired() == ["b {'n': 5}", "a"]
    publish(changed("k", {"a": "1h"}))
    drain()
    publish(changed("k", cancel=["a"]))
    drain()
    time.elapse("2h")

    assert fired() == ["b {'n': 5}", "a"]
    assert not Timer.objects.exists()


def test_timers_are_gone_when_the_instance_ends(time: Time) -> None:
    """Conformance 29."""
    _, opened, changed = declare_diary()
    publish_many([opened("k"), changed("k", {"a": "1h"})])
    drain()
    assert Timer.objects.exists()

    publish_many([changed("k", {"b": "1h"}), changed("k", close=True)])
    drain()

    assert not Timer.objects.exists()
    time.elapse("2h")
    assert fired() == []


def test_a_timer_of_a_handler_that_is_rolled_back_leaves_nothing() -> None:
    """Conformance 29."""
    _, opened, changed = declare_diary()
    publish(opened("k"))
    drain()
    Plan.raise_in["changed"] = Broken()

    publish(changed("k", {"a": "1h"}))
    advance_all()

    assert not Timer.objects.exists()


def test_a_due_timer_yields_to_events_that_were_committed_before_it_was_due(time: Time) -> None:
    """Conformance 30: also when nobody had handled them by then."""
    _, opened, changed = declare_diary()
    publish_many([opened("k"), changed("k", {"a": "1h"})])
    drain()

    publish(changed("k", cancel=["a"]))
    time.elapse("2h")

    assert fired() == []


def test_a_timer_that_fired_and_was_moved_before_it_was_handled_waits_for_its_new_moment(
    time: Time,
) -> None:
    """Conformance 29."""
    _, opened, changed = declare_diary()
    publish_many([opened("k"), changed("k", {"a": "1h"})])
    drain()

    with clock.travel(timedelta(hours=2)):
        publish(changed("k", {"a": "1h"}))
        ticks.tick()
        drain()
        assert InboxMessage.objects.get(kind="timer").status == "skipped"
        assert fired() == []
    time.elapse("4h")

    assert fired() == ["a"]


def test_a_late_timer_for_an_ended_instance_does_nothing_quietly(time: Time) -> None:
    """Conformance 30."""
    _, opened, changed = declare_diary()
    publish_many([opened("k"), changed("k", {"a": "1h"})])
    drain()

    with clock.travel(timedelta(hours=2)):
        ticks.tick()
        publish(changed("k"))
        verbs.cancel(Instance.objects.get().pk)
        drain()

    assert InboxMessage.objects.get(kind="timer").status == "skipped"
    assert not DeadLetter.objects.exists()
    assert fired() == []


def test_an_operator_cancels_a_timer_once(time: Time) -> None:
    _, opened, changed = declare_diary()
    publish_many([opened("k"), changed("k", {"a": "1h"})])
    drain()
    timer = Timer.objects.get()

    timer_verbs.cancel(timer.pk, by="ann")
    with pytest.raises(Refused, match="already"):
        timer_verbs.cancel(timer.pk, by="bob")
    time.elapse("2h")

    assert fired() == []


def test_an_operator_fires_the_timeout_now_once() -> None:
    publish(Placed(order_id=uuid4()))
    drain()
    instance = Instance.objects.get()

    verbs.fire_timeout(instance.pk, by="ann")
    with pytest.raises(Refused, match="fired already"):
        verbs.fire_timeout(instance.pk, by="bob")
    drain()

    assert Instance.objects.get().status == "timed_out"
    with pytest.raises(Refused, match="already timed out"):
        verbs.fire_timeout(instance.pk)


# -- delays -----------------------------------------------------------------------------------------


def declare_course() -> tuple[Any, Any]:
    """A process that sends a delayed command, and cancels it when asked to."""

    @event
    class Joined:
        key: str

    @event
    class Left:
        key: str
        by_class: bool = False

    @command
    class SendTip:
        key: str

    @command_handler(SendTip)
    def send_tip(command: SendTip) -> None:
        Effect.objects.create(name=f"tip {command.key}")

    class Course(ProcessManager):
        tip: str = ""

        @handle(Joined, start=True, correlate="key")
        def joined(self, event: Joined) -> None:
            self.tip = self.send(SendTip(event.key), delay="1m")

        @handle(Left, correlate="key")
        def left(self, event: Left) -> None:
            self.cancel_command(SendTip if event.by_class else self.tip)

    return Joined, Left


def test_a_delayed_command_runs_after_its_delay(time: Time) -> None:
    """Conformance 31."""
    joined, _ = declare_course()
    publish(joined("k"))
    drain()
    time.elapse("50s")
    assert not Effect.objects.exists()

    time.elapse("20s")

    assert Effect.objects.count() == 1


@pytest.mark.parametrize("by_class", [True, False])
@pytest.mark.parametrize("in_one_batch", [True, False])
def test_a_delayed_command_is_cancelled_until_it_is_dispatched(
    time: Time, by_class: bool, in_one_batch: bool
) -> None:
    """Conformance 31."""
    joined, left = declare_course()
    publish(joined("k"))
    if not in_one_batch:
        drain()

    publish(left("k", by_class))
    drain()
    time.elapse("2m")

    cancelled = OutboxCommand.objects.get()
    # Retention goes by the moment.
    assert (cancelled.status, cancelled.settled_at is None) == ("cancelled", False)
    assert not Effect.objects.exists()


def test_cancelling_a_command_that_was_dispatched_changes_nothing(time: Time) -> None:
    """Conformance 31."""
    joined, left = declare_course()
    publish(joined("k"))
    drain()
    time.elapse("2m")

    publish(left("k"))
    drain()

    assert OutboxCommand.objects.get().status == "done"


def test_no_message_to_the_broker_has_an_eta_or_a_countdown(time: Time) -> None:
    """Conformance 32: what Celery publishes is watched over timers, delays and retries."""
    sent: list[dict[str, Any]] = []

    def watch(sender: str, headers: dict[str, Any], properties: Any, **_: Any) -> None:
        sent.append({"name": sender, **headers})

    before_task_publish.connect(watch)
    joined, _ = declare_course()
    order_id = uuid4()
    Plan.raise_in["paid"] = Broken()

    publish_many([joined("k"), Placed(order_id=order_id), Paid(order_id=order_id)])
    drain()
    for _ in range(4):
        time.elapse("1m")
    time.elapse("8d")
    before_task_publish.disconnect(watch)

    assert {message["name"] for message in sent} >= {
        "pm_celery.advance",
        "pm_celery.command.tests.SendTip",
        "pm_celery.command.tests.Reserve",
    }
    assert [message for message in sent if message["eta"] is not None] == []


def test_an_event_is_handled_at_once_by_a_worker_whose_clock_lags() -> None:
    """A process reads the database's clock late in a busy moment; the tick is not to be waited for."""
    publish(Placed(order_id=uuid4()))

    with clock.travel(timedelta(milliseconds=-500)):
        advance_all()

    assert Instance.objects.get().status == "started"
