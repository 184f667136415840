"""Sensitive fields: handlers get them; pages, log lines and dead letters do not show them.

Breaks that turned these red: the letter stores ``row.payload``; ``described`` without ``hide``; ``pretty`` of
the column itself in the admin; the exception itself in a log record; ``raise error`` of a command that died;
a pydantic error told with its inputs.
"""

# Annotations are evaluated where they stand: they name classes and marks of functions.
import json
import logging
import traceback
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretBytes, SecretStr, field_validator

from pm_celery import (
    Failure,
    ProcessManager,
    Retry,
    Sensitive,
    command,
    command_handler,
    event,
    execution,
    handle,
    on_command_failed,
    on_failure,
    on_timer,
    policy,
    publish,
)
from pm_celery.exceptions import DeclarationError, InvalidMessage
from pm_celery.models import (
    DeadLetter,
    InboxMessage,
    Instance,
    OutboxCommand,
    Timer,
    Transition,
)
from pm_celery.operations import dead_letters
from pm_celery.publishing import publish_named
from pm_celery.redaction import HIDDEN, hider, payload_shown
from tests.driving import Time, advance_all, drain

pytestmark = pytest.mark.django_db(transaction=True)

IBAN = "DE89-3704 'ö' 0044\t0532"
CARD = "4111 1111 1111 1111"
# Longer than the microseconds that every line of a log has.
CODE = "7375309"

# The same fields, hidden by the mark where they are declared, or by the setting.
MARKED = {"mark": Sensitive, "setting": "nothing"}
PATTERNS = ["*.iban", "secret.*.number", "code"]


class Bank:
    """An account process whose every handler quotes what must not be shown."""

    def __init__(self, how: str) -> None:
        mark = MARKED[how]
        self.seen: list[Any] = []
        # By account, the handlers that raise there.
        self.quotes: dict[str, str] = {}

        @dataclass
        class Card:
            number: Annotated[str, mark]
            code: Annotated[int, mark]

        @event(name="secret.Opened")
        class Opened:
            account: str
            iban: Annotated[str, mark]
            cards: list[Card]

        @command(name="secret.Charge")
        class Charge:
            account: str
            iban: Annotated[str, mark]
            cards: list[Card]

        @event(name="secret.Asked")
        class Asked:
            account: str
            by: str = "x"

        bank = self

        class Account(ProcessManager):
            iban: Annotated[str, mark] = ""
            cards: list[Card] = field(default_factory=list)

            class Meta:
                name = "secret.account"
                correlate = "account"
                retry = Retry("fixed", delay="1m", max_retries=1, jitter=False)

            @handle(Opened, start=True)
            def opened(self, event: Any) -> None:
                bank.seen.append(event)
                bank.quote(self.key, "opened", event.iban, event.cards)
                self.iban, self.cards = event.iban, event.cards
                self.send(Charge(account=event.account, iban=event.iban, cards=event.cards))
                self.set_timer(
                    "later", "1h", payload={"iban": event.iban, "cards": [{"number": CARD}]}
                )

            @handle(Asked)
            def asked(self, event: Any) -> None:
                # What it quotes is in the state alone.
                bank.seen.append(self.iban)
                bank.quote(self.key, "asked", self.iban, self)

            @on_timer("later")
            def later(self, payload: Any) -> None:
                bank.seen.append(payload)
                bank.quote(self.key, "later", payload["iban"], self.cards)

            @on_command_failed(Charge)
            def not_charged(self, failure: Failure) -> None:
                bank.seen.append(failure.message)
                bank.quote(self.key, "not_charged", failure.message.iban, failure)

            @on_failure
            def failed(self, failure: Failure) -> None:
                bank.seen.append(failure.message)
                bank.quote(self.key, "failed", self.iban or failure.message.iban, failure.error)

        self.Card, self.Opened, self.Charge, self.Asked = Card, Opened, Charge, Asked
        self.Account = Account

        @policy(Asked)
        def notify(event: Any, reaction: Any) -> None: ...

        @command_handler(Charge, retry=Retry("none"))
        def charge(command: Any) -> None:
            bank.seen.append(command)
            bank.quote(command.account, "charge", command.iban, command.cards)

    def quote(self, account: str, place: str, *values: object) -> None:
        if place not in self.quotes.get(account, "").split():
            return
        try:
            raise KeyError(values)
        except KeyError as error:
            raise ValueError(
                f"cannot use {values[0]} {values!r} {json.dumps(str(values[0]))} {CODE}"
            ) from error

    def open(self, account: str = "a", quotes: str = "") -> None:
        self.quotes[account] = quotes
        cards = [self.Card(number=CARD, code=int(CODE))]
        publish(self.Opened(account=account, iban=IBAN, cards=cards))


@pytest.fixture(params=MARKED)
def bank(request: pytest.FixtureRequest, settings: Any) -> Bank:
    if request.param == "setting":
        settings.PM_CELERY = {"REDACT": PATTERNS}
    return Bank(request.param)


def secrets_in(text: str) -> list[str]:
    forms = [
        IBAN,
        repr(IBAN)[1:-1],
        json.dumps(IBAN)[1:-1],
        CARD,
        f" {CODE}",
        f"={CODE}",
        f": {CODE}",
    ]
    return [form for form in forms if form in text]


def pages(client: Client) -> dict[str, str]:
    """Every page of every row, and every list, as a person reads them."""
    found = {}
    for model in (DeadLetter, InboxMessage, Instance, OutboxCommand, Timer, Transition):
        name = f"admin:pm_celery_{model._meta.model_name}"
        urls = [reverse(f"{name}_changelist")]
        urls += [reverse(f"{name}_change", args=[row.pk]) for row in model._default_manager.all()]
        assert admin.site.is_registered(model)
        for url in urls:
            answer = client.get(url)
            assert answer.status_code == 200
            found[url] = answer.text.replace("&#x27;", "'").replace("&quot;", '"')
    return found


def logged(caplog: pytest.LogCaptureFixture) -> str:
    lines = [caplog.text]
    for record in caplog.records:
        lines += [str(value) for name, value in vars(record).items() if name != "msg"]
        lines += [repr(value) for name, value in vars(record).items() if name.startswith("pm_")]
    return "\n".join(lines)


def test_what_is_sensitive_is_seen_by_handlers_and_shown_nowhere(
    bank: Bank, time: Time, admin_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Eight accounts, of which each but the first fails somewhere else and quotes there what it knows."""
    caplog.set_level(logging.DEBUG, "pm_celery")
    everywhere = ["", "opened", "asked", "later", "charge", "charge not_charged"]
    everywhere += ["opened failed", "asked failed"]

    for number, quotes in enumerate(everywhere):
        bank.open(f"account-{number}", quotes)
    drain()
    for number in range(len(everywhere)):
        publish(bank.Asked(account=f"account-{number}"))
    drain()
    time.elapse("2h")
    time.elapse("2m")

    got = bank.seen[0]
    assert (got.iban, got.cards[0].number, got.cards[0].code) == (IBAN, CARD, int(CODE))
    letters = list(DeadLetter.objects.values())
    assert {letter["key"] for letter in letters} == {f"account-{n}" for n in range(1, 8)}
    for letter in letters:
        assert HIDDEN in letter["error"]
        assert HIDDEN in letter["traceback"]
        assert secrets_in(str(list(letter.values()))) == []
        assert secrets_in("\n".join(map(str, letter.values()))) == []
    for url, text in pages(admin_client).items():
        assert secrets_in(text) == [], url
    assert secrets_in(logged(caplog)) == []


def test_rows_keep_what_handlers_need(bank: Bank) -> None:
    bank.open()
    drain()

    assert json.loads(InboxMessage.objects.get().payload)["iban"] == IBAN
    assert json.loads(Instance.objects.get().state)["iban"] == IBAN
    assert json.loads(OutboxCommand.objects.get().payload)["iban"] == IBAN


def test_a_letter_that_is_retried_runs_with_the_values(bank: Bank) -> None:
    bank.open("a", "opened")
    drain()
    with Time() as time:
        time.elapse("2m")
        bank.quotes = {}

        dead_letters.retry(DeadLetter.objects.get().pk)
        drain()

    assert json.loads(Instance.objects.get().state)["iban"] == IBAN
    assert Instance.objects.get().status == "started"


def test_a_failure_handler_gets_the_message_whole(bank: Bank) -> None:
    bank.open("a", "charge")
    drain()

    failed = [thing for thing in bank.seen if isinstance(thing, bank.Charge)]
    assert len(failed) == 2
    assert failed[0] == failed[1]
    assert failed[1].iban == IBAN


def test_celery_is_told_of_a_dead_command_without_its_values(bank: Bank) -> None:
    """Celery logs what a task raises, with the traceback of all its causes."""
    bank.open("a", "charge")
    advance_all()

    with pytest.raises(Exception, match="ValueError") as raised:
        execution.run(str(OutboxCommand.objects.get().command_id))

    assert secrets_in("".join(traceback.format_exception(raised.value))) == []


def test_a_process_s_repr_hides_what_is_marked() -> None:
    bank = Bank("mark")

    assert repr(bank.Account(iban=IBAN)) == f"Account(iban={HIDDEN}, cards=[])"


# -- pydantic's words hold what it found ------------------------------------------------------------------


@pytest.mark.parametrize("how", MARKED)
def test_publishing_what_does_not_validate_is_told_without_the_values(
    how: str, settings: Any
) -> None:
    settings.PM_CELERY = {"REDACT": PATTERNS if how == "setting" else []}
    mark = MARKED[how]

    class Holder(BaseModel):
        iban: Annotated[str, mark]

        @field_validator("iban")
        @classmethod
        def valid(cls, iban: str) -> str:
            raise ValueError(f"no bank has {iban}")

    @event(name="secret.Wired")
    class Wired:
        account: int
        holder: Holder
        iban: Annotated[str, mark]

    holder = Holder.model_construct(iban=IBAN)
    with pytest.raises(InvalidMessage, match="no bank has •••") as raised:
        publish(Wired(account=1, holder=holder, iban=IBAN))
    assert "holder.iban" in str(raised.value)
    assert secrets_in("".join(traceback.format_exception(raised.value))) == []

    with pytest.raises(InvalidMessage, match="input_value=•••") as raised:
        publish(Wired(account=IBAN, holder=holder, iban=IBAN))  # type: ignore[arg-type]
    assert secrets_in("".join(traceback.format_exception(raised.value))) == []


def test_a_payload_that_does_not_validate_is_told_without_the_values(
    bank: Bank, admin_client: Client
) -> None:
    payload = {"account": "a", "iban": [IBAN], "cards": [{"number": CARD}]}
    publish_named("secret.Opened", payload, "e-1")
    drain()

    letter = DeadLetter.objects.get()
    assert "iban" in letter.error
    assert secrets_in(str(DeadLetter.objects.values().get())) == []
    assert secrets_in("".join(pages(admin_client).values())) == []


def test_a_stored_state_that_does_not_validate_is_told_without_the_values(bank: Bank) -> None:
    bank.open()
    drain()
    state = {"iban": [IBAN], "cards": [{"number": CARD, "code": CODE}]}
    Instance.objects.update(state=json.dumps(state))
    publish(bank.Asked(account="a"))
    with Time() as time:
        time.elapse("2m")

    (letter,) = DeadLetter.objects.values()
    assert letter["exception"] == "UndecodableState"
    assert secrets_in(str(letter)) == []


def test_a_payload_that_is_no_json_is_not_shown_at_all(bank: Bank) -> None:
    assert payload_shown("secret.Opened", "", '{"iban": "DE') == HIDDEN
    assert hider("secret.Opened", "", '{"iban": "DE')("quotes DE") == HIDDEN


# -- which values, and where -----------------------------------------------------------------------------


def test_only_what_is_sensitive_is_hidden(settings: Any) -> None:
    settings.PM_CELERY = {"REDACT": ["password", "shop.Paid.card", "audit.*.ip*"]}
    payload = (
        '{"card": "4", "ip_address": "::1", "user": {"password": "x", "name": "Žofie"}, "n": null}'
    )

    shown = [
        json.loads(payload_shown(name, "", payload))
        for name in ("shop.Paid", "shop.Sold", "audit.Seen")
    ]

    assert [row["card"] for row in shown] == [HIDDEN, "4", "4"]
    assert [row["ip_address"] for row in shown] == ["::1", "::1", HIDDEN]
    assert [row["user"] for row in shown] == [{"password": HIDDEN, "name": "Žofie"}] * 3


def test_what_holds_nothing_sensitive_is_shown_byte_for_byte(settings: Any) -> None:
    settings.PM_CELERY = {"REDACT": ["password"]}

    assert payload_shown("a.B", "", '{"a":1.10,  "b":[]}') == '{"a":1.10,  "b":[]}'


def test_a_short_value_is_hidden_where_it_stands_alone(settings: Any) -> None:
    settings.PM_CELERY = {"REDACT": ["pin"]}

    hide = hider("a.B", "", '{"pin": 12}')

    assert (
        hide("line 312: pin 12, '12', 2012, 12.")
        == f"line 312: pin {HIDDEN}, '{HIDDEN}', 2012, {HIDDEN}."
    )


def test_a_timer_s_payload_may_be_hidden_as_a_whole(settings: Any) -> None:
    settings.PM_CELERY = {"REDACT": ["secret.account.later"]}

    assert payload_shown("later", "secret.account", '"4111"', kind="timer") == HIDDEN
    assert payload_shown("sooner", "secret.account", '"4111"', kind="timer") == '"4111"'
    assert hider("later", "secret.account", '"4111"', kind="timer")("no 4111") == f"no {HIDDEN}"


@given(value=st.text(min_size=1, max_size=80), around=st.text(max_size=20))
def test_whatever_a_value_is_no_form_of_it_stays_in_a_text(value: str, around: str) -> None:
    bank_payload = json.dumps({"marked": value})

    @event(name="secret.Any")
    class Anything:
        marked: Annotated[str, Sensitive]

    hide = hider("secret.Any", "", bank_payload)
    for form in (value, repr(value)[1:-1], json.dumps(value)[1:-1]):
        if form.strip() and form not in HIDDEN and form not in around:
            left = hide(f"{around} {form} {around}")
            assert form not in left or len(form) < 4


# -- pydantic's own secrets ------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [SecretStr, SecretBytes, SecretStr | None, list[SecretStr]])
def test_a_secret_that_would_be_stored_as_asterisks_is_refused(secret: Any) -> None:
    """pydantic writes a SecretStr as asterisks: the handler would get those."""

    @event(name="secret.Lost")
    class Lost:
        password: secret

    with pytest.raises(DeclarationError, match=r"Annotated\[SecretStr, Sensitive\]"):
        publish(Lost(password=SecretStr("hunter2")))


def test_a_marked_secret_comes_back_and_is_hidden() -> None:
    got = []

    @event(name="secret.Kept")
    class Kept:
        account: str
        password: Annotated[SecretStr, Sensitive]
        other: Annotated[SecretStr, Sensitive] | None = None

    class Vault(ProcessManager):
        password: Annotated[SecretStr, Sensitive] = SecretStr("")

        @handle(Kept, start=True, correlate="account")
        def kept(self, event: Kept) -> None:
            got.append(event)
            self.password = event.password

    publish(Kept(account="a", password=SecretStr("hunter2")))
    drain()

    assert got[0].password.get_secret_value() == "hunter2"
    assert json.loads(Instance.objects.get().state) == {"password": "hunter2"}
    payload = InboxMessage.objects.get().payload
    assert json.loads(payload_shown("secret.Kept", "", payload))["password"] == HIDDEN
