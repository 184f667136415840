"""Conformance 25 to 27 and 38 to 45: ends, retries, dead letters, and the operator's verbs."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import OperationalError, connection, transaction

from pm_celery import (
    Failure,
    ProcessManager,
    Reaction,
    Retry,
    clock,
    command,
    command_handler,
    event,
    failures,
    handle,
    on_failure,
    policy,
    publish,
    publish_many,
)
from pm_celery.engine import advance
from pm_celery.exceptions import Refused
from pm_celery.keys import partition_of
from pm_celery.models import Batch, DeadLetter, InboxMessage, Instance, OutboxCommand, Transition
from pm_celery.operations import dead_letters
from pm_celery.operations import instances as verbs
from pm_celery.retention import prune
from pm_celery.testing import given
from tests.driving import Time, drain
from tests.orders import Broken, Paid, Placed, Plan, Shipped
from tests.testapp.models import Effect

pytestmark = pytest.mark.django_db(transaction=True)


class Killed(BaseException):
    """Nothing in the package catches this: to it, it is a worker's death."""


def statuses(name: str | None = None) -> dict[str, str]:
    rows = InboxMessage.objects.exclude(kind="failure")
    rows = rows if name is None else rows.filter(name=name)
    return {f"{row.name.removeprefix('tests.')} {row.pk}": row.status for row in rows}


def failed_order(time: Time, *after: Any, error: BaseException | None = None) -> Instance:
    """An order whose payment failed for good, with events that came behind it."""
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    Plan.raise_in["paid"] = error or Broken("no money")
    publish(Paid(order_id=order_id))
    for make in after:
        publish(make(order_id=order_id))
    drain()
    for _ in range(4):
        time.elapse("2s")
    Plan.raise_in.clear()
    return Instance.objects.get(key=str(order_id))


# -- ending -----------------------------------------------------------------------------------------


def test_after_the_end_events_are_skipped_recorded_and_change_nothing() -> None:
    """Conformance 25."""
    order_id = uuid4()
    publish_many([Placed(order_id=order_id), Shipped(order_id=order_id)])
    drain()
    before = Instance.objects.values().get()

    publish(Paid(order_id=order_id))
    drain()

    assert Instance.objects.values().get() == before
    row = InboxMessage.objects.get(name="tests.Paid")
    assert (row.status, row.reason) == ("skipped", "the instance is completed")


def test_an_operator_cancels_an_instance_once() -> None:
    """Conformance 26."""
    publish(Placed(order_id=uuid4()))
    drain()
    instance = Instance.objects.get()

    verbs.cancel(instance.pk, by="ann")
    with pytest.raises(Refused, match="already cancelled"):
        verbs.cancel(instance.pk, by="bob")

    instance.refresh_from_db()
    last = instance.transitions.order_by("-number").first()
    assert instance.status == "cancelled"
    assert (last.kind, last.name, last.number) == ("cancelled", "ann", instance.number)


@pytest.mark.needs("row locks")
def test_an_event_that_is_being_handled_while_the_instance_is_cancelled_is_not_lost() -> None:
    """Schedule: A handles an event and stays in its handler; the operator cancels and waits for A's lock;
    A commits; the cancellation follows, as a transition of its own."""
    inside, go_on, cancelling = threading.Event(), threading.Event(), threading.Event()

    @event
    class Poked:
        key: str

    class Slow(ProcessManager):
        count: int = 0

        @handle(Poked, start=True, correlate="key")
        def poked(self, event: Poked) -> None:
            self.count += 1
            if self.count == 2:
                inside.set()
                go_on.wait(20)

    publish(Poked("k"))
    drain()
    publish(Poked("k"))

    def in_thread(do: Any) -> threading.Thread:
        def work() -> None:
            try:
                do()
            finally:
                connection.close()

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def cancel() -> None:
        cancelling.set()
        verbs.cancel(Instance.objects.get().pk)

    a = in_thread(lambda: advance(partition_of(Slow.definition.name, "k")))
    assert inside.wait(20)
    b = in_thread(cancel)
    assert cancelling.wait(20)
    go_on.set()
    a.join(20)
    b.join(20)

    steps = list(Transition.objects.order_by("number").values_list("number", "kind", "status"))
    assert steps == [
        (1, "event", "started"),
        (2, "event", "started"),
        (3, "cancelled", "cancelled"),
    ]
    assert json.loads(Instance.objects.get().state) == {"count": 2}


def test_ended_instances_are_kept_until_retention_removes_them(time: Time) -> None:
    """Conformance 27: in batches, and never one with an open dead letter."""
    keys = [uuid4() for _ in range(7)]
    publish_many([Placed(order_id=key) for key in keys])
    drain()
    publish_many([Shipped(order_id=key) for key in keys])
    drain()
    bad = uuid4()
    publish(Placed(order_id=bad))
    drain()
    Plan.raise_in["ship"] = KeyError("x")
    publish_many([Paid(order_id=bad)])
    drain()
    time.elapse("1m")
    publish(Shipped(order_id=bad))
    drain()
    running = uuid4()
    assert prune("30d") == 0

    with clock.travel(timedelta(days=31)):
        publish(Placed(order_id=running))
        drain()
        removed = prune("30d", batch=3)

    assert removed == 7
    assert set(Instance.objects.values_list("key", flat=True)) == {str(bad), str(running)}
    left = set(Transition.objects.values_list("instance_id", flat=True))
    assert left == set(Instance.objects.values_list("pk", flat=True))
    assert not InboxMessage.objects.filter(key__in=[str(key) for key in keys]).exists()


# -- retries ----------------------------------------------------------------------------------------


def test_three_retries_mean_four_runs_and_then_one_dead_letter(time: Time) -> None:
    """Conformance 38 and 40."""
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    Plan.ran.clear()
    Plan.raise_in["paid"] = Broken("no money")

    publish(Paid(order_id=order_id))
    drain()
    for run in (2, 3, 4):
        assert Plan.ran.count("paid") == run - 1
        time.elapse("1s")
    time.elapse("1h")

    assert Plan.ran.count("paid") == 4
    letter = DeadLetter.objects.get()
    assert (letter.attempts, letter.exception, letter.error) == (4, "Broken", "no money")
    assert "tests/orders.py" in letter.traceback


def test_a_terminal_exception_is_not_retried() -> None:
    """Conformance 38."""
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    Plan.ran.clear()
    Plan.raise_in["paid"] = KeyError("gone")

    publish(Paid(order_id=order_id))
    drain()

    assert Plan.ran.count("paid") == 1
    assert DeadLetter.objects.get().attempts == 1


def test_a_handlers_own_retry_overrides_that_of_its_process() -> None:
    """Conformance 38."""

    @event
    class A:
        key: str

    class Picky(ProcessManager):
        class Meta:
            retry = Retry("fixed", delay="1s", max_retries=5)

        @handle(A, start=True, correlate="key", retry=Retry("none"))
        def a(self, event: A) -> None: ...

    picky = given(Picky).failing("a").when(A("k")).elapse("1m")

    assert len(picky.errors) == 1


def test_a_deadlock_or_lost_connection_is_repeated_without_costing_a_retry() -> None:
    """Conformance 39."""
    times = 0

    @event
    class A:
        key: str

    class Unlucky(ProcessManager):
        attempt: int = 0

        class Meta:
            retry = Retry("none")

        @handle(A, start=True, correlate="key")
        def a(self, event: A) -> None:
            nonlocal times
            times += 1
            if times < 4:
                raise OperationalError("database is locked")
            self.attempt = self.message.attempt

    publish(A("k"))
    drain()

    assert json.loads(Instance.objects.get().state) == {"attempt": 1}
    assert not DeadLetter.objects.exists()


def test_an_attempt_that_was_counted_and_did_not_run_is_given_back_once() -> None:
    """Conformance 39 and 44: it is counted before the run."""
    publish(Placed(order_id=uuid4()))
    key = InboxMessage.objects.values_list("process", "key").get()

    counted = failures.count_attempt({key: {}}, ())
    assert counted is not None
    assert InboxMessage.objects.get().attempts == counted.attempts == 1
    failures.refund(counted)
    # Somebody counts again meanwhile, and this one is not theirs to give back.
    failures.refund(counted)

    assert InboxMessage.objects.get().attempts == 0


@pytest.mark.needs("row locks")
def test_a_real_deadlock_is_repeated_without_costing_a_retry() -> None:
    """Conformance 39.

    Schedule: the handler locks row 1, another transaction row 2; each then wants the other's row; the
    database ends the handler's transaction, for PostgreSQL ends the less patient one and MariaDB the one
    that has written less; the handler, repeated, succeeds.
    """
    runs: list[int] = []
    first, second = (Effect.objects.create(name=name) for name in ("first", "second"))
    has_second, handler_has_first = threading.Event(), threading.Event()

    @event
    class A:
        key: str

    class Locks(ProcessManager):
        attempt: int = 0

        class Meta:
            retry = Retry("none")

        @handle(A, start=True, correlate="key")
        def a(self, event: A) -> None:
            runs.append(self.message.attempt)
            Effect.objects.filter(pk=first.pk).update(name="handler")
            handler_has_first.set()
            has_second.wait(20)
            Effect.objects.filter(pk=second.pk).update(name="handler")
            self.attempt = self.message.attempt

    def other() -> None:
        try:
            if connection.vendor == "postgresql":
                connection.cursor().execute("SET deadlock_timeout TO '10s'")
            with transaction.atomic():
                Effect.objects.bulk_create(Effect(name="more") for _ in range(100))
                Effect.objects.filter(pk=second.pk).update(name="x")
                has_second.set()
                handler_has_first.wait(20)
                Effect.objects.filter(pk=first.pk).update(name="x")
        finally:
            connection.close()

    thread = threading.Thread(target=other)
    thread.start()
    publish(A("k"))
    drain()
    thread.join(30)

    assert runs == [1, 1]
    assert json.loads(Instance.objects.get().state) == {"attempt": 1}
    assert not DeadLetter.objects.exists()


# -- failing ----------------------------------------------------------------------------------------


def test_a_failed_handler_gives_one_letter_the_status_failed_and_then_the_failure_handler(
    time: Time,
) -> None:
    """Conformance 40."""
    instance = failed_order(time)

    kinds = list(instance.transitions.order_by("number").values_list("kind", "status"))
    assert kinds[-2:] == [("failed", "failed"), ("failure", "failed")]
    assert instance.status == "failed"
    assert "Broken: no money" in instance.state
    assert DeadLetter.objects.count() == 1
    assert Effect.objects.filter(name__startswith="cancelled").count() == 1


def test_a_failure_handler_that_fails_too_is_recorded_and_goes_no_further(time: Time) -> None:
    """Conformance 40."""
    Plan.raise_in["failed"] = Broken("nor this")
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    Plan.raise_in["paid"] = Broken("no money")
    publish(Paid(order_id=order_id))
    drain()

    for _ in range(6):
        time.elapse("1m")

    letter = DeadLetter.objects.get()
    assert "nor this" in letter.failure_handler_error
    assert Plan.ran.count("failed") == 1
    assert Instance.objects.get().status == "failed"


def test_the_very_first_message_of_an_instance_may_fail(time: Time) -> None:
    """Conformance 40: the instance is there to be seen, and is started again by a retry."""
    Plan.raise_in["placed"] = KeyError("x")
    order_id = uuid4()
    publish_many([Placed(order_id=order_id), Paid(order_id=order_id)])
    drain()
    assert Instance.objects.get().status == "failed"
    Plan.raise_in.clear()

    dead_letters.retry(DeadLetter.objects.get().pk)
    drain()

    instance = Instance.objects.get()
    assert instance.status == "started"
    assert json.loads(instance.state)["order_id"] == str(order_id)
    assert Effect.objects.filter(name=f"paid {order_id}").count() == 1


def test_a_failed_instance_parks_its_later_events_and_timers(time: Time) -> None:
    """Conformance 41."""
    failed_order(time, Shipped)
    time.elapse("2d")

    parked = InboxMessage.objects.filter(status="parked").order_by("id")
    assert [row.name for row in parked] == ["tests.Shipped", "reminder"]


def test_retrying_the_letter_runs_the_event_and_then_what_was_parked_in_order(time: Time) -> None:
    """Conformance 41."""
    failed_order(time, Shipped)
    Plan.ran.clear()

    dead_letters.retry(DeadLetter.objects.get().pk, by="ann")
    drain()

    assert [name for name in Plan.ran if name in ("paid", "shipped")] == ["paid", "shipped"]
    instance = Instance.objects.get()
    assert instance.status == "completed"
    assert instance.transitions.filter(kind="resumed", name="ann").count() == 1
    numbers = list(instance.transitions.order_by("number").values_list("number", flat=True))
    assert numbers == list(range(1, instance.number + 1))


def test_an_event_that_comes_after_the_retry_does_not_overtake_what_was_parked(time: Time) -> None:
    """Conformance 41."""
    instance = failed_order(time, Paid)
    Plan.ran.clear()

    dead_letters.retry(DeadLetter.objects.get().pk)
    publish(Shipped(order_id=instance.key))
    drain()

    assert [name for name in Plan.ran if name in ("paid", "shipped")] == ["paid", "paid", "shipped"]


def test_a_retried_message_that_fails_again_gets_a_new_letter(time: Time) -> None:
    failed_order(time, Shipped)
    Plan.raise_in["paid"] = Broken("still")

    dead_letters.retry(DeadLetter.objects.get().pk)
    drain()
    for _ in range(4):
        time.elapse("2s")

    assert sorted(DeadLetter.objects.values_list("status", flat=True)) == ["open", "retried"]
    assert InboxMessage.objects.get(name="tests.Shipped").status == "parked"


def test_discarding_the_letter_resumes_the_instance_without_the_event(time: Time) -> None:
    """Conformance 41."""
    failed_order(time, Shipped)

    dead_letters.discard(DeadLetter.objects.get().pk, resume=True, by="ann")
    drain()

    assert Instance.objects.get().status == "completed"
    assert set(statuses("tests.Paid").values()) == {"discarded"}


def test_a_letter_is_discarded_and_no_other(time: Time) -> None:
    first, second = failed_order(time), failed_order(time)
    given_up = DeadLetter.objects.get(instance=first)
    other = DeadLetter.objects.get(instance=second)

    dead_letters.discard(given_up.pk, by="ann")

    message = InboxMessage.objects.get(pk=given_up.message_id)
    assert (message.status, message.handled_at is None) == ("discarded", False)
    assert InboxMessage.objects.get(pk=other.message_id).status == "dead"
    assert DeadLetter.objects.open().get() == other


def test_discarding_the_letter_may_leave_the_instance_failed_for_good(time: Time) -> None:
    """Conformance 41."""
    instance = failed_order(time, Shipped)

    dead_letters.discard(DeadLetter.objects.get().pk, resume=False, by="ann")
    publish(Paid(order_id=instance.key))
    drain()

    instance.refresh_from_db()
    assert instance.status == "failed"
    assert instance.ended_at is not None
    assert set(statuses("tests.Shipped").values()) == {"skipped"}
    assert sorted(statuses("tests.Paid").values()) == ["discarded", "skipped"]


def test_one_failing_instance_never_delays_another() -> None:
    """Conformance 42: in one batch with a hundred others, only the culprit fails."""
    partition = 5
    keys = [str(n) for n in range(4000) if partition_of("tests.Crowd", str(n)) == partition][:100]

    @event
    class A:
        key: str

    class Crowd(ProcessManager):
        class Meta:
            name = "tests.Crowd"

        @handle(A, start=True, correlate="key", retry=Retry("none"))
        def a(self, event: A) -> None:
            if event.key == keys[50]:
                raise Broken

    publish_many([A(key) for key in keys])
    advance(partition)

    failed = Instance.objects.filter(status="failed")
    assert [instance.key for instance in failed] == [keys[50]]
    assert Instance.objects.filter(status="started").count() == 99


def test_messages_before_the_failing_one_are_handled_before_the_instance_fails() -> None:
    @event
    class A:
        key: str
        fails: bool = False

    class Counts(ProcessManager):
        count: int = 0

        @handle(A, start=True, correlate="key", retry=Retry("none"))
        def a(self, event: A) -> None:
            if event.fails:
                raise Broken
            self.count += 1

    publish_many([A("k"), A("k"), A("k", True), A("k")])
    drain()

    instance = Instance.objects.get()
    assert (instance.status, json.loads(instance.state)) == ("failed", {"count": 2})
    rows = InboxMessage.objects.filter(kind="event").order_by("id")
    assert [row.status for row in rows] == ["handled", "handled", "dead", "parked"]


def test_a_worker_killed_by_the_event_it_handles_does_not_loop_for_ever(time: Time) -> None:
    """Conformance 44: and the other instances of its batch are handled."""
    partition = 5
    keys = [str(n) for n in range(4000) if partition_of("tests.Deadly", str(n)) == partition][:10]
    ran: list[str] = []

    @event
    class A:
        key: str

    class Deadly(ProcessManager):
        class Meta:
            name = "tests.Deadly"

        @handle(A, start=True, correlate="key")
        def a(self, event: A) -> None:
            ran.append(event.key)
            if event.key == keys[4]:
                raise Killed

    publish_many([A(key) for key in keys])
    deaths = 0
    for _ in range(20):
        try:
            advance(partition)
        except Killed:
            deaths += 1
            # The mark of a batch that died is told from one that is about to begin by its age.
            time.enter_context(clock.travel(timedelta(seconds=1)))

    # Once in the batch, then alone, as often as a message may run.
    assert deaths == 1 + 4
    letter = DeadLetter.objects.get()
    assert (letter.exception, letter.key, letter.attempts) == ("WorkerLost", keys[4], 4)
    assert Instance.objects.filter(status="started").count() == 9
    assert Transition.objects.filter(kind="event").count() == 9
    assert not Batch.objects.exists()


def test_a_policys_event_is_retried_and_dead_lettered_like_any_other(time: Time) -> None:
    """Conformance 8 and 38."""
    ran: list[str] = []

    @event
    class A:
        key: str

    @policy(A, retry=Retry("fixed", delay="1s", max_retries=1))
    def reacts(event: A, reaction: Reaction) -> None:
        ran.append(event.key)
        if len(ran) < 3:
            raise Broken

    publish(A("k"))
    drain()
    time.elapse("2s")
    letter = DeadLetter.objects.get()
    assert (letter.place, letter.attempts) == ("policy", 2)
    dead_letters.retry(letter.pk)
    drain()

    assert InboxMessage.objects.get().status == "handled"
    assert not Instance.objects.exists()


def test_a_policys_event_that_this_release_does_not_know_waits(time: Time) -> None:
    ran: list[str] = []

    @event
    class A:
        key: str

    @policy(A)
    def reacts(event: A, reaction: Reaction) -> None:
        ran.append(event.key)

    publish(A("k"))
    InboxMessage.objects.update(version=99)
    drain()

    row = InboxMessage.objects.get()
    assert (row.status, row.reason, ran) == ("pending", "unknown to this release", [])
    InboxMessage.objects.update(version=1)
    time.elapse("1m")
    assert ran == ["k"]


def test_a_policy_may_decline_and_say_why() -> None:
    """Conformance 24, of policies."""

    @event
    class A:
        key: str

    @policy(A)
    def reacts(event: A, reaction: Reaction) -> object:
        return reaction.ignore("a test order")

    publish(A("k"))
    drain()

    row = InboxMessage.objects.get()
    assert (row.status, row.reason) == ("skipped", "a test order")


def test_actions_tell_the_truth_about_letters_that_are_settled(time: Time) -> None:
    """Conformance 45: never a success that did nothing."""
    failed_order(time)
    letter = DeadLetter.objects.get()
    dead_letters.discard(letter.pk, resume=True)

    for verb in (dead_letters.retry, dead_letters.discard):
        with pytest.raises(Refused, match="already settled"):
            verb(letter.pk)
    with pytest.raises(Refused, match="no such letter"):
        dead_letters.retry(letter.pk + 1)


def test_cancelling_a_failed_instance_settles_its_letter_and_what_it_parked(time: Time) -> None:
    instance = failed_order(time, Shipped)

    verbs.cancel(instance.pk, by="ann")

    letter = DeadLetter.objects.get()
    assert (letter.status, letter.settled_by) == ("discarded", "ann")
    message = InboxMessage.objects.get(pk=letter.message_id)
    assert (message.status, message.handled_at is None) == ("discarded", False)
    assert set(statuses("tests.Shipped").values()) == {"skipped"}
    with pytest.raises(Refused):
        dead_letters.retry(letter.pk)


def test_a_state_that_the_database_refuses_fails_its_own_instance_only() -> None:
    """What is decided and cannot be written is the failure of that message."""

    @event
    class A:
        key: str

    class Writes(ProcessManager):
        text: str = ""

        @handle(A, start=True, correlate="key", retry=Retry("none"))
        def a(self, event: A) -> None:
            self.text = "\x00" if event.key == "bad" else "fine"

    publish_many([A("bad"), A("good")])
    drain()

    assert Instance.objects.get(key="bad").status == "failed"
    assert Instance.objects.get(key="good").status == "started"


def test_the_failure_handler_gets_the_message_and_its_error(time: Time) -> None:
    seen: list[Failure] = []

    @event
    class A:
        key: str

    @command
    class Do:
        key: str

    @command_handler(Do)
    def do(command: Do) -> None: ...

    class Sad(ProcessManager):
        @handle(A, start=True, correlate="key", retry=Retry("none"))
        def a(self, event: A) -> None:
            raise Broken("why")

        @on_failure
        def failed(self, failure: Failure) -> None:
            seen.append(failure)
            self.send(Do(failure.message.key))

    publish(A("k"), event_id="e1")
    drain()

    assert seen == [Failure(A("k"), "tests.A", "e1", "Broken", "why", 1)]
    assert OutboxCommand.objects.get().status == "done"
