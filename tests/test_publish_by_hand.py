"""An event that somebody sends by hand: from a form made of its schema, to the processes that hear it."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from urllib.parse import urlencode
from uuid import UUID, uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from pydantic import BaseModel

from pm_celery import ProcessManager, event, handle
from pm_celery.exceptions import Refused
from pm_celery.models import InboxMessage, Instance, Intervention
from pm_celery.operations.publishing import publish_by_hand
from tests.driving import drain
from tests.test_admin import REASON, everything, staff, told

pytestmark = pytest.mark.django_db(transaction=True)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Line(BaseModel):
    sku: str
    quantity: int


class Address(BaseModel):
    street: str
    city: str = "Berlin"


@pytest.fixture
def rich() -> type:
    """An event of every sort of field, and a process that keeps them."""

    @event(name="rich.Ordered")
    class Ordered(BaseModel):
        order_id: UUID
        total: Decimal
        count: int
        weight: float | None = None
        on: date
        at: datetime | None = None
        express: bool
        gift: bool | None = None
        colour: Colour
        size: Literal["S", "L"] | None = None
        address: Address
        billing: Address | None = None
        tags: list[str] = []
        numbers: list[int] = []
        lines: list[Line] = []

    class Rich(ProcessManager):
        total: Decimal = Decimal(0)

        @handle(Ordered, start=True, correlate="order_id")
        def ordered(self, event: Ordered) -> None:
            self.total = event.total

    return Ordered


FILLED = {
    "payload-order_id": "7a0bd3a5-6f9a-4b0f-8f6b-0f2f6f0f7a11",
    "payload-total": "12.50",
    "payload-count": "3",
    "payload-on": "2026-01-31",
    "payload-at": "2026-01-31T12:00:00Z",
    "payload-express": "on",
    "payload-gift": "false",
    "payload-colour": '"blue"',
    "payload-size": '"L"',
    "payload-address-street": "Elm 1",
    "payload-billing": '{"street": "Oak 2"}',
    "payload-tags": "new\n1\n",
    "payload-numbers": "1\n2",
    "payload-lines": '[{"sku": "a", "quantity": 1}]',
    "reason": REASON,
}


def page(name: str, extra: str = "") -> str:
    return reverse("admin:pm_celery_inboxmessage_publish") + f"?event={name}{extra}"


def test_every_sort_of_field_is_asked_for_and_arrives(rich: Any, admin_client: Client) -> None:
    asked = admin_client.get(page("rich.Ordered")).text
    assert all(f'name="{name}"' in asked for name in FILLED)

    answer = admin_client.post(page("rich.Ordered"), FILLED)
    drain()

    assert answer.status_code == 302, answer.context["form"].errors
    stored = InboxMessage.objects.get()
    found = rich.model_validate_json(stored.payload)
    assert (found.total, found.count, found.express, found.gift) == (
        Decimal("12.50"),
        3,
        True,
        False,
    )
    assert (found.colour, found.size, found.weight) == (Colour.BLUE, "L", None)
    assert (found.address, found.billing) == (
        Address(street="Elm 1"),
        Address(street="Oak 2"),
    )
    assert (found.tags, found.numbers) == (["new", "1"], [1, 2])
    assert found.lines == [Line(sku="a", quantity=1)]
    assert Instance.objects.get().key == FILLED["payload-order_id"]
    ((level, text),) = told(answer)
    assert level == "success"
    assert "into 1 inbox: tests.Rich 7a0bd3a5" in text
    done = Intervention.objects.get()
    assert (done.verb, done.by, done.reason) == ("publish event", "admin", REASON)
    assert LogEntry.objects.get().change_message == f"Published by hand. Reason: {REASON}"


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("payload-order_id", "12", "valid UUID"),
        ("payload-total", "much", "valid decimal"),
        ("payload-count", "1.5", "valid integer"),
        ("payload-on", "yesterday", "valid date"),
        ("payload-colour", '"green"', "Select a valid choice"),
        ("payload-address-street", "", "This field is required."),
        ("payload-lines", "[{", "no JSON"),
        ("payload-lines", '[{"sku": "a"}]', "0.quantity: Field required"),
        ("reason", " ", "This field is required."),
    ],
)
def test_an_error_is_told_at_its_field_and_nothing_is_sent(
    rich: Any, admin_client: Client, field: str, value: str, says: str
) -> None:
    answer = admin_client.post(page("rich.Ordered"), {**FILLED, field: value})

    assert answer.status_code == 200
    errors = answer.context["form"].errors
    assert list(errors) == [field]
    assert says in errors[field].as_text()
    assert not InboxMessage.objects.exists()
    assert not Intervention.objects.exists()


def test_all_errors_are_told_at_once(rich: Any, admin_client: Client) -> None:
    """Also those of a field that is right for the form, beside one that is empty."""
    few = {"payload-order_id": "12", "payload-express": "on", "payload-colour": '"red"'}

    errors = admin_client.post(page("rich.Ordered"), few).context["form"].errors

    required = {f"payload-{name}" for name in ("total", "count", "on", "address-street")}
    assert set(errors) == {"payload-order_id", "reason", *required}


def test_the_whole_payload_may_be_written_as_json(admin_client: Client) -> None:
    order_id = str(uuid4())

    answer = admin_client.post(
        page("tests.Placed", "&as_json=1"),
        {"payload": f'{{"order_id": "{order_id}"}}', "event_id": "mine", "reason": REASON},
    )
    drain()

    assert answer.status_code == 302
    assert Instance.objects.get().key == order_id
    assert InboxMessage.objects.filter(message_id="mine", correlation_id="mine").exists()


def test_only_who_may_publish_does_so_and_a_get_never_does() -> None:
    looker = staff("view_inboxmessage", "wake_inboxmessage")
    form = {"payload-order_id": str(uuid4()), "reason": REASON}
    before = everything()

    answers = [looker.get(page("tests.Placed")), looker.post(page("tests.Placed"), form)]

    assert [answer.status_code for answer in answers] == [403, 403]
    assert "publish/" not in looker.get(reverse("admin:pm_celery_inboxmessage_changelist")).text
    publisher = Client()
    user = looker.get(reverse("admin:index")).wsgi_request.user
    user.user_permissions.set([])
    user.user_permissions.add(Permission.objects.get(codename="publish_inboxmessage"))
    publisher.force_login(user)
    assert publisher.get(page("tests.Placed", f"&{urlencode(form)}")).status_code == 200
    assert everything() == before
    assert publisher.post(page("tests.Placed"), form).status_code == 302
    assert InboxMessage.objects.exists()


def test_an_id_that_was_used_and_an_event_that_nobody_hears_are_refused() -> None:
    payload = {"order_id": str(uuid4())}
    published = publish_by_hand("tests.Placed", payload, event_id="once", by="ann", reason=REASON)
    assert [(route.process, route.key) for route in published.routes] == [
        ("tests.Order", payload["order_id"])
    ]

    @event(name="tests.Unheard")
    class Unheard:
        pass

    for name, event_id, says in (
        ("tests.Placed", "once", "used before"),
        ("tests.Unheard", None, "nobody hears it"),
        ("tests.Nothing", None, "knows no event"),
        ("tests.Reserve", None, "knows no event"),
    ):
        with pytest.raises(Refused, match=says):
            publish_by_hand(name, payload if event_id else {}, event_id=event_id)
    with pytest.raises(Refused, match="order_id: Field required"):
        publish_by_hand("tests.Placed", {})
    assert Intervention.objects.count() == 1


@pytest.mark.parametrize("field", ["payload-lines", "payload-count", "payload-numbers"])
def test_json_that_is_nested_too_deeply_is_told_at_its_field(
    rich: Any, admin_client: Client, field: str
) -> None:
    answer = admin_client.post(page("rich.Ordered"), {**FILLED, field: "[" * 100_000})

    assert answer.status_code == 200
    assert list(answer.context["form"].errors) == [field]
