"""Lists of large tables: what no index answers is asked of the newest rows, and the page says so."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.db.models import Model
from django.test import Client
from django.utils.timezone import now

from pm_celery.admin import newest
from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand, Timer, Transition
from tests.orders import Order
from tests.test_admin import (
    list_url,
    make_command,
    make_instance,
    make_letter,
    make_message,
    make_timer,
    make_transition,
)

pytestmark = pytest.mark.django_db

NOTES = ("Only the newest 3 rows were looked at", "were looked at, and the newest 3.")
PROCESS = Order.definition.name


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> dict[type[Model], Any]:
    """The rows of one cancelled instance, and behind them so many newer ones that no walk reaches them."""
    monkeypatch.setattr(newest, "NEWEST", 3)
    rows: dict[type[Model], Any] = {}
    for number in range(6):
        conversation = "old-talk" if number == 0 else f"talk-{number}"
        key = "old-key" if number == 0 else f"key-{number}"
        status, ended_at = ("cancelled", now()) if number == 0 else ("started", None)
        named = {"correlation_id": conversation}
        instance = make_instance(key, process=PROCESS, status=status, ended_at=ended_at, **named)
        message = make_message(instance, status="handled", message_id=f"event-{key}", **named)
        found = {
            Instance: instance,
            InboxMessage: message,
            Transition: make_transition(
                instance, inbox_id=message.pk, message_id=message.message_id, **named
            ),
            OutboxCommand: make_command(
                instance, kind="signature" if number == 0 else "command", **named
            ),
            Timer: make_timer(instance, **named),
        }
        rows = rows or found
    # A letter that is open, behind letters that are settled.
    for number in range(6):
        settled = {"status": "retried", "settled_at": now()} if number else {}
        letter = make_letter(f"dead-{number}", process=PROCESS, **settled)
        rows.setdefault(DeadLetter, letter)
    return rows


def shown(client: Client, model: type[Model], **query: str) -> tuple[list[Any], bool]:
    """The ids on a list, and whether it says that it has not looked at all rows."""
    answer = client.get(list_url(model), query)
    assert answer.status_code == 200
    return [row.pk for row in answer.context["cl"].result_list], any(
        note in answer.text for note in NOTES
    )


@pytest.mark.parametrize(
    ("model", "query"),
    [
        (Instance, {"process": "tests.Errand"}),
        (DeadLetter, {"status__exact": "open"}),
        (DeadLetter, {"group__exact": "0" * 32, "status__exact": "open"}),
    ],
)
def test_a_filter_that_an_index_answers_looks_at_all_rows(
    model: type[Model], query: dict[str, str], old: Any, admin_client: Client
) -> None:
    Instance.objects.filter(pk=old[Instance].pk).update(process="tests.Errand")

    assert shown(admin_client, model, **query) == ([old[model].pk], False)


TABLES = (Instance, InboxMessage, Transition, OutboxCommand, Timer)
every_table = pytest.mark.parametrize("model", TABLES, ids=lambda model: model.__name__)


@pytest.mark.parametrize(
    ("model", "query"),
    [
        (Instance, {"status__exact": "cancelled"}),
        (Instance, {"ended_at__isempty": "0"}),
        (Instance, {"status__exact": "cancelled", "process": PROCESS}),
        (OutboxCommand, {"kind__exact": "signature"}),
        (Transition, {"number__gt": "0", "process": PROCESS}),
    ],
)
def test_a_filter_that_no_index_answers_looks_at_the_newest_rows_and_says_so(
    model: type[Model], query: dict[str, str], old: Any, admin_client: Client
) -> None:
    ids, told = shown(admin_client, model, **query)

    assert old[model].pk not in ids
    assert told


@every_table
def test_a_list_without_a_filter_goes_back_to_the_first_row_and_says_nothing(
    model: type[Model], old: Any, admin_client: Client
) -> None:
    ids, told = shown(admin_client, model)

    assert old[model].pk in ids
    assert not told


@every_table
def test_what_belongs_to_a_conversation_is_found_however_old(
    model: type[Model], old: Any, admin_client: Client
) -> None:
    """By its link, and by a search."""
    by_link, _ = shown(admin_client, model, correlation_id__exact="old-talk")
    by_search, _ = shown(admin_client, model, q="old-talk")

    assert by_link == by_search == [old[model].pk]


@every_table
def test_what_belongs_to_a_key_is_found_however_old(
    model: type[Model], old: Any, admin_client: Client
) -> None:
    ids, _ = shown(admin_client, model, q="old-key")

    assert ids == [old[model].pk]


@pytest.mark.parametrize("model", [InboxMessage, Transition], ids=lambda model: model.__name__)
def test_what_an_event_led_to_is_found_however_old(
    model: type[Model], old: Any, admin_client: Client
) -> None:
    ids, _ = shown(admin_client, model, q="event-old-key")

    assert ids == [old[model].pk]


def test_rows_of_an_instance_are_all_shown_without_a_note(old: Any, admin_client: Client) -> None:
    query = {"instance__id__exact": str(old[Instance].pk)}

    assert shown(admin_client, Transition, **query) == ([old[Transition].pk], False)
    assert shown(admin_client, OutboxCommand, **query) == ([old[OutboxCommand].pk], False)


def test_a_search_that_finds_nothing_says_where_it_did_not_look(
    old: Any, admin_client: Client
) -> None:
    assert shown(admin_client, InboxMessage, q=str(uuid4())) == ([], True)
    # Each of its searches is answered by an index.
    assert shown(admin_client, Instance, q=str(uuid4()))[0] == []


def test_a_small_table_is_looked_at_from_end_to_end(admin_client: Client) -> None:
    instance = make_instance(status="cancelled", ended_at=now())

    assert shown(admin_client, Instance, status__exact="cancelled") == ([instance.pk], False)
