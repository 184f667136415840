"""What is announced is committed: receivers may ask the database, and nothing that they do is undone.

Breaks that turned these red: ``unknown_message`` and ``died`` sent where they happen instead of on commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from django.db import connection

from pm_celery import batches, publish, signals
from pm_celery.models import DeadLetter, Instance
from pm_celery.operations import dead_letters, instances, pruning
from pm_celery.publishing import publish_named
from tests.driving import Time, drain
from tests.orders import Paid, Placed, Plan

pytestmark = pytest.mark.django_db(transaction=True)

# Nothing was done, or the row was committed long before.
WITHOUT_NEWS_OF_THEIR_OWN = {"broker_unreachable", "message_refused"}


@pytest.fixture
def announced() -> Iterator[dict[str, set[bool]]]:
    """By signal: whether a transaction was open when it was sent."""
    found: dict[str, set[bool]] = {}

    def receiver_of(signal: str) -> Callable[..., None]:
        def note(sender: object, **news: object) -> None:
            found.setdefault(signal, set()).add(connection.in_atomic_block)

        return note

    receivers = {name: receiver_of(name) for name in signals.__all__}
    for name, receiver in receivers.items():
        getattr(signals, name).connect(receiver)
    yield found
    for name, receiver in receivers.items():
        getattr(signals, name).disconnect(receiver)


def test_every_signal_is_sent_after_the_commit_of_its_news(
    announced: dict[str, set[bool]], time: Time
) -> None:
    order_id = uuid4()
    Plan.raise_in = {"paid": OSError("once more"), "reserve": OSError("once more")}
    publish(Placed(order_id=order_id))
    publish(Paid(order_id=order_id))
    publish_named("nobody.KnowsIt", {}, "e-1")
    drain()
    Plan.raise_in = {"paid": KeyError("for good")}
    time.elapse("1h")
    batches.begin([1])
    time.elapse("1s")
    publish(Placed(order_id=uuid4()))
    drain()
    dead_letters.discard(DeadLetter.objects.order_by("id")[0].pk, by="ann")
    instances.cancel(Instance.objects.latest("id").pk, by="ann")
    time.elapse("1h")
    pruning.prune("1s", by="ann")

    assert announced == {
        name: {False} for name in signals.__all__ if name not in WITHOUT_NEWS_OF_THEIR_OWN
    }
