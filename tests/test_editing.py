"""Changing a dead letter's payload: off by default, validated before anything changes, and no way to see
what is hidden.

Breaks that turned these red: ``•••`` taken wherever it stands; list items in any order; the key not compared.
"""

from __future__ import annotations

import json
from typing import Annotated, Any
from uuid import uuid4

import pytest

from pm_celery import (
    ProcessManager,
    Retry,
    Sensitive,
    command,
    command_handler,
    event,
    handle,
    on_timer,
)
from pm_celery import publish as publish_event
from pm_celery.exceptions import Refused
from pm_celery.models import DeadLetter, InboxMessage, Instance, Intervention, OutboxCommand
from pm_celery.operations import dead_letters, editing
from tests.driving import Time, drain

pytestmark = pytest.mark.django_db(transaction=True)

IBAN = "DE89370400440532013000"
seen: list[Any] = []


@pytest.fixture(autouse=True)
def game(settings: Any) -> None:
    """Accounts that can be opened with an amount above 0 only."""
    settings.PM_CELERY = {"EDIT_PAYLOADS": True}
    seen.clear()

    @event
    class Opened:
        account: str
        amount: int
        iban: Annotated[str, Sensitive] = ""
        owners: list[dict[str, str]] = ()  # type: ignore[assignment]

    @command
    class Announce:
        account: str
        amount: int

    class Account(ProcessManager):
        @handle(Opened, start=True, correlate="account")
        def opened(self, event: Opened) -> None:
            seen.append(event)
            if event.amount <= 0:
                raise KeyError("amount")
            self.send(Announce(account=event.account, amount=event.amount - 1))
            self.set_timer("call", "1h", payload={"tries": 0})

        @on_timer("call")
        def call(self, payload: dict[str, int]) -> None:
            seen.append(payload)
            if not payload["tries"]:
                raise TypeError("tries")

        class Meta:
            retry = Retry("fixed", delay="1s", max_retries=0, jitter=False)

    @command_handler(Announce, retry=Retry("fixed", delay="1s", max_retries=0, jitter=False))
    def announce(command: Announce) -> None:
        seen.append(command)
        if command.amount <= 0:
            raise KeyError("amount")

    globals().update(Opened=Opened, Announce=Announce)


def dead(**values: Any) -> DeadLetter:
    account = uuid4().hex
    publish_event(globals()["Opened"](**{"account": account, "amount": 0, **values}))
    drain()
    return DeadLetter.objects.get(key=account, status="open")


def payload_of(letter: DeadLetter, **changed: Any) -> str:
    shown = json.loads(editing.editable(letter.pk).shown)
    return json.dumps({**shown, **changed})


def refused(letter: DeadLetter, payload: str, words: str) -> str:
    """That it is refused with these words and changes nothing."""
    before = (DeadLetter.objects.values(), InboxMessage.objects.values(), Instance.objects.values())
    rows = [list(table.order_by("pk")) for table in before]
    with pytest.raises(Refused, match=words) as told:
        editing.edit_and_retry(letter.pk, payload, by="ann")
    assert [list(table.order_by("pk").all()) for table in before] == rows
    return str(told.value)


def test_it_is_off_unless_the_settings_say_so(settings: Any) -> None:
    letter = dead()
    settings.PM_CELERY = {}

    refused(letter, payload_of(letter, amount=5), "EDIT_PAYLOADS")


def test_a_changed_event_is_handled_and_the_original_kept() -> None:
    letter = dead(iban=IBAN)
    raw = InboxMessage.objects.get(pk=letter.message_id).payload

    editing.edit_and_retry(letter.pk, payload_of(letter, amount=5), by="ann", reason="typo")
    drain()

    assert (seen[1].amount, seen[1].iban) == (5, IBAN)
    letter.refresh_from_db()
    assert (letter.status, letter.settled_by, letter.original_payload) == ("retried", "ann", raw)
    assert Instance.objects.get().status == "started"
    found = Intervention.objects.order_by("pk").values_list("verb", "by", "reason")
    assert list(found) == [
        ("edit dead letter", "ann", "typo"),
        ("retry dead letter", "ann", "typo"),
    ]
    assert IBAN not in json.dumps(list(Intervention.objects.values()), default=str)
    original = editing.editable(letter.pk).original
    assert json.loads(original)["amount"] == 0
    assert IBAN not in original


def test_a_hidden_value_stays_where_it_is_or_is_written_anew() -> None:
    letter = dead(iban=IBAN)

    text = refused(letter, payload_of(letter, account="•••"), "nothing was hidden there")
    assert IBAN not in text
    editing.edit_and_retry(letter.pk, payload_of(letter, amount=5, iban="AT61"))
    drain()

    assert seen[1].iban == "AT61"


def test_hidden_values_in_lists_are_never_given_to_another_item(settings: Any) -> None:
    settings.PM_CELERY = {"EDIT_PAYLOADS": True, "REDACT": ["*.pin", "pin"]}
    owners = [{"name": "Ann", "pin": "1111"}, {"name": "Bob", "pin": "2222"}]
    letter = dead(owners=owners)
    ann, bob = json.loads(editing.editable(letter.pk).shown)["owners"]
    assert ann == {"name": "Ann", "pin": "•••"}

    refused(letter, payload_of(letter, owners=[bob, ann]), "in their order")
    refused(letter, payload_of(letter, owners=[bob]), "as many items")
    refused(letter, payload_of(letter, owners=[{"name": "•••", "pin": "1"}, bob]), "nothing was")
    editing.edit_and_retry(
        letter.pk, payload_of(letter, amount=5, owners=[{**ann, "name": "Anna"}, bob])
    )
    drain()

    assert seen[1].owners == [{"name": "Anna", "pin": "1111"}, owners[1]]


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"amount": NaN}', "no JSON"),
        ("[]", "no longer validates"),
        ('{"account": "a", "amount": "many"}', "no longer validates"),
        ('{"account": "•••", "amount": 1}', "nothing was hidden"),
        ('{"account": "another", "amount": 1}', "another process instance"),
    ],
)
def test_what_is_not_declared_is_refused_before_anything_changes(payload: str, words: str) -> None:
    text = refused(dead(iban=IBAN), payload, words)

    assert IBAN not in text


def test_a_changed_command_is_run_with_what_was_written(time: Time) -> None:
    letter = dead(amount=1)
    assert letter.command_id

    refused(letter, payload_of(letter, amount=None), "no longer validates")
    editing.edit_and_retry(letter.pk, payload_of(letter, amount=7), by="ann")
    drain()

    assert OutboxCommand.objects.get().status == "done"
    assert seen[-1].amount == 7


def test_a_timer_s_payload_is_what_its_handler_takes(time: Time) -> None:
    publish_event(globals()["Opened"](account="a", amount=5))
    drain()
    time.elapse("2h")
    letter = DeadLetter.objects.get()

    refused(letter, '{"tries": "many"}', "int")
    editing.edit_and_retry(letter.pk, '{"tries": 3}')
    drain()

    assert seen[-1] == {"tries": 3}
    assert Instance.objects.get().status == "started"


def test_a_letter_is_edited_once() -> None:
    letter = dead()
    payload = payload_of(letter, amount=5)
    dead_letters.discard(letter.pk)

    refused(letter, payload, "already settled")


def test_a_note_is_written_on_any_letter_and_what_it_said_before_is_kept() -> None:
    letter = dead()
    dead_letters.annotate(letter.pk, "ask the bank", by="ann")
    dead_letters.discard(letter.pk)
    dead_letters.annotate(letter.pk, "asked", by="bob")

    letter.refresh_from_db()
    assert letter.note == "asked"
    entry = Intervention.objects.order_by("-pk")[0]
    assert (entry.by, json.loads(entry.details)["before"]) == ("bob", "ask the bank")
    for note in ("\x00", "x" * 10_001):
        with pytest.raises(Refused, match="note"):
            dead_letters.annotate(letter.pk, note)
