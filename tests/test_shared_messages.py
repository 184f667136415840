"""Commands that share a Celery message are each run, retried and dead-lettered by themselves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from celery.signals import before_task_publish
from django.db import IntegrityError, OperationalError, connection

from pm_celery import (
    ProcessManager,
    Retry,
    clock,
    command,
    command_handler,
    event,
    execution,
    handle,
    publish_many,
    ticks,
)
from pm_celery.models import DeadLetter, OutboxCommand
from tests.driving import Time, advance_all
from tests.testapp.models import Effect

pytestmark = pytest.mark.django_db(transaction=True)


@event
class Wanted:
    key: str
    commands: int


@command
class Work:
    key: str
    number: int


class Works(ProcessManager):
    @handle(Wanted, start=True, correlate="key")
    def wanted(self, event: Wanted) -> None:
        for number in range(event.commands):
            self.send(Work(event.key, number))


@pytest.fixture(autouse=True)
def several_to_a_message(settings: Any) -> None:
    settings.PM_CELERY = {"COMMANDS_PER_MESSAGE": 5}


@pytest.fixture
def messages() -> Any:
    """What Celery was asked to publish for the commands of this module: the ids of each message."""
    found: list[list[str]] = []

    def watch(sender: str, body: Any, **_: Any) -> None:
        if sender == "pm_celery.command.tests.Work":
            (ids,) = body[0]
            found.append(ids if isinstance(ids, list) else [ids])

    before_task_publish.connect(watch)
    yield found
    before_task_publish.disconnect(watch)


def declare(works: Callable[[Work], object], **options: Any) -> None:
    options.setdefault("retry", Retry("fixed", delay="1s", max_retries=2, jitter=False))

    @command_handler(Work, **options)
    def work(command: Work) -> None:
        Effect.objects.create(name=f"work {command.number}")
        works(command)


def issue(count: int) -> list[str]:
    publish_many([Wanted("k", count)])
    advance_all()
    return [
        str(id_)
        for id_ in OutboxCommand.objects.order_by("id").values_list("command_id", flat=True)
    ]


def statuses() -> list[str]:
    return list(OutboxCommand.objects.order_by("id").values_list("status", flat=True))


def effects() -> list[str]:
    return sorted(Effect.objects.values_list("name", flat=True))


def test_commands_of_one_handler_share_messages_up_to_the_setting(
    messages: list[list[str]],
) -> None:
    declare(lambda command: None)

    ids = issue(12)

    assert messages == [ids[:5], ids[5:10], ids[10:]]


def test_a_command_with_a_limit_of_its_own_keeps_a_message_of_its_own(
    messages: list[list[str]],
) -> None:
    """The limit would be that of all in the message."""
    declare(lambda command: None, time_limit=30)

    ids = issue(3)

    assert messages == [[id_] for id_ in ids]


def test_commands_that_share_a_message_are_all_run_and_marked() -> None:
    declare(lambda command: None)
    ids = issue(4)

    said = execution.run_each(ids)
    execution.run_each(ids)

    # Where they could not share a transaction, each would run in one of its own, and be done as well.
    assert said == "4 commands, 0 of them one by one"
    assert statuses() == ["done"] * 4
    assert set(OutboxCommand.objects.values_list("attempts", flat=True)) == {1}
    assert effects() == ["work 0", "work 1", "work 2", "work 3"]


def test_one_that_fails_takes_no_other_with_it(time: Time) -> None:
    """Without the savepoint around each, the first three would be undone with it."""
    failing = [3]

    def works(command: Work) -> None:
        if command.number in failing:
            raise ValueError("not now")

    declare(works)
    ids = issue(5)

    execution.run_each(ids)

    assert statuses() == ["done", "done", "done", "pending", "done"]
    assert effects() == ["work 0", "work 1", "work 2", "work 4"]

    failing.clear()
    time.elapse("2s")
    assert statuses() == ["done"] * 5
    assert effects() == ["work 0", "work 1", "work 2", "work 3", "work 4"]


def test_one_that_fails_for_good_gets_its_own_letter_and_the_task_fails() -> None:
    def works(command: Work) -> None:
        if command.number == 1:
            raise ValueError("never")

    declare(works, retry=Retry("none"))
    ids = issue(3)

    with pytest.raises(ValueError, match="never"):
        execution.run_each(ids)

    assert statuses() == ["done", "dead", "done"]
    assert DeadLetter.objects.get().message_ref == ids[1]


def test_those_that_were_dispatched_before_run_one_by_one_and_are_counted(time: Time) -> None:
    """A worker died under them: one of them may be why."""
    seen: list[int] = []

    def works(command: Work) -> None:
        stored = OutboxCommand.objects.get(command_id=ids[command.number])
        seen.append(stored.attempts)

    declare(works)
    ids = issue(3)
    time.enter_context(clock.travel(timedelta(seconds=30)))
    ticks.tick()

    execution.run_each(ids)

    assert seen == [1, 1, 1]
    assert statuses() == ["done"] * 3


def test_a_commit_that_is_refused_is_found_out_by_running_them_one_by_one() -> None:
    def works(command: Work) -> None:
        if command.number == 1:
            refuse.add(UUID(ids[1]))

    refuse: set[UUID] = set()
    declare(works, retry=Retry("none"))
    ids = issue(3)

    def commit_fails(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if refuse and "UPDATE" in sql and "done" in f"{sql} {params}":
            refuse.clear()
            raise IntegrityError("a constraint that is checked late")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(commit_fails), pytest.raises(IntegrityError):
        execution.run_each(ids)

    assert statuses() == ["done", "dead", "done"]
    assert effects() == ["work 0", "work 2"]


def test_a_deadlock_is_repeated_alone_and_costs_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pm_celery.transience.time.sleep", lambda seconds: None)
    lost = [1]

    def works(command: Work) -> None:
        if command.number == 2 and lost:
            lost.pop()
            raise OperationalError("database is locked")

    declare(works)
    ids = issue(3)

    execution.run_each(ids)

    assert statuses() == ["done"] * 3
    assert set(OutboxCommand.objects.values_list("attempts", flat=True)) == {1}


def test_a_long_row_of_slow_commands_is_committed_bit_by_bit(settings: Any) -> None:
    settings.PM_CELERY = {"COMMANDS_PER_MESSAGE": 5, "BATCH_SECONDS": 1e-6}
    in_one = []

    def works(command: Work) -> None:
        in_one.append(OutboxCommand.objects.filter(status="done").count())

    declare(works)
    ids = issue(3)

    execution.run_each(ids)

    assert in_one == [0, 1, 2]


def test_an_id_that_is_no_commands_does_nothing() -> None:
    declare(lambda command: None)
    issue(1)

    execution.run_each(["7", "x" * 1000, str(UUID(int=1))])

    assert statuses() == ["dispatched"]
