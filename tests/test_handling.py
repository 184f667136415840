"""Conformance 16 to 20 and 22: one event, one transition, in order, once."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction

from pm_celery import Envelope, ProcessManager, clock, command, event, handle, publish, publish_many
from pm_celery.claiming import Passed, claim
from pm_celery.definitions import ProcessDefinition
from pm_celery.engine import advance
from pm_celery.keys import PARTITIONS, partition_of
from pm_celery.models import InboxMessage, Instance, OutboxCommand, Timer, Transition, Wakeup
from tests.driving import Time, advance_all, drain
from tests.orders import Broken, Order, Paid, Placed, Plan, Shipped
from tests.testapp.models import Effect

pytestmark = pytest.mark.django_db(transaction=True)


def transitions_of(instance: Instance) -> list[Transition]:
    return list(instance.transitions.order_by("number"))


def assert_history_is_whole(definition: ProcessDefinition) -> None:
    """Numbers without gaps, and the stored state is the one that the transitions rebuild."""
    for instance in Instance.objects.filter(process=definition.name):
        steps = transitions_of(instance)
        assert [step.number for step in steps] == list(range(1, instance.number + 1))
        assert (steps[-1].state, steps[-1].status) == (instance.state, instance.status)


def test_one_event_is_one_transition_with_state_commands_timers_and_mark() -> None:
    """Conformance 16."""
    order_id = uuid4()

    publish(Placed(order_id=order_id))
    advance_all()

    step = Transition.objects.get()
    command = OutboxCommand.objects.get()
    assert (step.number, step.name, step.handler, step.status) == (
        1,
        "tests.Placed",
        "placed",
        "started",
    )
    assert json.loads(step.state)["order_id"] == str(order_id)
    assert json.loads(step.commands) == [[str(command.command_id), "tests.Reserve"]]
    assert Timer.objects.get().name == "reminder"
    assert InboxMessage.objects.get().status == "handled"
    assert Instance.objects.get().state == step.state


def test_an_error_rolls_back_state_commands_timers_and_what_the_handler_wrote() -> None:
    """Conformance 16."""
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    before = Instance.objects.values().get()
    Plan.raise_in["paid"] = Broken()

    publish(Paid(order_id=order_id))
    advance_all()

    assert Instance.objects.values().get() == before
    assert not Effect.objects.filter(name__startswith="paid").exists()
    assert Timer.objects.count() == 1
    assert not OutboxCommand.objects.filter(name="tests.Ship").exists()
    assert InboxMessage.objects.get(name="tests.Paid").status == "pending"


def test_transitions_are_numbered_without_gaps_and_rebuild_the_state(time: Time) -> None:
    """Conformance 17: also over a failure, its retry, a timer and a timeout."""
    orders = [uuid4() for _ in range(6)]
    publish_many([Placed(order_id=order) for order in orders])
    drain()
    Plan.raise_in["paid"] = Broken()
    publish(Paid(order_id=orders[0]))
    drain()
    time.elapse("10s")
    time.elapse("10s")
    time.elapse("10s")
    Plan.raise_in.clear()
    publish_many([Paid(order_id=order) for order in orders[1:4]])
    publish(Shipped(order_id=orders[1]))
    drain()

    time.elapse("8d")

    assert_history_is_whole(Order.definition)
    assert Instance.objects.get(key=str(orders[0])).status == "failed"
    assert Instance.objects.get(key=str(orders[1])).status == "completed"
    assert Instance.objects.get(key=str(orders[2])).status == "timed_out"


def test_handling_costs_as_many_queries_after_many_transitions_as_after_few(
    django_assert_max_num_queries,
) -> None:
    """Conformance 18: the number and the plans' rows do not grow with the history."""

    @event
    class Ticked:
        key: str

    class Long(ProcessManager):
        count: int = 0

        @handle(Ticked, start=True, correlate="key")
        def ticked(self, event: Ticked) -> None:
            self.count += 1

    partition = partition_of(Long.definition.name, "long")
    with django_assert_max_num_queries(200) as first:
        publish(Ticked("long"))
        advance(partition)
    publish_many([Ticked("long") for _ in range(10_000)])
    while InboxMessage.objects.filter(status="pending").exists():
        advance(partition)

    with django_assert_max_num_queries(len(first)):
        publish(Ticked("long"))
        advance(partition)

    instance = Instance.objects.get()
    assert json.loads(instance.state) == {"count": 10_002}
    assert instance.number == instance.transitions.count() == 10_002
    assert_history_is_whole(Long.definition)


def test_an_event_published_twice_with_one_id_is_handled_once_per_process() -> None:
    """Conformance 19."""

    @event
    class Rung:
        key: str

    class First(ProcessManager):
        count: int = 0

        @handle(Rung, start=True, correlate="key")
        def rung(self, event: Rung) -> None:
            self.count += 1

    class Second(First):
        pass

    publish(Rung("door"), event_id="ring-1")
    publish_many([Envelope(Rung("door"), "ring-1"), Envelope(Rung("door"), "ring-1")])
    drain()
    publish(Rung("door"), event_id="ring-1")
    drain()

    assert {json.loads(instance.state)["count"] for instance in Instance.objects.all()} == {1}
    assert Instance.objects.count() == Transition.objects.count() == 2


@pytest.mark.needs("row locks")
def test_copies_of_an_event_that_race_are_handled_once() -> None:
    """Conformance 19.

    Schedule: A inserts the event and stays in its transaction; B publishes the copy and waits for A's
    row; A commits; B finds the row there and commits.
    """
    order_id = uuid4()
    a_inserted, b_starts = threading.Event(), threading.Event()

    def publish_copy() -> None:
        try:
            a_inserted.wait(10)
            b_starts.set()
            publish(Placed(order_id=order_id), event_id="copy")
        finally:
            connection.close()

    copy = threading.Thread(target=publish_copy)
    copy.start()
    with transaction.atomic():
        publish(Placed(order_id=order_id), event_id="copy")
        a_inserted.set()
        b_starts.wait(10)
    copy.join(10)
    drain()

    assert InboxMessage.objects.filter(message_id="copy").count() == 1
    assert Plan.ran.count("placed") == 1


def test_events_of_one_instance_are_handled_in_the_order_of_their_commits_across_retries(
    time: Time,
) -> None:
    """Conformance 20: a message in backoff holds what is behind it, and only its own instance."""
    slow, other = uuid4(), uuid4()
    publish_many([Placed(order_id=slow), Placed(order_id=other)])
    drain()
    Plan.ran.clear()
    Plan.raise_in["paid"] = Broken()
    publish_many([Paid(order_id=slow), Shipped(order_id=slow)])
    drain()
    assert InboxMessage.objects.get(name="tests.Shipped").status == "pending"

    publish(Shipped(order_id=other))
    drain()
    assert Instance.objects.get(key=str(other)).status == "completed"
    Plan.raise_in.clear()
    time.elapse("2s")

    handled = Transition.objects.filter(instance__key=str(slow)).order_by("number")
    assert [step.name for step in handled][-2:] == ["tests.Paid", "tests.Shipped"]


def test_an_event_that_comes_during_the_backoff_waits_behind_it(time: Time) -> None:
    """Conformance 20."""
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    Plan.raise_in["paid"] = Broken()
    publish(Paid(order_id=order_id))
    drain()

    publish(Shipped(order_id=order_id))
    drain()
    assert Instance.objects.get().status == "started"
    Plan.raise_in.clear()
    time.elapse("2s")

    assert Instance.objects.get().status == "completed"


@pytest.mark.needs("row locks")
def test_events_of_different_instances_do_not_wait_for_each_other() -> None:
    """Conformance 20 and 42.

    Schedule: worker A handles an event of K1 and stays in the handler; a tick later worker B advances the
    same partition, finds K1 locked, and handles K2; then A goes on.
    """
    inside, go_on = threading.Event(), threading.Event()

    @event
    class Poked:
        key: str

    class Slow(ProcessManager):
        count: int = 0

        @handle(Poked, start=True, correlate="key")
        def poked(self, event: Poked) -> None:
            self.count += 1
            if event.key == "k1" and self.count == 2:
                inside.set()
                go_on.wait(20)

    name = Slow.definition.name
    partition = partition_of(name, "k1")
    same = next(
        key for key in (f"k{n}" for n in range(2, 999)) if partition_of(name, key) == partition
    )
    publish_many([Poked("k1"), Poked(same)])
    drain()
    publish(Poked("k1"))

    def work() -> None:
        try:
            advance(partition)
        finally:
            connection.close()

    a = threading.Thread(target=work)
    a.start()
    assert inside.wait(20)
    publish_many([Poked("k1"), Poked(same)])
    with clock.travel(timedelta(seconds=1)):
        advance(partition)
    meanwhile = {i.key: json.loads(i.state)["count"] for i in Instance.objects.all()}
    go_on.set()
    a.join(20)
    # A may have been in there for longer than one wake-up lasts, and have sent another.
    advance_all()

    assert meanwhile == {"k1": 1, same: 2}
    assert json.loads(Instance.objects.get(key="k1").state)["count"] == 3


def test_handlers_never_run_inside_the_code_that_publishes() -> None:
    """Conformance 22."""
    publish(Placed(order_id=uuid4()))

    assert Plan.ran == []
    assert InboxMessage.objects.get().status == "pending"


def test_publishing_in_a_transaction_that_rolls_back_publishes_nothing() -> None:
    """Conformance 22."""
    with pytest.raises(Broken), transaction.atomic():
        publish(Placed(order_id=uuid4()))
        raise Broken

    assert not InboxMessage.objects.exists()
    assert not Wakeup.objects.exists()


def test_a_batch_handles_many_instances_with_one_statement_for_each_table(
    django_assert_max_num_queries,
) -> None:
    partition = 3
    keys = [str(n) for n in range(2000) if partition_of("tests.Many", str(n)) == partition][:100]

    @event
    class Began:
        key: str

    @command
    class Do:
        key: str

    class Many(ProcessManager):
        class Meta:
            name = "tests.Many"

        @handle(Began, start=True, correlate="key")
        def began(self, event: Began) -> None:
            self.send(Do(event.key))

    publish_many([Began(key) for key in keys])

    # On PostgreSQL 13 with BEGIN, COMMIT and the mark; the ORM's bulk calls need a few more.
    with django_assert_max_num_queries(40):
        advance(partition)

    assert Transition.objects.count() == OutboxCommand.objects.count() == 100
    assert PARTITIONS == 16


def test_the_newest_events_get_a_quarter_of_a_batch_behind_a_backlog(settings: Any) -> None:
    """Without that, a fresh event would wait for everything that is overdue."""
    settings.PM_CELERY = {"BATCH_SIZE": 8}
    numbers = [n for n in range(4000) if partition_of("tests.Order", str(UUID(int=n))) == 3][:30]
    publish_many([Placed(order_id=UUID(int=n)) for n in numbers])

    claimed = claim(3, Passed()).rows

    ids = list(InboxMessage.objects.order_by("due_at", "id").values_list("pk", flat=True))
    assert sorted(row.id for row in claimed) == sorted(ids[:6] + ids[-2:])
