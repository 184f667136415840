"""Tallies: sums that are exact at every moment, and cost the same however many rows there are.

That they agree with the rows whatever happens is held by the fuzz (tests/interleavings/invariants.py).
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from pm_celery import clock, publish, tallies, ticks
from pm_celery.models import FailedAttempt, Instance, LetterGroup, Tally, TallyEntry
from pm_celery.operations import dead_letters, instances
from pm_celery.retention import prune
from tests.driving import Time, advance_all, drain
from tests.orders import Broken, Paid, Placed, Plan, Shipped

pytestmark = pytest.mark.django_db(transaction=True)

STATUSES = ("started", "completed", "timed_out", "failed", "cancelled")


def there_are(*what: str) -> dict[str, int]:
    counted = Counter[str]()
    for found in tallies.ever(what or STATUSES):
        counted[found.what] += found.count
    return {name: count for name, count in counted.items() if count}


def placed() -> UUID:
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    return order_id


def shipped() -> UUID:
    order_id = placed()
    publish(Shipped(order_id=order_id))
    drain()
    return order_id


def test_instances_are_counted_by_status_from_their_first_event_until_they_are_pruned(
    time: Time,
) -> None:
    placed(), placed(), shipped()
    assert there_are() == {"started": 2, "completed": 1}

    instances.cancel(Instance.objects.filter(status="started")[0].pk)
    assert there_are() == {"started": 1, "completed": 1, "cancelled": 1}

    time.elapse("2d")
    prune("1d")
    assert there_are() == {"started": Instance.objects.count()} == {"started": 1}
    assert there_are(tallies.BEGAN) == {"began": 3}


def test_a_sum_is_the_same_before_and_after_the_tick_has_added_it_up(time: Time) -> None:
    placed()
    assert TallyEntry.objects.exists()
    before = there_are(*STATUSES, tallies.HANDLED, tallies.HANDLER)

    time.enter_context(clock.travel(timedelta(seconds=10)))
    ticks.tick()

    assert not TallyEntry.objects.exists()
    assert there_are(*STATUSES, tallies.HANDLED, tallies.HANDLER) == before


def test_sums_are_exact_where_a_second_brings_more_than_a_reader_adds_up(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tallies, "_MOST_AT_ONCE", 5)
    monkeypatch.setattr(tallies, "_MANY", 2)
    placed()
    time.elapse("10s")

    for number in range(2, 6):
        for _ in range(3):
            added = tallies.Tallies()
            added.add("tests.Order", "started")
            tallies.write("default", added, clock.now())
        with clock.travel(timedelta(seconds=number)):
            tallies.fold()
        assert there_are("started") == {"started": 3 * number - 2}


def test_what_a_transaction_counted_is_gone_with_the_transaction() -> None:
    Plan.raise_in = {"placed": Broken("no")}
    publish(Placed(order_id=uuid4()))
    advance_all()
    assert there_are(*STATUSES, tallies.HANDLED) == {}
    assert there_are(tallies.RUN_FAILED) == {"run_failed": 1}


def test_sums_over_time_begin_at_whole_periods_and_are_forgotten_when_they_are_old(
    time: Time,
) -> None:
    for _ in range(3):
        placed()
        time.elapse("61s")
    per_minute = tallies.over_time([tallies.BEGAN], 60, clock.now() - timedelta(hours=1))
    assert len(per_minute) == 3
    assert {found.start.second for found in per_minute} == {0}
    assert sum(found.count for found in per_minute) == 3
    assert tallies.over_time([tallies.BEGAN], 60, clock.now() - timedelta(seconds=1)) == []

    time.elapse("2h")
    assert not Tally.objects.filter(period=60, what=tallies.BEGAN).exists()
    assert there_are(tallies.BEGAN) == {"began": 3}


def test_durations_are_counted_by_handler_and_by_command() -> None:
    placed()
    runs = {found.detail: found for found in tallies.ever([tallies.HANDLER, tallies.COMMAND])}
    assert {"placed", "tests.Reserve"} <= runs.keys()
    assert all(run.count == 1 and 0 < run.seconds < 60 for run in runs.values())
    bounds = (0.0, *tallies.BOUNDS)
    assert all(bounds[run.bucket] < run.seconds for run in runs.values())


def test_open_letters_are_counted_by_what_they_died_of_until_they_are_settled(time: Time) -> None:
    Plan.raise_in = {"placed": ValueError("no")}
    for _ in range(3):
        placed()
    for _ in range(3):
        time.elapse("1d")
    groups = {found.detail: found.count for found in tallies.ever([tallies.OPEN])}
    group = LetterGroup.objects.get()
    assert groups == {group.pk: 3}
    assert (group.exception, group.place, group.name) == ("ValueError", "handler", "tests.Placed")

    first, second, third = group.letters.values_list("pk", flat=True)
    Plan.raise_in = {}
    dead_letters.retry(first)
    dead_letters.discard(second)
    instances.cancel(group.letters.get(pk=third).instance_id)
    assert there_are(tallies.OPEN) == {}
    assert there_are(tallies.DIED) == {"died": 3}


def test_every_attempt_that_failed_can_be_looked_up_with_its_time(time: Time) -> None:
    Plan.raise_in = {"paid": Broken("again")}
    order_id = placed()
    publish(Paid(order_id=order_id))
    drain()
    time.elapse("1d")
    attempts = FailedAttempt.objects.order_by("id")
    assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
    assert len(attempts) > 1
    assert {(a.handler, a.exception, a.error) for a in attempts} == {("paid", "Broken", "again")}
    moments = [attempt.failed_at for attempt in attempts]
    assert moments == sorted(moments)


@pytest.mark.parametrize("orders", [1, 20])
def test_reading_sums_takes_as_many_statements_however_many_rows_there_are(orders: int) -> None:
    for _ in range(orders):
        publish(Placed(order_id=uuid4()))
    drain()
    with CaptureQueriesContext(
        connection,
    ) as queries:
        there_are()
    assert len(queries) == 4


def test_sums_of_all_processes_together_are_one_for_each_period_added_up_or_not(time: Time) -> None:
    now = clock.now()

    def add() -> None:
        counted = tallies.Tallies()
        counted.add("shop.A", tallies.UNKNOWN, 2, detail="shop.X")
        counted.add("shop.B", tallies.UNKNOWN, 3, detail="shop.Y")
        tallies.write("default", counted, now)

    asked = tallies.Asked(frozenset({tallies.UNKNOWN}), 3600, now, summed=True)
    add()
    [[found]] = tallies.read(asked)
    assert (found.process, found.detail, found.count) == ("", "", 5)

    tallies.fold()
    add()
    [[found]] = tallies.read(asked)
    assert (found.process, found.detail, found.count) == ("", "", 10)
