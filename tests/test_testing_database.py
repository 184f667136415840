"""The testing kit with a database: what a test gets when it publishes, drains, and lets time go by.

Conformance 46 and 47, for real rows. Most of it runs in the transaction of Django's ``TestCase``: there
users' tests run, and nothing is ever committed.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from celery import shared_task
from celery.exceptions import Ignore
from celery.signals import before_task_publish
from django.db import connections, transaction
from django.test import TestCase, TransactionTestCase

from pm_celery import (
    ProcessManager,
    Retry,
    clock,
    command,
    command_handler,
    event,
    handle,
    on_timer,
    publish,
    upcast,
)
from pm_celery.models import InboxMessage, Instance
from pm_celery.operations import bulk, dead_letters
from pm_celery.testing import NotSettled, ProcessManagers, ProcessManagersMixin, driving
from tests.orders import Broken, Cancel, Order, Paid, Placed, Plan, Reserve, Reserved, Ship, Shipped
from tests.testapp.models import Effect

pytestmark = pytest.mark.django_db


@event(name="kit.Begun")
class Begun:
    key: str


@event(name="kit.Unheard")
class Unheard:
    key: str


@command(name="kit.Do")
class Do:
    key: str
    works: bool = True


def takes_an_order_to_its_end(kit: ProcessManagers) -> None:
    """A whole order, by a test's own words."""
    order_id = uuid4()
    event_id = kit.publish(Placed(order_id=order_id))
    kit.drain()
    assert kit.instance(Order, order_id).status == "started"
    assert kit.commands() == [Reserve(order_id=order_id)]
    assert kit.became_of(event_id) == {"tests.Order": "handled"}

    kit.elapse("25h")
    assert kit.state(Order, order_id).reminded == 1

    publish(Paid(order_id=order_id))
    publish(Shipped(order_id=order_id))
    kit.drain()
    assert kit.instance(Order, order_id).status == "completed"
    assert kit.commands(Ship, status="done") == [Ship(order_id=order_id)]
    assert Effect.objects.filter(name=f"shipped {order_id}").count() == 1
    assert kit.dead_letters() == []


def test_an_order_goes_its_way_in_a_transaction_that_is_never_committed(
    process_managers: ProcessManagers,
) -> None:
    assert connections["default"].in_atomic_block

    takes_an_order_to_its_end(process_managers)


@pytest.mark.django_db(transaction=True)
def test_an_order_goes_its_way_in_transactions_of_its_own(
    process_managers: ProcessManagers,
) -> None:
    assert not connections["default"].in_atomic_block

    takes_an_order_to_its_end(process_managers)


class TestMixinInTestCase(ProcessManagersMixin, TestCase):
    def test_an_order_goes_its_way_in_a_test_case_of_djangos(self) -> None:
        takes_an_order_to_its_end(self.process_managers)

    def test_time_and_rows_begin_anew_in_each_test(self) -> None:
        assert abs(self.process_managers.now - clock.now()) < timedelta(seconds=5)
        assert not self.process_managers.instances().exists()


class TestMixinInTransactionTestCase(ProcessManagersMixin, TransactionTestCase):
    def test_an_order_goes_its_way_in_a_transaction_test_case(self) -> None:
        takes_an_order_to_its_end(self.process_managers)


@pytest.mark.django_db(databases=["default", "other"])
def test_an_order_goes_its_way_in_another_database(
    settings: Any, process_managers: ProcessManagers
) -> None:
    settings.PM_CELERY = {"DATABASE": "other"}
    order_id = uuid4()

    publish(Placed(order_id=order_id))
    process_managers.elapse("25h")

    assert process_managers.state(Order, order_id).reminded == 1
    assert process_managers.instance(Order, order_id)._state.db == "other"
    assert not Instance.objects.using("default").exists()


# -- nothing leaves the test ------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("eager", [False, True])
def test_no_message_goes_to_a_broker_and_no_handler_runs_where_an_event_is_published(
    eager: bool, process_managers: ProcessManagers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the project's test settings have CELERY_TASK_ALWAYS_EAGER, which would run it at once."""
    from celery import current_app

    monkeypatch.setitem(current_app.conf.changes, "task_always_eager", eager)
    sent: list[Any] = []

    def note(sender: Any = None, **_: Any) -> None:
        sent.append(sender)

    before_task_publish.connect(note, dispatch_uid="kit")
    try:
        publish(Placed(order_id=uuid4()))
        assert Plan.ran == []
        process_managers.drain()
    finally:
        before_task_publish.disconnect(dispatch_uid="kit")

    assert Plan.ran == ["placed", "reserve", "reserved"]
    assert sent == []


def test_time_is_real_again_afterwards() -> None:
    before = clock.now()
    with ProcessManagers() as kit:
        began = kit.now
        kit.elapse("30d")
        assert kit.now == clock.now() == began + timedelta(days=30)

    assert timedelta(0) < clock.now() - before < timedelta(minutes=5)


# -- time -------------------------------------------------------------------------------------------


def clockwork(*, every: str = "1h", rings: int = 3) -> type[ProcessManager]:
    class Clockwork(ProcessManager):
        rang: int = 0
        late: float = 0.0

        @handle(Begun, start=True, correlate="key")
        def begun(self, event: Begun) -> None:
            self.set_timer("bell", every)

        @on_timer("bell")
        def ring(self) -> None:
            self.rang += 1
            self.late = max(self.late, (self.now - self.message.occurred_at).total_seconds())
            if self.rang < rings:
                self.set_timer("bell", every)

    return Clockwork


def test_time_stops_at_each_moment_at_which_something_is_due(
    process_managers: ProcessManagers,
) -> None:
    """Conformance 47: what a timer's handler sets in turn is due within the same stretch of time."""
    process = clockwork()
    publish(Begun("a"))

    process_managers.elapse("2h 30m")
    assert process_managers.state(process, "a").rang == 2  # type: ignore[attr-defined]
    assert process_managers.state(process, "a").late == 0  # type: ignore[attr-defined]
    in_half_an_hour = process_managers.now + timedelta(minutes=30)
    assert process_managers.timers(process, "a") == {"bell": in_half_an_hour}

    process_managers.elapse("30m")
    assert process_managers.timers(process, "a") == {}


def test_what_became_due_in_an_outage_is_handled_late_and_once(
    process_managers: ProcessManagers,
) -> None:
    process = clockwork()
    publish(Begun("a"))
    process_managers.drain()

    process_managers.outage("10h")

    assert process_managers.state(process, "a").rang == 1  # type: ignore[attr-defined]
    assert process_managers.state(process, "a").late == 9 * 3600  # type: ignore[attr-defined]


def test_backoffs_of_commands_and_delays_pass_in_virtual_time(
    process_managers: ProcessManagers,
) -> None:
    """Conformance 47."""
    tried: list[datetime] = []

    @command_handler(Do, retry=Retry("fixed", delay="10m", max_retries=2, jitter=False))
    def do(command: Do) -> None:
        tried.append(process_managers.now)
        raise Broken("no luck")

    class Asks(ProcessManager):
        @handle(Begun, start=True, correlate="key")
        def begun(self, event: Begun) -> None:
            self.send(Do(event.key), delay="1h")

    publish(Begun("a"))
    began = process_managers.now
    process_managers.elapse("55m")
    assert tried == []
    assert process_managers.commands(Do, status="pending") == [Do("a")]
    process_managers.elapse("1d")

    assert [moment - began for moment in tried] == [timedelta(minutes=m) for m in (60, 70, 80)]
    (letter,) = process_managers.dead_letters(Asks)
    assert (letter.exception, letter.attempts) == ("Broken", 3)


def test_a_handler_that_raises_is_run_again_after_its_backoff_and_not_before(
    process_managers: ProcessManagers,
) -> None:
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    process_managers.drain()
    Plan.raise_in["paid"] = Broken("no card")
    publish(Paid(order_id=order_id))

    process_managers.drain()
    assert Plan.ran.count("paid") == 1
    process_managers.elapse("10s")

    assert Plan.ran.count("paid") == 4
    (letter,) = process_managers.dead_letters(Order)
    assert letter.error == "no card"
    assert process_managers.instance("tests.Order", order_id).status == "failed"
    assert process_managers.commands(Cancel, status="done") == [Cancel(order_id=order_id)]


# -- what does not settle ---------------------------------------------------------------------------


def test_what_keeps_itself_going_is_named(process_managers: ProcessManagers) -> None:
    class Polls(ProcessManager):
        @handle(Begun, start=True, correlate="key")
        def begun(self, event: Begun) -> None:
            self.set_timer("poll", at=self.now)

        @on_timer("poll")
        def poll(self) -> None:
            self.set_timer("poll", at=self.now)

    publish(Begun("a"))

    with pytest.raises(NotSettled) as raised:
        process_managers.drain(most_rounds=5)

    told = str(raised.value)
    assert "After 5 rounds" in told
    assert f"the timer poll of {Polls.definition.name} a, due at" in told
    assert f"timer poll by {Polls.definition.name}: 4 times" in told


def test_a_stretch_of_time_with_too_many_moments_names_what_fills_it(
    process_managers: ProcessManagers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driving, "MOST_MOMENTS", 5)
    process = clockwork(every="1s", rings=10**9)
    publish(Begun("a"))

    with pytest.raises(NotSettled, match=r"(?s)After 5 moments.*the timer bell of .* a: 5 times"):
        process_managers.elapse("30d")
    assert process_managers.state(process, "a").rang == 5  # type: ignore[attr-defined]


# -- what handlers leave for the commit -------------------------------------------------------------


def sends_do() -> None:
    class Asks(ProcessManager):
        @handle(Begun, start=True, correlate="key")
        def begun(self, event: Begun) -> None:
            self.send(Do(event.key))


def test_what_a_handler_leaves_for_its_commit_is_done_though_nothing_is_committed(
    process_managers: ProcessManagers,
) -> None:
    done: list[str] = []

    @command_handler(Do)
    def do(command: Do) -> None:
        transaction.on_commit(lambda: done.append("a handler's"))
        with transaction.atomic():
            transaction.on_commit(lambda: transaction.on_commit(lambda: done.append("its own")))

    sends_do()
    transaction.on_commit(lambda: done.append("the test's"))
    publish(Begun("a"))
    process_managers.drain()

    assert done == ["a handler's", "its own"]


def test_djangos_own_capturing_of_callbacks_does_not_run_them_once_more(
    process_managers: ProcessManagers,
) -> None:
    done: list[str] = []

    @command_handler(Do)
    def do(command: Do) -> None:
        transaction.on_commit(lambda: done.append("a handler's"))

    sends_do()
    with TestCase.captureOnCommitCallbacks(execute=True):
        publish(Begun("a"))
        transaction.on_commit(lambda: done.append("the test's"))
        process_managers.drain()

    assert done == ["a handler's", "the test's"]


def test_what_a_failed_handler_leaves_for_its_commit_is_not_done(
    process_managers: ProcessManagers,
) -> None:
    done: list[str] = []

    @command_handler(Do, retry=Retry("none"))
    def do(command: Do) -> None:
        transaction.on_commit(lambda: done.append("too early"))
        raise Broken

    sends_do()
    publish(Begun("a"))
    process_managers.drain()

    assert done == []
    assert process_managers.commands(status="dead") == [Do("a")]


def test_a_callback_that_raises_is_the_test_s_to_see_unless_it_is_robust(
    process_managers: ProcessManagers, caplog: pytest.LogCaptureFixture
) -> None:
    robust = True

    def fail() -> None:
        raise Broken("after the commit")

    @command_handler(Do)
    def do(command: Do) -> None:
        transaction.on_commit(fail, robust=robust)

    sends_do()
    publish(Begun("a"))
    with caplog.at_level(logging.ERROR):
        process_managers.drain()
    assert "after the commit" in caplog.text

    robust = False
    publish(Begun("b"))
    with pytest.raises(Broken):
        process_managers.drain()


# -- Celery's own tasks, and operators --------------------------------------------------------------


def test_a_signature_runs_where_its_task_is_registered(process_managers: ProcessManagers) -> None:
    """Conformance 33."""
    ran: list[tuple[int, str]] = []

    @shared_task(name="tests.kit_task")
    def task(number: int, *, text: str) -> None:
        ran.append((number, text))
        if number == 2:
            raise Broken("two is too many")

    class Asks(ProcessManager):
        @handle(Begun, start=True, correlate="key")
        def begun(self, event: Begun) -> None:
            self.send(task.s(1, text="fine"))
            self.send(task.s(2, text="bad"))

    publish(Begun("a"))
    process_managers.drain()

    assert ran == [(1, "fine"), (2, "bad")]
    assert process_managers.commands(status="done") == [task.s(1, text="fine")]
    (letter,) = process_managers.dead_letters()
    assert (letter.place, letter.error) == ("signature", "two is too many")


def test_a_task_that_says_nothing_of_its_end_runs_once_for_each_dispatch(
    process_managers: ProcessManagers,
) -> None:
    ran: list[datetime] = []

    @shared_task(name="tests.kit_silent_task")
    def task() -> None:
        ran.append(process_managers.now)
        raise Ignore

    class Asks(ProcessManager):
        @handle(Begun, start=True, correlate="key")
        def begun(self, event: Begun) -> None:
            self.send(task.s())

    publish(Begun("a"))
    process_managers.drain()
    assert len(ran) == 1
    process_managers.elapse("65m")  # once begun, its lease is an hour

    assert len(ran) == 2


def test_a_signature_of_a_task_that_is_elsewhere_waits_and_is_told(
    process_managers: ProcessManagers,
) -> None:
    from celery import signature

    class Asks(ProcessManager):
        @handle(Begun, start=True, correlate="key")
        def begun(self, event: Begun) -> None:
            self.send(signature("elsewhere.task"))

    publish(Begun("a"))
    process_managers.drain()

    (found,) = process_managers.upcoming()
    assert found.what == (
        f"the Celery signature elsewhere.task of {Asks.definition.name} a, dispatched, which did not run"
    )


def test_a_bulk_action_that_an_operator_asked_for_is_worked_off(
    process_managers: ProcessManagers,
) -> None:
    Plan.raise_in["placed"] = KeyError("no stock")
    for _ in range(3):
        publish(Placed(order_id=uuid4()))
    process_managers.drain()
    Plan.raise_in.clear()

    asked = bulk.start("retry", {})
    process_managers.drain()

    assert str(bulk.progress(asked.pk)) == "3 retried"
    assert process_managers.dead_letters() == []
    assert {row.status for row in process_managers.instances(Order)} == {"started"}


def test_an_operator_s_retry_is_a_drain_away(process_managers: ProcessManagers) -> None:
    order_id = uuid4()
    Plan.raise_in["placed"] = KeyError("no stock")
    publish(Placed(order_id=order_id))
    process_managers.drain()
    Plan.raise_in.clear()

    dead_letters.retry(process_managers.dead_letters()[0].pk)
    process_managers.drain()

    assert process_managers.instance(Order, order_id).status == "started"


# -- lookups ----------------------------------------------------------------------------------------


def test_events_and_transitions_are_told_in_their_order(process_managers: ProcessManagers) -> None:
    order_id, other = uuid4(), uuid4()
    publish(Placed(order_id=order_id))
    publish(Placed(order_id=other))
    publish(Unheard("nobody"))
    process_managers.drain()

    assert process_managers.events(Reserved, key=order_id) == [Reserved(order_id=order_id)]
    assert process_managers.events(process=Order, key=other) == [
        Placed(order_id=other),
        Reserved(order_id=other),
    ]
    assert process_managers.events(status="pending") == []
    steps = process_managers.transitions(Order, order_id)
    assert [(step.number, step.handler) for step in steps] == [(1, "placed"), (2, "reserved")]


def test_what_is_to_come_is_told_the_earliest_first(process_managers: ProcessManagers) -> None:
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    (message,) = process_managers.upcoming()
    assert str(message).startswith(f"the event tests.Placed for tests.Order {order_id}, due at 2")

    process_managers.drain()

    assert [found.what for found in process_managers.upcoming()] == [
        f"the timer reminder of tests.Order {order_id}",
        f"the timeout of tests.Order {order_id}",
    ]


def test_a_report_tells_where_everything_stands(process_managers: ProcessManagers) -> None:
    Plan.raise_in["paid"] = KeyError("no card")
    publish(Placed(order_id=(order_id := uuid4())))
    publish(Paid(order_id=order_id))
    process_managers.drain()

    told = process_managers.report().splitlines()

    assert told[1:3] == [
        f"tests.Order {order_id}: failed after 3 transitions",
        f"dead letter of tests.Order {order_id}: tests.Paid in paid, run 1: KeyError: 'no card'",
    ]
    assert told[3].startswith(f"next: the timer reminder of tests.Order {order_id}, due at")


def test_a_key_that_is_not_there_is_told_with_those_that_are(
    process_managers: ProcessManagers,
) -> None:
    with pytest.raises(LookupError, match="none at all: was its start event published"):
        process_managers.instance(Order, "4711")
    publish(Placed(order_id=(order_id := uuid4())))
    with pytest.raises(LookupError, match=r"not handled yet: drain\(\)"):
        process_managers.state(Order, order_id)
    process_managers.drain()
    with pytest.raises(LookupError, match=f"'4711'. There is '{order_id}'"):
        process_managers.timers(Order, "4711")
    with pytest.raises(LookupError, match=r"No process has that name; known: .*tests\.Order"):
        process_managers.instance("tests.Ordr", order_id)
    with pytest.raises(TypeError, match="is no process manager"):
        process_managers.instance(Placed, order_id)  # type: ignore[arg-type]


def test_what_an_older_release_has_stored_is_read_in_the_form_of_this_one(
    process_managers: ProcessManagers,
) -> None:
    @event(name="kit.Joined", version=2)
    class Joined:
        name: str

    @upcast(Joined, from_version=1)
    def called(payload: dict[str, Any]) -> dict[str, Any]:
        return {"name": payload["called"]}

    class Member(ProcessManager):
        name: str = ""

        class Meta:
            name = "kit.member"
            state_version = 2

        @classmethod
        def upgrade_state(cls, state: dict[str, Any], from_version: int) -> dict[str, Any]:
            return {"name": state["called"]}

        @handle(Joined, start=True, correlate="name")
        def joined(self, event: Joined) -> None:
            self.name = event.name

    publish(Joined(name="ann"))
    process_managers.drain()
    old = '{"called": "ann"}'
    Instance.objects.filter(process="kit.member").update(state=old, state_version=1)
    InboxMessage.objects.filter(process="kit.member").update(payload=old, version=1)

    assert process_managers.state(Member, "ann").name == "ann"
    assert process_managers.events(Joined) == [Joined(name="ann")]
