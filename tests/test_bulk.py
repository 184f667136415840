"""Bulk actions: a verb for all letters that a filter finds, each letter once, and the counts true.

Breaks that turned these red: no savepoint around the verb; a cursor one too far; ``last`` left out; the
tick's step left out; the remainder not counted as already settled.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import current_app
from django.db import OperationalError

from pm_celery import bulks, clock, publish, tasks, ticks
from pm_celery.exceptions import Refused
from pm_celery.models import BulkAction, DeadLetter, Instance, Intervention
from pm_celery.operations import bulk, dead_letters
from tests.driving import Time, Worker, advance_all, drain
from tests.orders import Broken, Placed, Plan

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The messages to workers, which are kept here: tests work when they please."""
    found: list[int] = []
    monkeypatch.setattr(bulks, "send", found.append)
    return found


def failed_orders(number: int) -> list[UUID]:
    """Orders whose first event has died."""
    Plan.raise_in = {"placed": KeyError("no stock")}
    ids = [uuid4() for _ in range(number)]
    for order_id in ids:
        publish(Placed(order_id=order_id))
    # Not drain(), which also works on bulk actions.
    advance_all()
    Plan.raise_in = {}
    assert DeadLetter.objects.filter(status="open").count() >= number
    return ids


def letters() -> list[int]:
    return list(DeadLetter.objects.order_by("pk").values_list("pk", flat=True))


def told(found: BulkAction) -> str:
    return str(bulk.progress(found.pk))


class Killed(BaseException):
    """The worker is killed."""


def dies_at(monkeypatch: pytest.MonkeyPatch, calls: int, *, after: bool) -> None:
    """Let the worker be killed in its n-th letter: before the verb acts, or when it has acted."""
    original, seen = dead_letters.retry, []

    def retry(letter_id: int, **named: Any) -> None:
        seen.append(letter_id)
        if len(seen) == calls and not after:
            raise Killed
        original(letter_id, **named)
        if len(seen) == calls:
            raise Killed

    monkeypatch.setattr(dead_letters, "retry", retry)


def test_all_that_match_are_retried_and_the_counts_are_true(sent: list[int]) -> None:
    failed_orders(5)
    group = DeadLetter.objects.values_list("group", flat=True).distinct().get()
    asked = bulk.start("retry", {"group": group}, by="ann", reason="stock is back")
    assert sent == [asked.pk]
    assert told(asked) == "0 retried, 5 to come"

    dead_letters.discard(letters()[3], by="bob")
    later = failed_orders(1)
    bulk.work(asked.pk)

    assert told(asked) == "4 retried, 1 already settled"
    retried = DeadLetter.objects.filter(bulk=asked)
    assert {(row.status, row.settled_by) for row in retried} == {("retried", "ann")}
    left_alone = DeadLetter.objects.get(status="open")
    assert left_alone.key == str(later[0])
    assert (
        Intervention.objects.filter(verb="retry dead letter", reason="stock is back").count() == 4
    )
    assert Intervention.objects.get(verb="bulk retry").by == "ann"


def test_those_that_die_once_more_are_told(time: Time) -> None:
    failed_orders(3)
    asked = bulk.start("retry", {})
    Plan.raise_in = {"placed": KeyError("no stock")}
    bulk.work(asked.pk)
    drain()

    assert told(asked) == "3 retried, 3 failed again"
    # From the other side, as for an action of very many letters.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "_MOST_LOOKED_UP", 2)
        assert told(asked) == "3 retried, at least 2 failed again"


def test_a_letter_that_always_loses_its_race_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed_orders(3)
    first, second, third = letters()
    original = dead_letters.retry
    tried: list[int] = []

    def retry(letter_id: int, **named: Any) -> None:
        tried.append(letter_id)
        if letter_id == second:
            raise OperationalError("database is locked")
        if letter_id == first and tried.count(letter_id) == 1:
            raise OperationalError("database is locked")
        original(letter_id, **named)

    monkeypatch.setattr(dead_letters, "retry", retry)
    monkeypatch.setattr("pm_celery.transience.time.sleep", lambda seconds: None)
    asked = bulk.start("retry", {})
    bulk.work(asked.pk)

    assert told(asked) == "2 retried, 1 refused (OperationalError)"
    assert (tried.count(first), tried.count(third)) == (2, 1)
    assert bulk.progress(asked.pk).ended_at is not None


def test_one_that_is_refused_or_breaks_undoes_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    failed_orders(4)
    first, second = letters()[:2]
    Instance.objects.filter(pk=DeadLetter.objects.get(pk=first).instance_id).update(
        status="cancelled", ended_at=clock.now()
    )
    original = dead_letters.retry

    def retry(letter_id: int, **named: Any) -> None:
        original(letter_id, **named)
        if letter_id == second:
            raise Broken("something secret")

    monkeypatch.setattr(dead_letters, "retry", retry)

    asked = bulk.start("retry", {})
    bulk.work(asked.pk)

    assert told(asked) == ("2 retried, 1 refused (the instance is cancelled), 1 refused (Broken)")
    assert set(DeadLetter.objects.filter(status="open").values_list("pk", flat=True)) == {
        first,
        second,
    }


@pytest.mark.parametrize("after", [False, True], ids=["before the verb", "after the verb"])
@pytest.mark.parametrize("calls", [1, 3, 4])
def test_a_worker_that_is_killed_leaves_nothing_done_twice_or_miscounted(
    calls: int, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Portions of two letters: the first letter, the first of a portion, its last one."""
    monkeypatch.setattr(bulk, "_AT_ONCE", 2)
    failed_orders(5)
    asked = bulk.start("retry", {})
    with monkeypatch.context() as patch:
        dies_at(patch, calls, after=after)
        with pytest.raises(Killed):
            bulk.work(asked.pk)

    assert DeadLetter.objects.filter(status="retried").count() == calls - 1
    assert told(asked) == f"{calls - 1} retried, {6 - calls} to come"
    bulk.work(asked.pk)
    bulk.work(asked.pk)

    assert told(asked) == "5 retried"
    verbs = Intervention.objects.filter(verb="retry dead letter")
    assert verbs.count() == 5
    drain()
    assert Instance.objects.filter(status="started").count() == 5


def test_a_worker_makes_room_for_others_and_another_message_goes_on(sent: list[int]) -> None:
    failed_orders(3)
    asked = bulk.start("retry", {})

    for done in (1, 2):
        bulk.work(asked.pk, seconds=0)
        assert told(asked).startswith(f"{done} retried, ")
    bulk.work(asked.pk)

    assert sent == [asked.pk] * 3
    assert told(asked) == "3 retried"


def test_the_tick_finds_one_whose_message_was_lost_or_whose_worker_died(
    sent: list[int], time: Time
) -> None:
    failed_orders(2)
    asked = bulk.start("retry", {})
    sent.clear()
    ticks.tick()
    assert sent == []

    time.enter_context(clock.travel(bulks.QUIET + timedelta(seconds=1)))
    ticks.tick(), ticks.tick()
    assert sent == [asked.pk]
    bulk.work(asked.pk, seconds=0)
    sent.clear()

    time.enter_context(clock.travel(bulks.QUIET + timedelta(seconds=1)))
    ticks.tick()
    assert sent == [asked.pk]
    bulk.work(asked.pk)
    time.enter_context(clock.travel(bulks.QUIET + timedelta(seconds=1)))
    ticks.tick()
    assert sent == [asked.pk]
    assert told(asked) == "2 retried"


def test_one_that_is_stopped_goes_no_further() -> None:
    failed_orders(3)
    asked = bulk.start("discard_for_good", {})
    bulk.work(asked.pk, seconds=0)
    bulk.stop(asked.pk, by="bob", reason="the wrong ones")
    bulk.work(asked.pk)

    assert told(asked) == "1 discarded, 2 left alone"
    assert BulkAction.objects.get().stopped_by == "bob"
    with pytest.raises(Refused, match="ended already"):
        bulk.stop(asked.pk)


@pytest.mark.postgresql
def test_two_workers_at_once_do_each_letter_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first holds a letter open; the second finds it locked and leaves, or, where it read the same
    portion before, passes over what is behind the cursor."""
    failed_orders(6)
    asked = bulk.start("retry", {})
    stale = bulk._portion("default", asked.pk)
    in_the_middle, go_on = threading.Event(), threading.Event()
    original = dead_letters.retry

    def retry(letter_id: int, **named: Any) -> None:
        original(letter_id, **named)
        if letter_id == stale[2]:
            in_the_middle.set()
            assert go_on.wait(30)

    monkeypatch.setattr(dead_letters, "retry", retry)
    first = Worker(lambda: bulk.work(asked.pk))
    assert in_the_middle.wait(30)
    bulk.work(asked.pk)
    assert told(asked) == "2 retried, 4 to come"
    go_on.set()
    first.finish()
    assert told(asked) == "6 retried"
    BulkAction.objects.update(ended_at=None)
    assert all(bulk._do("default", asked.pk, letter_id) for letter_id in stale)
    assert told(asked) == "6 retried"


@pytest.mark.parametrize(
    ("verb", "conditions", "words"),
    [
        ("delete", {}, "no such verb"),
        ("retry", {"instance__state__contains": "x"}, "not chosen by"),
        ("retry", {"key": "\x00"}, "a text"),
        ("retry", {"died_at__gte": "yesterday"}, "moment"),
        ("retry", {"died_at__gte": "2030-01-31T12:00:00"}, "time zone"),
        ("retry", {"group": "0" * 32}, "no open letter"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    verb: str, conditions: dict[str, str], words: str
) -> None:
    failed_orders(1)

    with pytest.raises(Refused, match=words):
        bulk.start(verb, conditions)

    assert not BulkAction.objects.exists()


def test_letters_are_chosen_by_the_moment_of_their_death(time: Time) -> None:
    failed_orders(2)
    time.enter_context(clock.travel(timedelta(days=1)))
    between = clock.now() - timedelta(hours=1)
    failed_orders(1)

    assert bulk.matching({"died_at__lt": between.isoformat()}, most=10) == 2
    assert bulk.matching({"died_at__gte": between.isoformat(), "place": "handler"}, most=10) == 1


@pytest.mark.parametrize("nonsense", [0, -1, 2**70, "1", None, True, 1.5])
def test_a_forged_message_does_nothing(nonsense: object) -> None:
    assert str(tasks.bulk(nonsense)).startswith("refused")


def test_the_task_works_off_what_was_asked_for() -> None:
    failed_orders(2)
    asked = bulk.start("retry", {})

    current_app.tasks["pm_celery.bulk"](asked.pk)

    assert told(asked) == "2 retried"
