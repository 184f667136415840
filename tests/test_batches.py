"""The marks of batches: who finds one that nobody removed knows whose messages are suspect.

Breaks that turned these red: ``json.dumps(None)`` in ``begin``; ``is None`` in ``end``; neither ``delete()``
nor ``attempts=0`` in ``suspect_messages_of``, and ``messages=None``; no ``batches.end()`` where a handler
fails, in engine.py.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from pm_celery import batches, publish, publish_many, signals
from pm_celery.models import Batch, InboxMessage
from pm_celery.rows import SUSPECT
from tests.driving import drain
from tests.orders import Broken, Paid, Placed, Plan

pytestmark = pytest.mark.django_db(transaction=True)


def published(count: int) -> list[int]:
    publish_many([Placed(order_id=uuid4()) for _ in range(count)])
    return sorted(InboxMessage.objects.values_list("pk", flat=True))


def test_a_mark_that_is_left_over_makes_its_messages_suspect_once() -> None:
    first, second, other = published(3)
    mark = batches.begin([first, second])
    lost: list[Any] = []

    def note(messages: int, **_: Any) -> None:
        lost.append(messages)

    signals.worker_lost.connect(note)
    try:
        suspects = batches.suspect_messages_of([mark])
    finally:
        signals.worker_lost.disconnect(note)

    assert suspects == {first, second}
    assert lost == [2]
    assert batches.suspect_messages_of([mark]) == set()
    noted = InboxMessage.objects.filter(reason=SUSPECT).values_list("pk", flat=True)
    assert sorted(noted) == [first, second]
    assert InboxMessage.objects.get(pk=other).reason == ""


def test_a_message_that_was_tried_since_keeps_the_reason_that_it_has() -> None:
    (message,) = published(1)
    mark = batches.begin([message])
    InboxMessage.objects.update(attempts=1, reason="ValueError: no")

    batches.suspect_messages_of([mark])

    assert InboxMessage.objects.get().reason == "ValueError: no"


def test_a_mark_that_is_removed_makes_nothing_suspect() -> None:
    mark = batches.begin(published(1))

    batches.end(None)
    assert Batch.objects.count() == 1
    batches.end(mark)

    assert not Batch.objects.exists()
    assert batches.suspect_messages_of([mark]) == set()


def test_a_batch_in_which_a_handler_fails_leaves_no_mark() -> None:
    key = uuid4()
    publish_many([Placed(order_id=key), Placed(order_id=uuid4())])
    drain()
    Plan.raise_in["paid"] = Broken()

    publish(Paid(order_id=key))
    drain()

    assert Plan.ran.count("paid") == 1
    assert not Batch.objects.exists()
