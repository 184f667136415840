"""One box that finds an instance by whatever somebody has of it."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from pm_celery import publish
from pm_celery.exceptions import Refused
from pm_celery.models import InboxMessage, Instance, Intervention, OutboxCommand
from pm_celery.operations import indexes
from pm_celery.operations.search import _by_state, search
from tests.driving import drain
from tests.orders import Placed
from tests.test_admin import PROCESS, list_url, make_instance
from tests.test_plans import plan_of

pytestmark = pytest.mark.django_db(transaction=True)


def meanings(term: str) -> dict[str, tuple[int, ...]]:
    return {found.meaning: found.instance_ids for found in search(term)}


def test_an_instance_is_found_by_key_number_event_command_and_correlation_id(
    admin_client: Client,
) -> None:
    order_id = uuid4()
    publish(Placed(order_id=order_id), event_id="placed-1", correlation_id="talk-1")
    publish(Placed(order_id=uuid4()))
    drain()
    instance = Instance.objects.get(key=str(order_id))
    command = OutboxCommand.objects.filter(instance=instance).first()
    assert command is not None

    for term, meaning in (
        (instance.key, "key"),
        (f" {instance.key} ", "key"),
        (str(instance.pk), "instance id"),
        ("placed-1", "event id"),
        (str(command.command_id), "command id"),
        ("talk-1", "correlation id"),
    ):
        assert meanings(term)[meaning] == (instance.pk,), meaning
        listed = admin_client.get(list_url(Instance), {"q": term})
        assert [row.pk for row in listed.context["cl"].result_list] == [instance.pk], meaning
    assert search("nothing has that") == []


def test_a_number_that_is_a_key_and_an_instances_own_finds_both() -> None:
    first = make_instance("order-1")
    other = make_instance(str(first.pk))

    assert meanings(str(first.pk)) == {"key": (other.pk,), "instance id": (first.pk,)}


def test_a_search_that_finds_nothing_reads_no_table(django_assert_max_num_queries: Any) -> None:
    """A look-up in an index for each meaning, and for each process that is declared no more."""
    for number in range(3):
        make_instance(f"order-{number}", process=f"gone.{number}")

    with django_assert_max_num_queries(10):
        assert search(str(uuid4())) == []


@pytest.mark.sqlite
def test_another_database_says_that_it_cannot_search_by_state(admin_client: Client) -> None:
    make_instance()

    answer = admin_client.get(list_url(Instance), {"q": "state.customer_id:42"})

    assert not answer.context["cl"].result_list
    assert "PostgreSQL can" in answer.text


@pytest.fixture
def indexed() -> Any:
    indexes.create(PROCESS, "customer_id", by="ann", reason="asked for every day")
    yield
    for index in indexes.existing():
        indexes.drop(index.process, index.field)


@pytest.mark.postgresql
def test_without_an_index_a_search_by_state_says_how_to_make_one(admin_client: Client) -> None:
    make_instance(state=json.dumps({"customer_id": 42}))

    answer = admin_client.get(list_url(Instance), {"q": "state.customer_id:42"})

    assert not answer.context["cl"].result_list
    assert "manage.py pm index" in answer.text


@pytest.mark.postgresql
def test_instances_are_found_by_a_field_of_their_state(indexed: Any, admin_client: Client) -> None:
    # Random, for PostgreSQL compresses what it puts into an index.
    long = "".join(uuid4().hex for _ in range(160))
    found, text, longest = (
        make_instance(f"order-{value}"[:20], state=json.dumps({"customer_id": value}))
        for value in (42, "it's 100%", long)
    )
    make_instance("order-x", state=json.dumps({"customer_id": long[:-1]}))
    make_instance("order-0", state=json.dumps({"other": 42}))
    make_instance("elsewhere", process="shop.Other", state=json.dumps({"customer_id": 42}))

    assert meanings("state.customer_id:42") == {"state": (found.pk,)}
    assert meanings("state.customer_id:it's 100%") == {"state": (text.pk,)}
    assert search("state.customer_id:4") == []
    assert len(long) > indexes.LONGEST
    # The box takes no text that long, and what has the same beginning is told apart.
    assert set(_by_state("customer_id", long)) == {longest.pk}
    listed = admin_client.get(list_url(Instance), {"q": "state.customer_id:42"})
    assert [row.pk for row in listed.context["cl"].result_list] == [found.pk]
    (index,) = indexes.existing()
    assert index.name in plan_of(lambda: search("state.customer_id:42"))
    assert (index.process, index.field, index.is_valid) == (PROCESS, "customer_id", True)
    assert Intervention.objects.get().verb == "create index"
    with pytest.raises(Refused, match="there is one"):
        indexes.create(PROCESS, "customer_id")


@pytest.mark.postgresql
def test_the_engine_goes_on_writing_beside_such_an_index() -> None:
    """It inserts an instance with an empty state first, which is no JSON."""
    indexes.create("tests.Order", "order_id")
    order_id = uuid4()

    publish(Placed(order_id=order_id))
    drain()

    assert Instance.objects.get().number
    assert not InboxMessage.objects.filter(status="dead").exists()
    assert meanings(f"state.order_id:{order_id}")
    indexes.drop("tests.Order", "order_id")
    assert indexes.existing() == []


@pytest.mark.postgresql
def test_a_field_that_is_not_to_be_shown_is_not_searched_by(indexed: Any, settings: Any) -> None:
    make_instance(state=json.dumps({"customer_id": 42}))
    settings.PM_CELERY = {"REDACT": ["customer_id"]}

    with pytest.raises(Refused, match="not to be shown"):
        search("state.customer_id:42")
    with pytest.raises(Refused, match="not to be shown"):
        indexes.create("tests.Order", "customer_id")


@pytest.mark.postgresql
@pytest.mark.parametrize("field", ["a'b", "a b", "", "a.b", "a)--"])
def test_what_is_no_name_of_a_field_reaches_no_statement(field: str) -> None:
    with pytest.raises(Refused, match="no name of a field"):
        search(f"state.{field}:42")
    with pytest.raises(Refused, match="no name of a field"):
        indexes.create(PROCESS, field)
