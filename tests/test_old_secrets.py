"""A sensitive field that a release gave another name is not shown in the rows of the releases before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import pytest
from django.test import Client

from pm_celery import (
    ProcessManager,
    Retry,
    Sensitive,
    command,
    command_handler,
    event,
    handle,
    publish,
    upcast,
)
from pm_celery.export import exported
from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand
from pm_celery.operations.editing import edit_and_retry, editable
from pm_celery.operations.states import read_state
from pm_celery.operations.unreadable import unreadable
from pm_celery.redaction import HIDDEN, is_hidden, payload_shown, state_shown
from pm_celery.registry import isolated_registries
from tests.driving import drain
from tests.test_redaction import logged, pages
from tests.test_shell import pm

pytestmark = pytest.mark.django_db(transaction=True)

CARD = "4012 8888 8888 1881"


@contextmanager
def release(number: int, *, quotes: bool = False) -> Iterator[Any]:
    """The first one calls it card, the second one card_number. quotes: its upcast and upgrade raise it."""

    def renamed(data: dict[str, Any], *_: Any) -> dict[str, Any]:
        if quotes:
            raise ValueError(f"{data['card']!r} cannot be read")
        return {**data, "card_number": data.pop("card")}

    with isolated_registries():

        class Paid:
            account: str

        class Refund:
            account: str

        for cls in (Paid, Refund):
            name = "card" if number == 1 else "card_number"
            cls.__annotations__[name] = str if number == 1 else Annotated[str, Sensitive]
        paid = event(name="old.Paid", version=number)(Paid)
        refund = command(name="old.Refund", version=number)(Refund)
        if number > 1:
            upcast(paid, from_version=1)(renamed)
            upcast(refund, from_version=1)(renamed)

        @event(name="old.Asked")
        class Asked:
            account: str

        class Account(ProcessManager):
            __annotations__ = {
                "card" if number == 1 else "card_number": str
                if number == 1
                else Paid.__annotations__["card_number"]
            }
            locals()["card" if number == 1 else "card_number"] = ""

            class Meta:
                name = "old.account"
                correlate = "account"
                retry = Retry("none")
                state_version = number

            upgrade_state = staticmethod(renamed)

            @handle(paid, start=True)
            def was_paid(self, event: Any) -> None:
                for name in self.__dataclass_fields__:
                    setattr(self, name, getattr(event, name))
                self.send(refund(**vars(event)), delay="1h")

            @handle(Asked)
            def asked(self, event: Any) -> None: ...

        @command_handler(refund)
        def run_refund(command: Any) -> None: ...

        yield paid, Asked


def stored_by_the_first_release() -> None:
    with release(1) as (paid, _asked):
        publish(paid(account="a-1", card=CARD))
        drain()
        publish(paid(account="a-2", card=CARD))


def shown(client: Client) -> dict[str, str]:
    found = pages(client)
    for table in ("inbox", "outbox", "letters"):
        found[f"pm list {table}"] = pm("list", table, "--json").out
    found["pm show"] = pm("show", "old.account", "a-1", "--json").out
    found["pm check"] = pm("check", "--json").out
    found["export"] = json.dumps(list(exported()), ensure_ascii=False)
    return found


def test_rows_of_the_release_before_do_not_show_it(admin_client: Client) -> None:
    stored_by_the_first_release()

    with release(2):
        found = shown(admin_client)

    assert CARD in InboxMessage.objects.get(key="a-2").payload
    assert [place for place, text in found.items() if CARD in text] == []
    assert "a-2" in found["pm list inbox"]
    with release(2):
        raw = json.dumps(list(exported(raw=True)))
    assert CARD in raw


def test_an_upcast_and_an_upgrade_that_quote_it_are_told_without_it(
    admin_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    stored_by_the_first_release()

    with release(2, quotes=True) as (_paid, asked):
        publish(asked(account="a-1"))
        OutboxCommand.objects.update(status="dispatched", dispatches=1)
        told = [row.text for row in unreadable()]
        drain()
        found = shown(admin_client)
        log = logged(caplog)

    letters = {letter.exception: letter for letter in DeadLetter.objects.all()}
    assert letters.keys() == {"UndecodablePayload", "UndecodableState"}
    for letter in letters.values():
        assert f"raised ValueError: '{HIDDEN}' cannot be read" in letter.error
        assert CARD not in letter.traceback + letter.payload
    assert len(told) > 2
    assert [text for text in told if CARD in text] == []
    assert [place for place, text in found.items() if CARD in text] == []
    assert CARD not in log


def test_what_an_operator_has_edited_is_not_shown_by_its_old_name_either(
    admin_client: Client, settings: Any
) -> None:
    settings.PM_CELERY = {"EDIT_PAYLOADS": True}
    stored_by_the_first_release()

    with release(2, quotes=True):
        drain()
        letter = DeadLetter.objects.get(exception="UndecodablePayload")
    with release(2):
        edit_and_retry(letter.pk, editable(letter.pk).shown)
        drain()
        left = editable(letter.pk)
        found = shown(admin_client)

    letter.refresh_from_db()
    assert (letter.status, CARD in letter.original_payload) == ("retried", True)
    assert InboxMessage.objects.get(key="a-2").version == 2
    assert json.loads(left.original) == {"account": "a-2", "card": HIDDEN}
    assert [place for place, text in found.items() if CARD in text] == []


def test_what_the_present_version_holds_is_shown_whatever_its_keys_are() -> None:
    @event(name="old.Tagged", version=2)
    class Tagged:
        tags: dict[str, str]
        pin: Annotated[str, Sensitive]

    text = '{"tags": {"colour": "red"}, "pin": "1"}'

    assert json.loads(payload_shown("old.Tagged", "", text, version=2))["tags"] == {"colour": "red"}
    assert json.loads(payload_shown("old.Tagged", "", text, version=1))["tags"] == {
        "colour": HIDDEN
    }
    # Of what nobody knows the version of, the worst is assumed.
    assert json.loads(payload_shown("old.Tagged", "", text))["tags"] == {"colour": HIDDEN}


def test_what_a_newer_release_has_written_is_not_shown_by_a_name_that_this_one_does_not_know() -> (
    None
):
    """In a web process of the release before, say."""

    @event(name="old.Ahead")
    class Ahead:
        account: str
        card: Annotated[str, Sensitive]

    text = json.dumps({"account": "a-1", "card_number": CARD})

    shown = payload_shown("old.Ahead", "", text, version=2)
    assert json.loads(shown) == {"account": "a-1", "card_number": HIDDEN}


def test_a_timer_s_payload_is_of_no_version_and_hidden_by_name_alone() -> None:
    with release(2):
        text = json.dumps({"order": "o-1", "card_number": CARD})

        shown = payload_shown("later", "old.account", text, kind="timer")
        assert json.loads(shown) == {"order": "o-1", "card_number": HIDDEN}


def test_where_nothing_is_sensitive_an_older_version_is_shown_as_it_is() -> None:
    @event(name="old.Plain", version=2)
    class Plain:
        total: str

    text = '{"cents": 990}'

    assert payload_shown("old.Plain", "", text, version=1) == text


def test_a_state_by_its_old_name_is_hidden_and_cannot_be_searched_by() -> None:
    with release(2):
        text = json.dumps({"card": CARD})

        assert json.loads(state_shown("old.account", text, 1)) == {"card": HIDDEN}
        assert read_state("old.account", text, 1).data == {"card": HIDDEN}
        assert is_hidden("old.account", "card")
        assert not is_hidden("old.Asked", "card")


def test_what_no_field_holds_any_more_is_hidden_by_the_settings(settings: Any) -> None:
    settings.PM_CELERY = {"REDACT": ["old.Dropped.card"]}

    @event(name="old.Dropped", version=2)
    class Dropped:
        account: str

    text = json.dumps({"account": "a-1", "card": CARD})

    assert CARD not in payload_shown("old.Dropped", "", text, version=1)
    assert Instance.objects.count() == 0
