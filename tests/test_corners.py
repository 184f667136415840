"""What goes wrong when two rare things meet: each of these once lost, stuck, blamed or span."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db import OperationalError, connection, transaction

from pm_celery import (
    Failure,
    ProcessManager,
    Reaction,
    Retry,
    Wait,
    clock,
    command,
    command_handler,
    engine,
    event,
    execution,
    failures,
    handle,
    on_failure,
    on_timer,
    policy,
    publish,
    registry,
    ticks,
    transience,
)
from pm_celery.claiming import Passed, Selection, claim
from pm_celery.engine import advance
from pm_celery.keys import partition_of
from pm_celery.models import Batch, DeadLetter, InboxMessage, Instance, OutboxCommand, Timer
from pm_celery.operations import dead_letters
from pm_celery.operations import instances as verbs
from tests.driving import Time, advance_all, drain

pytestmark = pytest.mark.django_db(transaction=True)


class Killed(BaseException):
    """Nothing in the package catches this: to it, it is a worker's death."""


@event
class Started:
    key: str


@event
class Early:
    key: str


@event
class Happened:
    key: str


def partition(process: type[ProcessManager], key: str = "k") -> int:
    return partition_of(process.definition.name, key)


def nothing_pending() -> bool:
    return not InboxMessage.objects.filter(status="pending").exists()


def break_at_commit() -> None:
    """Write what the database refuses only when the transaction commits."""
    Permission.objects.create(name="x", codename="x", content_type_id=999_999)


def declare_patient(retry: Retry | None = None, start: Any = None) -> type[ProcessManager]:
    class Patient(ProcessManager):
        class Meta:
            pass

        @handle(Started, start=True, correlate="key", retry=retry or Retry("none"))
        def started(self, event: Started) -> None:
            if start:
                start()

        @handle(Early, correlate="key", unmatched=Wait("1h"))
        def early(self, event: Early) -> None: ...

        @handle(Happened, correlate="key")
        def happened(self, event: Happened) -> None: ...

    return Patient


def test_a_wake_up_that_fails_after_the_commit_drops_no_callback_behind_it() -> None:
    declare_patient()
    after: list[int] = []

    def refuse(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "wakeup" in sql:
            raise OperationalError("database is locked")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(refuse), transaction.atomic():
        publish(Started("k"))
        transaction.on_commit(lambda: after.append(1))

    assert after == [1]


def test_an_event_that_waits_and_was_in_a_batch_that_died_is_given_up_in_time(time: Time) -> None:
    declare_patient()
    publish(Early("k"))
    row = InboxMessage.objects.get()
    Batch.objects.create(message_ids=f"[{row.pk}]", began_at=clock.now())
    drain()

    time.elapse("2h")

    assert InboxMessage.objects.get().status == "unmatched"


def test_a_message_whose_attempts_are_spent_at_a_cancelled_instance_is_skipped() -> None:
    class Deadly(ProcessManager):
        @handle(Started, start=True, correlate="key")
        def started(self, event: Started) -> None: ...

        @handle(Happened, correlate="key", retry=Retry("none"))
        def happened(self, event: Happened) -> None:
            raise Killed

    publish(Started("k"))
    drain()
    publish(Happened("k"))
    for seconds in range(4):
        # A worker that died is counted on for an instant.
        with suppress(Killed), clock.travel(timedelta(seconds=seconds)):
            advance(partition(Deadly))
    verbs.cancel(Instance.objects.get().pk)
    publish(Started("k"))

    for _ in range(3):
        advance(partition(Deadly))

    assert nothing_pending()


def test_what_cannot_be_committed_before_what_fails_does_not_block_the_partition() -> None:
    class Odd(ProcessManager):
        @handle(Started, start=True, correlate="key", retry=Retry("none"))
        def started(self, event: Started) -> None:
            if event.key == "k":
                break_at_commit()

        @handle(Happened, correlate="key", retry=Retry("none"))
        def happened(self, event: Happened) -> None:
            raise ValueError

    other = next(f"z{n}" for n in range(999) if partition(Odd, f"z{n}") == partition(Odd))
    for message in (Started("k"), Happened("k"), Started(other)):
        publish(message)

    drain()

    assert nothing_pending()
    assert Instance.objects.get(key=other).status == "started"
    assert DeadLetter.objects.get().name == "tests.Started"


def test_what_cannot_be_committed_is_blamed_and_not_what_stands_before_it() -> None:
    class Odd(ProcessManager):
        @handle(Started, start=True, correlate="key", retry=Retry("none"))
        def started(self, event: Started) -> None: ...

        @handle(Happened, correlate="key", retry=Retry("none"))
        def happened(self, event: Happened) -> None:
            break_at_commit()

    publish(Started("k"))
    publish(Happened("k"))
    drain()

    assert DeadLetter.objects.get().name == "tests.Happened"


def test_an_old_release_that_meets_a_waiting_event_does_not_spin(
    time: Time, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.PM_CELERY = {"ADVANCE_SECONDS": 0.5}
    process = declare_patient()
    publish(Early("k"))
    drain()

    with clock.travel(timedelta(hours=2)), monkeypatch.context() as patch:
        patch.setattr(registry.listeners, "get", lambda name: None)
        had_more_to_do = advance(partition(process))

    assert not had_more_to_do


def test_an_event_whose_patience_ends_behind_a_start_in_backoff_does_not_spin(
    time: Time, settings: Any
) -> None:
    """The start event committed later than the other, with a lower id."""
    settings.PM_CELERY = {"ADVANCE_SECONDS": 0.5}

    def fail() -> None:
        raise ValueError

    slow = Retry("fixed", delay="5h", max_delay="9h", jitter=False)
    process = declare_patient(slow, fail)
    publish(Started("k"))
    start = InboxMessage.objects.get()
    InboxMessage.objects.update(status="skipped")  # as if its transaction were still open
    publish(Early("k"))
    advance(partition(process))
    InboxMessage.objects.filter(pk=start.pk).update(status="pending")
    advance(partition(process))

    with clock.travel(timedelta(hours=2)):
        had_more_to_do = advance(partition(process))

    assert not had_more_to_do


def declare_alarm(moment: Any) -> tuple[type[ProcessManager], list[Any]]:
    rang: list[Any] = []

    class Alarm(ProcessManager):
        @handle(Started, start=True, correlate="key")
        def started(self, event: Started) -> None:
            self.set_timer("bell", at=moment, payload=1)

        @handle(Early, correlate="key")
        def later(self, event: Early) -> None:
            self.set_timer("bell", "24h", payload=2)

        @handle(Happened, correlate="key")
        def back(self, event: Happened) -> None:
            self.set_timer("bell", at=moment, payload=3)

        @on_timer("bell")
        def bell(self, payload: int) -> None:
            rang.append(payload)

    return Alarm, rang


def test_a_timer_that_is_moved_away_and_back_again_fires() -> None:
    process, rang = declare_alarm(clock.now() - timedelta(seconds=1))
    publish(Started("k"))
    advance(partition(process))
    publish(Early("k"))
    drain()
    assert rang == []

    publish(Happened("k"))
    drain()

    assert rang == [3]


def test_a_timer_that_is_set_again_to_its_moment_after_it_fired_has_its_new_payload() -> None:
    process, rang = declare_alarm(clock.now() - timedelta(seconds=1))
    publish(Started("k"))
    advance(partition(process))

    publish(Happened("k"))
    drain()

    assert rang == [3]
    assert not DeadLetter.objects.exists()
    assert not Timer.objects.exists()


def test_the_failure_handler_does_not_hear_of_a_letter_that_was_settled_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []

    class Sad(ProcessManager):
        @handle(Started, start=True, correlate="key")
        def started(self, event: Started) -> None: ...

        @handle(Happened, correlate="key", retry=Retry("none"))
        def happened(self, event: Happened) -> None:
            raise ValueError

        @on_failure
        def failed(self, failure: Failure) -> None:
            told.append(failure.id)

    real = failures._die

    def die_and_discard(*args: Any) -> None:
        """An operator is faster than the engine's next batch."""
        real(*args)
        letter = DeadLetter.objects.open().filter(message_ref="e1").first()
        if letter:
            dead_letters.discard(letter.pk)

    monkeypatch.setattr(failures, "_die", die_and_discard)
    publish(Started("k"))
    drain()
    publish(Happened("k"), event_id="e1")
    publish(Happened("k"), event_id="e2")
    drain()

    assert told == ["e2"]


def test_a_timer_whose_handler_fails_is_gone_when_its_letter_is_discarded(time: Time) -> None:
    class Alarm(ProcessManager):
        @handle(Started, start=True, correlate="key")
        def started(self, event: Started) -> None:
            self.set_timer("bell", "1s")

        @on_timer("bell")
        def bell(self) -> None:
            raise KeyError

        class Meta:
            retry = Retry("none")

    publish(Started("k"))
    drain()
    time.elapse("2s")

    dead_letters.discard(DeadLetter.objects.get().pk)

    assert not Timer.objects.exists()


def test_a_wake_up_makes_progress_however_little_time_it_has(settings: Any) -> None:
    settings.PM_CELERY = {"ADVANCE_SECONDS": 1e-7}
    process = declare_patient()
    publish(Started("k"))

    advance(partition(process))

    assert Instance.objects.get().number == 1


def test_a_policys_retry_keeps_its_wait_though_another_worker_has_claimed_it_before() -> None:
    """Schedule: B claims the event; A runs it, it fails and is set back for an hour; B goes on."""
    ran: list[int] = []

    @policy(Started, retry=Retry("fixed", delay="1h", jitter=False))
    def reacts(event: Started, reaction: Reaction) -> None:
        ran.append(1)
        raise ValueError

    publish(Started("k"))
    row = InboxMessage.objects.get()
    seen_by_b, passed = Selection(), Passed()
    for found in claim(row.partition, passed).rows:
        seen_by_b.add(found)

    advance(row.partition)
    engine._run(seen_by_b, passed)

    assert ran == [1]


def test_a_command_whose_database_error_never_passes_becomes_a_dead_letter(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another database of its handler is gone for good, say."""
    monkeypatch.setattr(transience.time, "sleep", lambda seconds: None)

    @command
    class Ask:
        key: str

    @command_handler(Ask, retry=Retry("fixed", delay="1s", max_retries=2))
    def ask(command: Ask) -> None:
        raise OperationalError("database is locked")

    class Asks(ProcessManager):
        @handle(Started, start=True, correlate="key")
        def started(self, event: Started) -> None:
            self.send(Ask(event.key))

    publish(Started("k"))
    advance_all()
    command_id = str(OutboxCommand.objects.get().command_id)

    for _ in range(5):
        with suppress(OperationalError):
            execution.run(command_id)
        time.enter_context(clock.travel(timedelta(hours=2)))
        ticks.tick()

    assert DeadLetter.objects.get().attempts == 3


def test_a_command_whose_writes_are_refused_at_the_commit_fails_by_that_error() -> None:
    @command
    class Write:
        key: str

    @command_handler(Write, retry=Retry("none"))
    def write(command: Write) -> None:
        break_at_commit()

    class Asks(ProcessManager):
        @handle(Started, start=True, correlate="key")
        def started(self, event: Started) -> None:
            self.send(Write(event.key))

    publish(Started("k"))
    drain()

    letter = DeadLetter.objects.get()
    assert (letter.exception, letter.attempts) == ("IntegrityError", 1)
    assert OutboxCommand.objects.get().status == "dead"
