"""Everything works when the package's database is not ``default``, and nothing touches that one."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from pm_celery import batches, clock, publish, publish_many
from pm_celery.models import Batch, DeadLetter, InboxMessage, Instance
from pm_celery.operations import dead_letters
from pm_celery.operations import instances as verbs
from pm_celery.retention import prune
from tests.driving import Time, drain
from tests.orders import Broken, Paid, Placed, Plan, Shipped
from tests.testapp.models import Effect

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


class ToOther:
    """The router of a project whose business data lie in ``other``."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "other" if model is Effect else None

    db_for_write = db_for_read


@pytest.fixture(autouse=True)
def _other(settings: Any) -> None:
    settings.PM_CELERY = {"DATABASE": "other"}
    settings.DATABASE_ROUTERS = [ToOther()]


def test_a_whole_life_leaves_the_default_database_alone(time: Time) -> None:
    fine, bad, gone = uuid4(), uuid4(), uuid4()

    with CaptureQueriesContext(connections["default"]) as queries:
        publish_many([Placed(order_id=key) for key in (fine, bad, gone)])
        drain()
        Plan.raise_in["paid"] = Broken()
        publish(Paid(order_id=bad))
        publish(Shipped(order_id=fine))
        drain()
        for _ in range(4):
            time.elapse("2s")
        Plan.raise_in.clear()
        dead_letters.retry(DeadLetter.objects.using("other").get().pk)
        verbs.cancel(Instance.objects.using("other").get(key=str(gone)).pk)
        drain()
        time.outage("8d")
        pruned = prune("1d")

    statuses = Instance.objects.using("other").values_list("key", "status")
    assert dict(statuses) == {str(bad): "timed_out"}
    assert pruned == 2
    assert [query["sql"] for query in queries.captured_queries] == []
    assert not Instance.objects.using("default").exists()


def test_a_rollback_of_that_database_publishes_nothing() -> None:
    with pytest.raises(Broken), transaction.atomic(using="other"):
        publish(Placed(order_id=uuid4()))
        raise Broken

    assert not InboxMessage.objects.using("other").exists()


def test_the_wake_up_follows_the_commit_of_that_database(monkeypatch: pytest.MonkeyPatch) -> None:
    from pm_celery import wakeups

    woken: list[Any] = []
    monkeypatch.setattr(wakeups, "wake", lambda partitions: woken.append(partitions))

    with transaction.atomic(using="other"):
        publish(Placed(order_id=uuid4()))
        assert woken == []

    assert len(woken) == 1
    assert clock.now() is not None


def test_the_marks_of_batches_are_there_too() -> None:
    mark = batches.begin([1, 2])

    assert Batch.objects.using("other").get().pk == mark
    assert batches.suspect_messages_of([mark]) == {1, 2}
    assert not Batch.objects.using("other").exists()
