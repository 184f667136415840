"""Small batches run prepared statements on PostgreSQL, but never behind a connection pooler."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.db import connection

from pm_celery import publish, tasks
from pm_celery.keys import PARTITIONS
from pm_celery.models import Instance
from pm_celery.statements import prepared
from tests.driving import drain
from tests.orders import Placed

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgresql]


def prepared_statements() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%pm_celery_%'"
        )
        return int(cursor.fetchone()[0])


def handle(events: int) -> None:
    for _ in range(events):
        publish(Placed(order_id=uuid4()))
        drain()


@pytest.fixture(autouse=True)
def own_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    connection.close()
    monkeypatch.setattr(prepared, "_refused", False)


def test_the_statements_of_small_batches_are_prepared() -> None:
    handle(4)

    assert prepared_statements() > 0


def test_nothing_is_prepared_where_django_is_told_of_a_pooler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(connection.settings_dict, "DISABLE_SERVER_SIDE_CURSORS", True)

    handle(4)

    assert prepared_statements() == 0


def test_a_pooler_that_nobody_told_of_costs_a_repetition_and_no_event() -> None:
    """To forget the statements is what a pooler does that hands the transaction to another session."""
    handle(4)
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")

    publish(Placed(order_id=uuid4()))
    for partition in range(PARTITIONS):
        tasks.advance(partition)

    assert Instance.objects.count() == 5
    assert prepared._refused
    assert prepared_statements() == 0


def test_two_connections_never_give_one_name_to_different_statements() -> None:
    """Behind a pooler, one process would run the other's statement by that name."""
    names = []
    for _ in range(2):
        connection.close()
        handle(4)
        with connection.cursor() as cursor:
            cursor.execute("SELECT name FROM pg_prepared_statements")
            names.append({name for (name,) in cursor.fetchall()})

    assert all(names)
    assert not names[0] & names[1]


def test_a_plan_is_made_anew_after_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = prepared.of_this_age("SELECT 1")
    monkeypatch.setattr(prepared.time, "monotonic", lambda: 1e9)

    assert prepared.of_this_age("SELECT 1") != now
