"""The page of one instance in the admin."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Annotated, Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils.html import escape

from pm_celery import ProcessManager, Sensitive, event, handle, publish
from pm_celery.models import (
    DeadLetter,
    FailedAttempt,
    InboxMessage,
    Instance,
    Intervention,
    OutboxCommand,
    Timer,
    Transition,
)
from pm_celery.operations import dead_letters, pauses
from tests.driving import Time, drain
from tests.orders import Paid, Placed, Plan
from tests.test_admin import (
    HTML,
    make_command,
    make_instance,
    make_letter,
    make_message,
    make_timer,
    make_transition,
    page_url,
    staff,
    viewing,
)
from tests.test_timeline import failed_order

pytestmark = pytest.mark.django_db(transaction=True)


def words(response: Any) -> str:
    """A page as somebody reads it: without tags, in one line."""
    assert response.status_code == 200
    return " ".join(re.sub(r"<[^>]*>", " ", response.text).split())


def test_where_an_order_is_and_what_it_waits_for_stands_at_the_top(admin_client: Client) -> None:
    order_id = uuid4()
    publish(Placed(order_id=order_id, total=Decimal("12.50")))
    drain()
    instance = Instance.objects.get()

    response = admin_client.get(page_url(instance))

    text = words(response)
    assert f"Process tests.Order Key {order_id} Status started Age 0 minutes" in text
    assert "(in 1 week)" in text or "(in 6 days, 23 hours)" in text
    assert "Timer reminder :" in text
    awaited = response.context["awaited"]
    assert [event.name for event in awaited if event.handled] == ["tests.Placed", "tests.Reserved"]
    assert [event.name for event in awaited if not event.handled] == ["tests.Paid", "tests.Shipped"]
    assert "total 12.50 Decimal" in text
    assert f"order_id {order_id} UUID" in text


def test_what_an_operator_did_stands_between_the_transitions_with_who_and_why(
    admin_client: Client, time: Time
) -> None:
    instance = failed_order(time)
    waiting = words(admin_client.get(page_url(instance)))
    Plan.raise_in.clear()
    time.elapse("1h")
    dead_letters.retry(DeadLetter.objects.get().pk, by="olga", reason="the shelf is full again")
    drain()

    text = words(admin_client.get(page_url(instance)))

    assert "An operator: its dead letter is to be retried or discarded." in waiting
    assert "parked behind a failure tests.Shipped" in waiting
    places = [text.index(part) for part in ("#5 olga", "the shelf is full again", "#6 tests.Paid")]
    assert places == sorted(places)
    assert "retried by olga" in text


def test_a_step_back_in_time_shows_the_state_and_the_road_as_of_then(
    admin_client: Client, time: Time
) -> None:
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    time.elapse("24h")
    publish(Paid(order_id=order_id))
    drain()
    url = page_url(Instance.objects.get())
    assert "As of transition" not in admin_client.get(url).text

    response = admin_client.get(f"{url}?at=2")

    text = words(response)
    assert "As of transition 2 of 4 tests.Reserved" in text
    assert "State after transition 2" in text
    assert "reminded 0 int" in text
    assert 'href="?at=1" rel="prev"' in response.text
    assert 'href="?at=3" rel="next"' in response.text
    badges = re.findall(r'class="pm-badge"[^>]*>([^<]*)', response.text)
    assert badges == ["#1", "#2"]
    assert "reminded 1 int" in words(admin_client.get(url))


@pytest.mark.parametrize(
    "query", ["at=0", "at=99", "at=x", "at=%00", "at=" + "9" * 5000, "until=²"]
)
def test_a_moment_that_never_was_shows_the_present(query: str, admin_client: Client) -> None:
    instance = make_instance()
    make_transition(instance)

    response = admin_client.get(f"{page_url(instance)}?{query}")

    assert response.status_code == 200
    assert response.context["as_of"] is None


def full_instance(length: int, key: str) -> Instance:
    """An instance with something in each table."""
    letter = make_letter(key)
    instance = Instance.objects.get(key=key)
    instance.number = length
    instance.save()
    message, command = make_message(instance), make_command(instance)
    row = make_transition(
        instance,
        inbox_id=message.pk,
        commands=json.dumps([[str(command.command_id), command.name]]),
    )
    copies = [Transition(**values_of(row, number)) for number in range(2, length + 1)]
    Transition.objects.bulk_create(copies, batch_size=500)
    make_message(instance, status="parked")
    make_timer(instance)
    for number in range(1, 1 + length // 20):
        FailedAttempt.objects.create(
            message=letter.message,
            number=number,
            failed_at=letter.died_at,
            exception="E",
            error="e",
        )
        Intervention.objects.create(verb="cancel", instance=instance, by="o", at=row.recorded_at)
    DeadLetter.objects.filter(pk=letter.pk).update(died_at=row.recorded_at)
    return instance


def values_of(row: Transition, number: int) -> dict[str, Any]:
    names = [field.attname for field in Transition._meta.fields if field.attname != "id"]
    return {name: getattr(row, name) for name in names} | {"number": number}


def test_the_page_of_an_instance_with_10_000_transitions_takes_as_many_queries_as_that_of_one(
    admin_client: Client,
) -> None:
    short, long = full_instance(2, "short"), full_instance(10_000, "long")
    admin_client.get(page_url(short))

    with CaptureQueriesContext(connection) as few:
        admin_client.get(page_url(short))
    with CaptureQueriesContext(connection) as many:
        response = admin_client.get(page_url(long))

    assert len(many) == len(few) <= 20
    text = words(response)
    assert "transitions 9901 to 10000 of 10000" in text
    assert text.count("failed E: e") == text.count("o: cancel") == 100
    assert len(response.text) < 1_500_000
    for query in many:
        if "pm_celery_" in query["sql"]:
            assert "COUNT(" not in query["sql"]
            assert "OFFSET" not in query["sql"]


def test_whatever_rows_hold_is_escaped(admin_client: Client) -> None:
    instance = make_instance(
        f"key {HTML}",
        process=f"process {HTML}",
        correlation_id=HTML,
        state=json.dumps({HTML: HTML}),
    )
    message = make_message(instance, status="parked", name=HTML, reason=HTML)
    command = make_command(instance, name=HTML, reason=HTML)
    make_timer(instance, name=HTML)
    make_transition(
        instance,
        name=HTML,
        handler=HTML,
        message_id=HTML,
        causation_id=HTML,
        correlation_id=HTML,
        inbox_id=message.pk,
        commands=json.dumps([[str(command.command_id), HTML], [HTML, HTML]]),
        timers=json.dumps({HTML: None}),
    )
    letter = make_letter()
    DeadLetter.objects.filter(pk=letter.pk).update(
        instance=instance, name=HTML, exception=HTML, error=HTML, handler=HTML, note=HTML,
        settled_by=HTML,
    )  # fmt: skip
    FailedAttempt.objects.create(
        command=command, number=1, failed_at=letter.died_at, exception=HTML, error=HTML
    )
    Intervention.objects.create(
        verb=HTML, instance=instance, subject=HTML, by=HTML, reason=HTML, at=letter.died_at
    )

    response = admin_client.get(f"{page_url(instance)}?at=1")

    assert response.status_code == 200
    assert HTML not in response.text
    assert response.text.count(escape(HTML)) > 25


@pytest.mark.parametrize("broken", ["[]", "{}", "no JSON", '[["a"]]', '{"a": 1}', "[" * 5000])
def test_rows_that_cannot_be_read_do_not_break_the_page(broken: str, admin_client: Client) -> None:
    instance = make_instance(state=broken)
    make_transition(instance, state=broken, commands=broken, timers=broken)

    assert admin_client.get(f"{page_url(instance)}?at=1").status_code == 200


def test_an_instance_of_a_process_that_is_no_longer_declared_is_shown(admin_client: Client) -> None:
    instance = make_instance(process="gone.Process")
    make_transition(instance)

    response = admin_client.get(page_url(instance))

    text = words(response)
    assert "gone.Process not declared by this release" in text
    assert "Shown as it is stored, without its types" in text
    assert "#1 shop.OrderPlaced" in text
    assert re.findall(r'class="pm-badge"[^>]*>([^<]*)', response.text) == ["#1"]


@event(name="tests.instance_page.Opened")  # other modules have an event of that name
class Opened:
    account: str
    iban: Annotated[str, Sensitive]


def test_values_that_are_not_to_be_shown_are_in_no_part_of_the_page(admin_client: Client) -> None:
    class Account(ProcessManager):
        iban: Annotated[str, Sensitive] = ""

        @handle(Opened, start=True, correlate="account")
        def opened(self, event: Opened) -> None:
            self.iban = event.iban
            self.set_timer("check", "1d", payload={"iban": event.iban})

        @handle(Placed, correlate="order_id")
        def placed(self, event: Placed) -> None: ...

    Account.definition.timer_handlers["check"] = "placed"
    publish(Opened(account="1", iban="DE02120300000000202051"))
    drain()
    instance = Instance.objects.get()
    assert "DE02" in instance.state
    assert "DE02" in InboxMessage.objects.get().payload
    assert "DE02" in Timer.objects.get().payload

    for query in ("", "?at=1"):
        response = admin_client.get(page_url(instance) + query)
        assert "DE02" not in response.text
        assert "•••" in response.text


def test_a_page_shows_only_what_somebody_may_see(time: Time) -> None:
    instance = failed_order(time)
    client = staff(*viewing(Instance, Transition))

    response = client.get(f"{page_url(instance)}?at=1")

    text = words(response)
    assert "#1 tests.Placed" in text
    for hidden in ("attempt 1", "Payload", "Dead letter", "Timer reminder", "parked behind"):
        assert hidden not in text
    assert str(OutboxCommand.objects.first().payload) not in response.text  # type: ignore[union-attr]


def test_who_may_see_instances_alone_learns_of_no_transition() -> None:
    instance = make_instance()
    make_transition(instance, name="shop.Secret")
    client = staff(*viewing(Instance))

    response = client.get(f"{page_url(instance)}?at=1")

    assert "shop.Secret" not in response.text
    assert "pm-diagram" not in response.text
    assert response.context["as_of"] is None


def test_a_paused_process_is_told_on_the_pages_of_its_instances(admin_client: Client) -> None:
    publish(Placed(order_id=uuid4()))
    drain()
    pauses.pause("tests.Order", by="olga", reason="the warehouse burns")

    text = words(admin_client.get(page_url(Instance.objects.get())))

    assert "The whole process is paused, by olga" in text
    assert "the warehouse burns" in text


@pytest.mark.stock_theme
def test_a_strict_content_security_policy_finds_nothing_to_forbid(
    admin_client: Client, time: Time
) -> None:
    text = admin_client.get(page_url(failed_order(time))).text

    page = text[text.index('class="pm-instance"') :]
    assert " style=" not in page
    assert "<style" not in text
    for address in re.findall(r'(?:href|src)="([^"]*)"', text):
        assert re.match(r"[/?#]", address), address
    for script in re.findall(r"<script[^>]*>", text):
        assert "src=" in script or 'type="application/json"' in script
