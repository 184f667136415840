"""Wake-ups: one is enough, and nothing that is published falls between two of them."""

from __future__ import annotations

import time as clocks
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from pm_celery import clock, engine, listener, publish, publish_many, ticks, wakeups
from pm_celery.broker import Post
from pm_celery.claiming import Passed, claim
from pm_celery.engine import advance
from pm_celery.keys import PARTITIONS
from pm_celery.models import InboxMessage, Wakeup
from pm_celery.rows import Claim
from tests.driving import count_on_workers
from tests.orders import Placed

# The lane of the only queue.
COMMON = PARTITIONS

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, settings: Any) -> list[int]:
    """The lanes to which wake-ups are sent."""
    lanes: list[int] = []

    def send(self: Post, task: str, args: Sequence[Any], *rest: Any, **options: Any) -> bool:
        if task == "pm_celery.advance":
            lanes.extend(args)
        return True

    monkeypatch.setattr(Post, "send", send)
    count_on_workers(monkeypatch, settings)
    return lanes


def test_one_wake_up_is_outstanding_however_many_events_come(sent: list[int]) -> None:
    for _ in range(20):
        publish(Placed(order_id=uuid4()))
    assert sent == [COMMON]

    advance(COMMON)
    assert not InboxMessage.objects.open().exists()

    publish(Placed(order_id=uuid4()))
    assert sent == [COMMON, COMMON]


def test_each_queue_has_a_wake_up_of_its_own(sent: list[int], settings: Any) -> None:
    settings.PM_CELERY = {"QUEUES": 3}
    publish_many([Placed(order_id=uuid4()) for _ in range(50)])

    assert sorted(sent) == [COMMON, COMMON + 1, COMMON + 2]
    for lane in sorted(sent):
        assert InboxMessage.objects.open().exists()
        advance(lane)
    assert not InboxMessage.objects.open().exists()


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[Placed]:
    """One event more, which is published when a worker has claimed what it found first."""
    events = [Placed(order_id=uuid4())]

    def claim_then_publish(lane: int, passed: Passed, *, arriving: bool) -> Claim:
        found = claim(lane, passed, arriving=arriving)
        if events:
            publish(events.pop())
        return found

    monkeypatch.setattr(engine, "claim", claim_then_publish)
    return events


def test_what_is_published_while_a_worker_is_there_needs_no_wake_up(
    sent: list[int], late: list[Placed]
) -> None:
    """The worker claims, then somebody publishes and sends nothing; it looks once more before it leaves."""
    publish(Placed(order_id=uuid4()))

    advance(COMMON)

    assert sent == [COMMON]
    assert list(InboxMessage.objects.values_list("status", flat=True)) == ["handled"] * 2


def test_what_is_published_when_a_worker_has_found_nothing_more_needs_no_wake_up(
    sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mark stands until it leaves, so whoever published counts on it: it must look once more."""
    late = [Placed(order_id=uuid4())]
    publish_many([Placed(order_id=uuid4()) for _ in range(2)])

    def claim_then_publish(lane: int, passed: Passed, *, arriving: bool) -> Claim:
        found = claim(lane, passed, arriving=arriving)
        if late and not found.rows:
            publish(late.pop())
        return found

    monkeypatch.setattr(engine, "claim", claim_then_publish)
    advance(COMMON)

    assert sent == [COMMON]
    assert list(InboxMessage.objects.values_list("status", flat=True)) == ["handled"] * 3


def test_who_publishes_after_the_last_look_wakes_a_worker(sent: list[int]) -> None:
    """The mark goes before the last look, so nothing falls between the two."""
    publish(Placed(order_id=uuid4()))
    asked: list[str] = []

    def listen(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        asked.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(listen):
        advance(COMMON)

    looks = [n for n, sql in enumerate(asked) if "ORDER BY" in sql and "due_at" in sql]
    rests = [
        n
        for n, sql in enumerate(asked)
        if "wakeup" in sql and "UPDATE" in sql and "INSERT" not in sql
    ]
    assert rests[-1] < looks[-1]
    assert Wakeup.objects.get().outstanding_until is None


def test_a_wake_up_that_was_lost_is_sent_again_by_the_tick(sent: list[int]) -> None:
    publish(Placed(order_id=uuid4()))
    ticks.tick()
    assert sent == [COMMON]

    with clock.travel(timedelta(seconds=6)):
        ticks.tick()

    assert sent == [COMMON, COMMON]


def test_a_backlog_wakes_workers_at_each_of_its_partitions(sent: list[int], settings: Any) -> None:
    settings.PM_CELERY = {"BATCH_SIZE": 8}
    publish_many([Placed(order_id=uuid4()) for _ in range(300)])
    assert sent == [COMMON]

    advance(COMMON)

    assert set(sent) == {COMMON, *range(PARTITIONS)}


def test_a_second_worker_in_a_lane_leaves_it_to_the_first(sent: list[int]) -> None:
    publish(Placed(order_id=uuid4()))
    Wakeup.objects.update(outstanding_until=clock.now() + wakeups.AT_WORK)

    advance(COMMON)
    assert InboxMessage.objects.open().exists()

    # The first one died: it is counted on for an instant only.
    with clock.travel(wakeups.AT_WORK):
        advance(COMMON)
    assert not InboxMessage.objects.open().exists()


def test_nobody_counts_on_a_worker_whose_handlers_are_slow(
    sent: list[int], late: list[Placed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is published while its next batch runs wakes another worker at once."""
    wakeups.note_pace(0.005, 1)
    assert wakeups.counted_on_for() == wakeups.AT_WORK
    wakeups.note_pace(5, 10)
    publish(Placed(order_id=uuid4()))

    advance(COMMON)

    assert sent == [COMMON, COMMON]


@pytest.mark.needs("NOTIFY")
def test_publishers_that_go_on_telling_a_dead_listener_do_not_keep_the_tick_from_waking(
    sent: list[int], settings: Any
) -> None:
    settings.PM_CELERY = {"LISTEN": True}
    for seconds in range(3):
        with clock.travel(timedelta(seconds=0.9 * seconds)):
            publish(Placed(order_id=uuid4()))
            assert sent == []

    with clock.travel(timedelta(seconds=2)):
        ticks.tick()
    assert sent == [COMMON]


@pytest.mark.needs("NOTIFY")
def test_a_listener_that_arrives_as_a_mark_runs_out_does_not_take_it_for_a_worker_s(
    sent: list[int], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishing counts on who was told for a second; nobody was there. In the last instants of that second
    the mark looks like a worker's: here in all of it, for a worker is counted on for longer.

    Seen to fail where the listener's first look counts on others.
    """
    settings.PM_CELERY = {"LISTEN": True}
    publish(Placed(order_id=uuid4()))
    monkeypatch.setattr(wakeups, "AT_WORK", timedelta(seconds=2))
    rounds = iter([False, True])

    with listener._connection() as connection:
        listener._follow(connection, lambda: next(rounds))

    assert not InboxMessage.objects.open().filter(name="tests.Placed").exists()
    assert sent == []


@pytest.mark.needs("NOTIFY")
def test_while_handlers_are_slow_a_listener_wakes_the_pool_instead(
    sent: list[int], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside such a handler it would hear of nothing, and the pool would sit idle."""
    settings.PM_CELERY = {"LISTEN": True}
    publish(Placed(order_id=uuid4()))
    assert sent == []
    rounds = iter([False, True])

    monkeypatch.setattr(wakeups, "_slow_until", clocks.monotonic() + 60)
    with listener._connection() as connection:
        listener._follow(connection, lambda: next(rounds))

    assert sent == [COMMON]
    assert InboxMessage.objects.open().exists()
