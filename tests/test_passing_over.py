"""What a worker finds locked it leaves to whoever holds it; nothing of that waits for the tick.

No test here ticks. Each obeys the wake-ups that were sent, and no others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import OperationalError, connection, transaction

from pm_celery import (
    ProcessManager,
    clock,
    engine,
    event,
    handle,
    publish,
    publish_many,
    wakeups,
)
from pm_celery.broker import Post
from pm_celery.claiming import claim, lock
from pm_celery.engine import advance
from pm_celery.keys import PARTITIONS, partition_of
from pm_celery.models import Batch, InboxMessage, Instance, Timer, Wakeup
from pm_celery.operations import instances, timers
from pm_celery.rows import SUSPECT
from tests.driving import Worker, advance_all, count_on_workers
from tests.orders import Paid, Placed, Reserved

COMMON = PARTITIONS
ORDER = UUID(int=4711)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, settings: Any) -> list[int]:
    """The lanes to which wake-ups are sent, of an order that was placed before."""
    lanes: list[int] = []

    def send(self: Post, task: str, args: Sequence[Any], *rest: Any, **options: Any) -> bool:
        if task == "pm_celery.advance":
            lanes.extend(args)
        return True

    monkeypatch.setattr(Post, "send", send)
    count_on_workers(monkeypatch, settings)
    publish(Placed(order_id=ORDER))
    advance_all()
    Wakeup.objects.all().delete()
    lanes.clear()
    return lanes


@contextmanager
def held(key: object) -> Iterator[Callable[[], None]]:
    """The instance is locked by another connection, until what is yielded is called."""
    other = connection.copy()
    other.set_autocommit(False)
    with other.cursor() as cursor:
        column = connection.ops.quote_name("key")
        cursor.execute(
            f"SELECT id FROM pm_celery_instance WHERE {column} = %s FOR UPDATE", [str(key)]
        )
        assert cursor.rowcount == 1
    try:
        yield other.rollback
    finally:
        other.close()


def before_claim(monkeypatch: pytest.MonkeyPatch, number: int, do: Callable[[], object]) -> None:
    """Let something happen right before a worker's claim of that number, the first being 1."""
    claims = iter(range(1, 1000))

    def claim_after_that(*args: Any, **options: Any) -> Any:
        if next(claims) == number:
            do()
        return claim(*args, **options)

    monkeypatch.setattr(engine, "claim", claim_after_that)


def statuses() -> dict[str, str]:
    return dict(InboxMessage.objects.values_list("name", "status"))


@pytest.mark.needs("row locks")
def test_an_instance_that_was_passed_over_is_looked_at_when_its_next_event_comes(
    sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Schedule: a worker claims the first event and finds the instance locked. The lock goes, and another
    event is published, which counts on that worker. Then it looks again."""
    publish_many([Paid(order_id=ORDER), Placed(order_id=UUID(int=1))])

    with held(ORDER) as let_go:

        def let_go_and_publish() -> None:
            let_go()
            publish(Reserved(order_id=ORDER))

        before_claim(monkeypatch, 2, let_go_and_publish)
        advance(COMMON)

    assert sent == [COMMON]
    assert statuses()["tests.Paid"] == statuses()["tests.Reserved"] == "handled"


@pytest.mark.needs("row locks")
def test_what_was_passed_over_is_tried_once_more_before_the_worker_leaves(
    sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Schedule: a worker finds an instance locked. Whoever held it commits while that worker is counted on,
    and so wakes nobody. The worker then finds nothing more."""
    publish_many([Paid(order_id=ORDER), Placed(order_id=UUID(int=1))])

    with held(ORDER) as let_go:
        before_claim(monkeypatch, 2, let_go)
        advance(COMMON)

    assert sent == [COMMON]
    assert statuses()["tests.Paid"] == "handled"


@pytest.mark.needs("row locks")
def test_a_worker_does_not_stay_for_an_instance_that_somebody_goes_on_holding(
    sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def counting(*args: Any, **options: Any) -> Any:
        looks.append(1)
        return claim(*args, **options)

    monkeypatch.setattr(engine, "claim", counting)
    publish(Paid(order_id=ORDER))

    with held(ORDER):
        advance(COMMON)

    assert len(looks) < 6
    assert statuses()["tests.Paid"] == "pending"
    assert Wakeup.objects.get().outstanding_until is None


@pytest.mark.needs("row locks")
def test_a_worker_whose_time_is_over_wakes_nobody_for_what_somebody_holds(
    sent: list[int], settings: Any
) -> None:
    """Whoever it woke would find the same, and wake the next one, until the lock goes."""
    settings.PM_CELERY = {"ADVANCE_SECONDS": 1e-9}
    publish(Paid(order_id=ORDER))

    with held(ORDER):
        advance(COMMON)

    assert sent == [COMMON]


def in_a_transaction(verb: Callable[[], object]) -> tuple[Worker, threading.Event]:
    """An operator's verb, done and not committed yet; and what lets it commit."""
    done, go_on = threading.Event(), threading.Event()

    def work() -> None:
        with transaction.atomic():
            verb()
            done.set()
            assert go_on.wait(30)

    operator = Worker(work)
    assert done.wait(30)
    return operator, go_on


@pytest.mark.needs("row locks")
@pytest.mark.parametrize("verb", ["cancel the instance", "cancel its timer", "fire its timeout"])
def test_what_comes_while_an_operator_holds_the_instance_is_handled_after_his_commit(
    verb: str, sent: list[int]
) -> None:
    """Schedule: the operator has done it, uncommitted. An event is published; the worker that it wakes finds
    the instance locked, and leaves. Then the operator commits."""
    instance = Instance.objects.get()
    verbs = {
        "cancel the instance": lambda: instances.cancel(instance.pk),
        "cancel its timer": lambda: timers.cancel(Timer.objects.get().pk),
        "fire its timeout": lambda: instances.fire_timeout(instance.pk),
    }
    operator, go_on = in_a_transaction(verbs[verb])
    publish(Paid(order_id=ORDER))
    advance(COMMON)
    assert sent == [COMMON]
    assert statuses()["tests.Paid"] == "pending"

    go_on.set()
    operator.finish()
    assert sent == [COMMON, COMMON]
    advance(COMMON)

    assert statuses()["tests.Paid"] in ("handled", "skipped")


@pytest.mark.needs("row locks")
def test_a_message_that_another_lane_took_along_leaves_nothing_behind(
    sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Schedule: the worker of lane p takes an event of partition q along, and holds its instance. Another
    event of that instance is published; the worker of lane q finds it locked, and leaves. Then p commits."""
    lane_q = partition_of("tests.Order", str(ORDER))
    lane_p = (lane_q + 1) % PARTITIONS
    neighbour = next(
        UUID(int=n) for n in range(9999) if partition_of("tests.Order", str(UUID(int=n))) == lane_p
    )
    monkeypatch.setattr(wakeups, "beside", lambda lane: [lane_q] if lane == lane_p else [])
    publish(Placed(order_id=neighbour))
    publish(Paid(order_id=ORDER))
    advanced: list[int] = []

    def lock_and_let_the_others_in(*args: Any, **options: Any) -> Any:
        found = lock(*args, **options)
        if not advanced:
            advanced.append(lane_q)
            publish(Reserved(order_id=ORDER))
            other = Worker(lambda: advance(lane_q))
            other.finish()
        return found

    monkeypatch.setattr(engine, "lock", lock_and_let_the_others_in)
    advance(lane_p)
    assert statuses()["tests.Paid"] == "handled"
    assert statuses()["tests.Reserved"] == "pending"

    assert sent == [COMMON, lane_q]
    advance(lane_q)
    assert statuses()["tests.Reserved"] == "handled"


def test_a_worker_that_breaks_off_is_not_counted_on(
    sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks after the first batch; who tries again would find the mark, and leave."""
    publish_many([Placed(order_id=UUID(int=n)) for n in range(2)])

    def break_off() -> None:
        raise OperationalError("server closed the connection unexpectedly")

    before_claim(monkeypatch, 2, break_off)
    with pytest.raises(OperationalError):
        advance(COMMON)

    assert Wakeup.objects.get().outstanding_until is None


class Killed(BaseException):
    """The worker dies here."""


def test_the_death_of_a_worker_is_noticed_in_whatever_lane_somebody_looks_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message is run alone from then on, and each run is counted before."""
    monkeypatch.setattr(wakeups, "beside", lambda lane: [])

    @event
    class Poisoned:
        key: str

    class Deadly(ProcessManager):
        class Meta:
            name = "tests.Deadly"

        @handle(Poisoned, start=True, correlate="key")
        def dies(self, event: Poisoned) -> None:
            raise Killed

    publish(Poisoned("k"))
    lane = partition_of("tests.Deadly", "k")
    with pytest.raises(Killed):
        advance(COMMON)

    with clock.travel(timedelta(seconds=1)):
        elsewhere = next(
            UUID(int=n)
            for n in range(9999)
            if partition_of("tests.Order", str(UUID(int=n))) != lane
        )
        publish(Placed(order_id=elsewhere))
        advance(partition_of("tests.Order", str(elsewhere)))
        poisoned = InboxMessage.objects.get(name="tests.Poisoned")
        assert (poisoned.reason, poisoned.attempts) == (SUSPECT, 0)
        assert not Batch.objects.exists()

        with pytest.raises(Killed):
            advance(lane)
        poisoned.refresh_from_db()
        assert poisoned.attempts == 1
