"""Conformance 33 to 37: commands are dispatched at least once, and take effect once."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import shared_task
from celery.signals import before_task_publish
from django.db import OperationalError, connection

from pm_celery import (
    Message,
    ProcessManager,
    Retry,
    clock,
    command,
    command_handler,
    event,
    execution,
    handle,
    outbox,
    publish,
    signals,
    ticks,
)
from pm_celery.models import (
    DeadLetter,
    InboxMessage,
    Instance,
    Intervention,
    OutboxCommand,
    Transition,
)
from pm_celery.operations import dead_letters
from tests.driving import Time, advance_all, drain, run_commands
from tests.orders import Broken, Paid, Placed, Plan
from tests.testapp.models import Effect

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def sent() -> Any:
    """The commands' tasks that Celery was asked to publish: (task name, task id, options)."""
    found: list[tuple[str, str, dict[str, Any]]] = []

    def watch(
        sender: str, headers: dict[str, Any], properties: Any, routing_key: str, **_: Any
    ) -> None:
        if not sender.startswith("pm_celery.") or "command" in sender:
            found.append((sender, headers["id"], {**properties, "routing_key": routing_key}))

    before_task_publish.connect(watch)
    yield found
    before_task_publish.disconnect(watch)


@event
class Asked:
    key: str


def test_a_command_is_dispatched_as_one_task_after_the_commit(sent: list[Any]) -> None:
    """Conformance 33."""
    publish(Placed(order_id=uuid4()))

    advance_all()

    stored = OutboxCommand.objects.get()
    assert [(name, task_id) for name, task_id, _ in sent] == [
        ("pm_celery.command.tests.Reserve", str(stored.command_id))
    ]
    assert stored.status == "dispatched"


def test_nothing_is_dispatched_when_the_handler_is_rolled_back(sent: list[Any]) -> None:
    """Conformance 33."""
    Plan.raise_in["placed"] = Broken()

    publish(Placed(order_id=uuid4()))
    advance_all()

    assert sent == []


def test_options_of_a_command_reach_celery(sent: list[Any]) -> None:
    @command
    class Do:
        key: str

    @command_handler(Do, queue="slow", priority=3)
    def do(command: Do) -> None: ...

    class Asks(ProcessManager):
        @handle(Asked, start=True, correlate="key")
        def asked(self, event: Asked) -> None:
            self.send(Do(event.key))
            self.send(Do(event.key), queue="fast", priority=7)

    publish(Asked("k"))
    advance_all()

    options = [(o["routing_key"], o["priority"]) for _, _, o in sent]
    assert options == [("slow", 3), ("fast", 7)]


def test_an_ordinary_celery_signature_can_be_sent(sent: list[Any]) -> None:
    """Conformance 33."""

    @shared_task(name="tests.plain_task")
    def plain_task(a: int, b: str) -> None: ...

    class Asks(ProcessManager):
        @handle(Asked, start=True, correlate="key")
        def asked(self, event: Asked) -> None:
            self.send(plain_task.s(1, b="two"))

    publish(Asked("k"))
    advance_all()

    stored = OutboxCommand.objects.get()
    assert [(name, task_id) for name, task_id, _ in sent] == [
        ("tests.plain_task", str(stored.command_id))
    ]
    assert stored.kind == "signature"


def test_a_command_whose_dispatch_was_lost_is_dispatched_again(sent: list[Any]) -> None:
    """Conformance 34: killed after the commit, broker down or emptied: nobody ran it."""
    publish(Placed(order_id=uuid4()))
    advance_all()
    ticks.tick()
    assert len(sent) == 1

    with clock.travel(timedelta(seconds=21)):
        ticks.tick()
        ticks.tick()

    assert len(sent) == 2
    assert sent[0][1] == sent[1][1]


def test_a_worker_that_is_killed_between_commit_and_dispatch_loses_no_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Conformance 34."""

    class Killed(BaseException):
        pass

    def die(commands: Any) -> None:
        raise Killed

    publish(Placed(order_id=uuid4()))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(outbox, "dispatch", die)
        advance_all()

    with clock.travel(timedelta(seconds=21)):
        drain()

    assert Effect.objects.filter(name__startswith="reserved").count() == 1


def test_a_command_that_is_delivered_twice_takes_effect_once() -> None:
    """Conformance 35."""
    publish(Placed(order_id=uuid4()))
    advance_all()
    command_id = str(OutboxCommand.objects.get().command_id)

    assert execution.run(command_id) == "done"
    assert execution.run(command_id) != "done"

    assert Effect.objects.count() == 1
    assert InboxMessage.objects.filter(name="tests.Reserved").count() == 1


@pytest.mark.needs("row locks")
def test_two_workers_that_get_one_command_at_once_run_it_once() -> None:
    """Conformance 35.

    Schedule: A takes the command and stays in its handler; B gets the same message and returns; A ends.
    """
    inside, go_on = threading.Event(), threading.Event()

    @command
    class Do:
        key: str

    @command_handler(Do)
    def do(command: Do) -> None:
        Effect.objects.create(name="done")
        inside.set()
        go_on.wait(20)

    class Asks(ProcessManager):
        @handle(Asked, start=True, correlate="key")
        def asked(self, event: Asked) -> None:
            self.send(Do(event.key))

    publish(Asked("k"))
    advance_all()
    command_id = str(OutboxCommand.objects.get().command_id)

    def work() -> None:
        try:
            execution.run(command_id)
        finally:
            connection.close()

    a = threading.Thread(target=work)
    a.start()
    assert inside.wait(20)
    outcome = execution.run(command_id)
    go_on.set()
    a.join(20)

    assert outcome == "settled or running elsewhere"
    assert Effect.objects.count() == 1


def test_effects_published_events_and_the_mark_of_a_command_commit_together() -> None:
    """Conformance 35: what fails after them takes them back."""

    @command
    class Do:
        key: str

    @command_handler(Do, retry=Retry("fixed", max_retries=3))
    def do(command: Do) -> None:
        Effect.objects.create(name="done")
        publish(Placed(order_id=uuid4()))
        raise Broken

    class Asks(ProcessManager):
        @handle(Asked, start=True, correlate="key")
        def asked(self, event: Asked) -> None:
            self.send(Do(event.key))

    publish(Asked("k"))
    advance_all()
    run_commands()

    stored = OutboxCommand.objects.get()
    assert (stored.status, stored.attempts) == ("pending", 1)
    assert not Effect.objects.exists()
    assert not InboxMessage.objects.filter(name="tests.Placed").exists()


def test_a_commands_id_is_stable_across_redeliveries(time: Time) -> None:
    """Conformance 36."""
    seen: list[Message] = []

    @command
    class Do:
        key: str

    @command_handler(Do, retry=Retry("fixed", delay="1s", max_retries=2))
    def do(command: Do, message: Message) -> None:
        seen.append(message)
        if len(seen) < 3:
            raise Broken

    class Asks(ProcessManager):
        sent: str = ""

        @handle(Asked, start=True, correlate="key")
        def asked(self, event: Asked) -> None:
            self.sent = self.send(Do(event.key))

    publish(Asked("k"))
    drain()
    time.elapse("5s")
    time.elapse("5s")

    stored = OutboxCommand.objects.get()
    assert {UUID(message.id) for message in seen} == {stored.command_id}
    assert [message.attempt for message in seen] == [1, 2, 3]
    assert stored.status == "done"


def test_a_command_that_fails_for_good_is_a_dead_letter_and_its_instance_hears_of_it(
    time: Time,
) -> None:
    """Conformance 37: by @on_command_failed."""
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    Plan.raise_in["ship"] = Broken("no lorry")

    publish(Paid(order_id=order_id))
    drain()
    time.elapse("5s")

    letter = DeadLetter.objects.get()
    instance = Instance.objects.get()
    assert (letter.place, letter.name, letter.attempts) == ("command", "tests.Ship", 2)
    assert "Broken: no lorry" in instance.state
    assert instance.status == "started"
    assert Plan.ran.count("not_shipped") == 1
    assert Transition.objects.filter(kind="command_failed", handler="not_shipped").count() == 1


def test_without_a_handler_of_its_own_a_failed_command_reaches_the_failure_handler(
    time: Time,
) -> None:
    """Conformance 37."""
    Plan.raise_in["reserve"] = KeyError("no shelf")
    publish(Placed(order_id=uuid4()))

    drain()
    for _ in range(6):
        time.elapse("1m")

    assert "KeyError: 'no shelf'" in Instance.objects.get().state
    assert Plan.ran.count("failed") == 1
    assert DeadLetter.objects.get().name == "tests.Reserve"


def test_a_failed_command_of_the_failure_handler_does_not_call_it_again(time: Time) -> None:
    """Conformance 40: it is recorded, and goes no further."""
    Plan.raise_in["reserve"] = KeyError("no shelf")
    Plan.raise_in["cancel"] = KeyError("nor this")
    publish(Placed(order_id=uuid4()))

    drain()
    for _ in range(6):
        time.elapse("1m")

    assert Plan.ran.count("failed") == 1
    letters = DeadLetter.objects.order_by("name").values_list("name", flat=True)
    assert list(letters) == ["tests.Cancel", "tests.Reserve"]
    assert Instance.objects.get().status == "started"


def test_a_failure_handler_that_fails_on_a_failed_command_has_a_letter_and_is_told_of_on_it(
    time: Time,
) -> None:
    """Conformance 40: what it fails on is a message as any other, whose failure it is asked to handle."""
    Plan.raise_in = {"reserve": KeyError("no shelf"), "failed": Broken("nobody to tell")}
    told: list[str] = []

    def note(error_text: str, **_: Any) -> None:
        told.append(error_text)

    signals.died.connect(note)
    try:
        publish(Placed(order_id=uuid4()))
        for _ in range(12):
            time.elapse("30s")
    finally:
        signals.died.disconnect(note)

    of_command, of_notice = DeadLetter.objects.order_by("id")
    assert (of_command.place, of_notice.place) == ("command", "handler")
    assert of_command.failure_handler_error == ""
    assert "nobody to tell" in of_notice.failure_handler_error
    broken = "Broken: nobody to tell"
    assert told == ["KeyError: 'no shelf'", broken, broken]


def test_a_dead_command_that_is_given_up_is_settled_and_runs_no_more(time: Time) -> None:
    Plan.raise_in["reserve"] = KeyError("no shelf")
    publish(Placed(order_id=uuid4()))
    drain()
    for _ in range(6):
        time.elapse("1m")
    Plan.raise_in.clear()
    letter, runs = DeadLetter.objects.get(), Plan.ran.count("reserve")

    dead_letters.discard(letter.pk, by="ann")
    time.elapse("1h")

    command = OutboxCommand.objects.get(pk=letter.command_id)
    assert (command.status, command.settled_at is None) == ("discarded", False)
    assert Plan.ran.count("reserve") == runs


def test_a_dead_command_that_is_retried_runs_to_its_end(time: Time) -> None:
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    Plan.raise_in["ship"] = Broken("no lorry")
    publish(Paid(order_id=order_id))
    drain()
    time.elapse("5s")
    Plan.raise_in.clear()

    dead_letters.retry(DeadLetter.objects.get().pk, by="ann" * 100)
    drain()

    assert OutboxCommand.objects.get(name="tests.Ship").status == "done"
    assert Effect.objects.filter(name__startswith="shipped").count() == 1
    letter = DeadLetter.objects.get()
    assert (letter.status, letter.settled_by) == ("retried", ("ann" * 100)[:255])
    written = Intervention.objects.get()
    assert (written.verb, written.letter_id) == ("retry dead letter", letter.pk)


def test_a_command_that_expires_before_it_runs_is_a_dead_letter() -> None:
    @command
    class Do:
        key: str

    @command_handler(Do, expires="10s")
    def do(command: Do) -> None:
        Effect.objects.create(name="done")

    class Asks(ProcessManager):
        @handle(Asked, start=True, correlate="key")
        def asked(self, event: Asked) -> None:
            self.send(Do(event.key))

    publish(Asked("k"))
    advance_all()

    with clock.travel(timedelta(seconds=11)):
        run_commands()

    assert DeadLetter.objects.get().exception == "CommandExpired"
    assert not Effect.objects.exists()


def test_a_command_that_kills_its_worker_does_not_loop_for_ever(time: Time) -> None:
    """Conformance 44, for commands: runs that never came back are counted before they begin."""

    class Killed(BaseException):
        """Nothing in the package catches this: to it, it is a SIGKILL."""

    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    publish(Paid(order_id=order_id))
    advance_all()
    Plan.raise_in["ship"] = Killed()
    command_id = str(OutboxCommand.objects.get(name="tests.Ship").command_id)
    Plan.ran.clear()

    for _ in range(12):
        with suppress(Killed):
            execution.run(command_id)
        time.enter_context(clock.travel(timedelta(hours=2)))
        ticks.tick()

    assert Plan.ran.count("ship") <= 1 + 3
    assert DeadLetter.objects.get().exception == "WorkerLost"


def test_a_dead_broker_neither_fails_the_publisher_nor_loses_anything(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    """Design, guarantees: its failure is only a later tick."""
    from kombu import Producer

    def refuse(self: Producer, *args: Any, **kwargs: Any) -> None:
        raise ConnectionRefusedError("nobody listens")

    order_id = uuid4()
    with monkeypatch.context() as patch:
        patch.setattr(Producer, "publish", refuse)
        publish(Placed(order_id=order_id))
        advance_all()

    with clock.travel(timedelta(seconds=25)):
        drain()

    assert Effect.objects.filter(name=f"reserved {order_id}").count() == 1


def test_a_lock_lost_in_a_counted_run_costs_no_attempt() -> None:
    """Conformance 39, of a command that was dispatched before: it is counted before it runs."""
    runs = 0

    @event
    class A:
        key: str

    @command
    class TryAgain:
        key: str

    @command_handler(TryAgain)
    def work(command: TryAgain) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise OperationalError("database is locked")

    class Unlucky(ProcessManager):
        @handle(A, start=True, correlate="key")
        def a(self, event: A) -> None:
            self.send(TryAgain(event.key))

    publish(A("k"))
    advance_all()
    OutboxCommand.objects.update(dispatches=2)

    run_commands()

    done = OutboxCommand.objects.get()
    assert (done.status, done.attempts, runs) == ("done", 1, 2)


@pytest.mark.postgresql
def test_a_connection_lost_after_a_counted_run_costs_no_attempt() -> None:
    """Conformance 39. A command that was dispatched before is counted before it runs; the server cuts its
    connection when it is about to be marked done. The run is repeated, and was the first one.

    Without the refund (``_run_once``), four such accidents within its eight repetitions made a dead letter of
    a command whose worker had never died.
    """
    publish(Placed(order_id=uuid4()))
    advance_all()
    OutboxCommand.objects.update(dispatches=2)
    cut = iter([True])

    def cut_once(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "'done'" in sql and next(cut, False):
            context["connection"].connection.close()
        return execute(sql, params, many, context)

    with connection.execute_wrapper(cut_once):
        run_commands()

    done = OutboxCommand.objects.get(status="done")
    assert done.attempts == 1
    assert Effect.objects.filter(name__startswith="reserved").count() == 1
