"""Errors that cannot be printed, are huge, or hold what no database stores: the message still ends as a dead
letter, its partition goes on, and whoever published is not to blame.

Breaks that turned these red: ``str(error)`` in place of ``wording.text_of``; no ``printable`` around what
is stored as a reason; ``one_line`` removed from the log; the bound removed from ``_indented``.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import signature
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from pm_celery import (
    Failure,
    ProcessManager,
    Retry,
    command,
    command_handler,
    event,
    handle,
    on_command_failed,
    on_failure,
    policy,
    publish,
)
from pm_celery.admin.read_only import pretty
from pm_celery.decisions import Turn
from pm_celery.exceptions import InvalidMessage, Misuse
from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand
from pm_celery.publishing import publish_named
from tests.driving import drain

pytestmark = pytest.mark.django_db(transaction=True)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@event(name="hostile.Asked")
class Asked:
    key: str


@command(name="hostile.Answer")
class Answer:
    key: str


def test_a_command_whose_error_cannot_be_printed_becomes_a_dead_letter() -> None:
    """It was run again for ever, and its error was told nowhere."""

    class Question(ProcessManager):
        @handle(Asked, start=True, correlate="key")
        def asked(self, event: Asked) -> None:
            self.send(Answer(key=event.key))

    @command_handler(Answer, retry=Retry("none"))
    def answer(command: Answer) -> None:
        raise Unprintable

    publish(Asked(key="k"))
    drain()

    assert DeadLetter.objects.get().exception == "Unprintable"
    assert OutboxCommand.objects.get().status == "dead"


@pytest.mark.parametrize("error", [Unprintable(), ValueError("\x00"), ValueError("\ud800")])
def test_a_correlate_s_error_that_no_row_can_hold_does_not_fail_the_publisher(
    error: Exception,
) -> None:
    def unusable(event: Any) -> str:
        raise error

    class Question(ProcessManager):
        @handle(Asked, start=True, correlate=unusable)
        def asked(self, event: Asked) -> None: ...

    publish(Asked(key="k"))

    assert DeadLetter.objects.get().exception == type(error).__name__
    assert InboxMessage.objects.get().status == "dead"


class Huge(Exception):
    def __str__(self) -> str:
        return "x" * 2_000_000


class NoText(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]


def named(name: str) -> Exception:
    made = type("Made", (Exception,), {})
    made.__name__ = name
    made.__qualname__ = name
    return made("of a class with a name")


def cyclic() -> Exception:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    first.__context__, second.__context__ = second, first
    return first


def chained() -> Exception:
    error = ValueError("0")
    for number in range(3000):
        after = ValueError(str(number))
        after.__cause__, error = error, after
    return error


def grouped() -> Exception:
    error: Exception = ValueError("x")
    for _ in range(500):
        error = ExceptionGroup("g", [error])
    return error


def noted() -> Exception:
    error = ValueError("noted")
    error.__notes__ = [Unprintable(), 7, "\x00\ud800"]  # type: ignore[list-item]
    return error


HOSTILE: dict[str, Any] = {
    "unprintable": Unprintable,
    "huge": Huge,
    "no text": NoText,
    "name with HTML": lambda: named("<script>alert(1)</script>" + "n" * 1000),
    "name with lines": lambda: named("a\nERROR b\x1b[31m\u202e"),
    "text": lambda: ValueError(
        "\x00\ud800\u202e\u2066\x1b[31m<script>alert(1)</script>'; DROP TABLE x; --"
    ),
    "cyclic": cyclic,
    "chained": chained,
    "grouped": grouped,
    "noted": noted,
    "recursion": lambda: RecursionError("deep"),
    "unicode": lambda: UnicodeDecodeError("utf8", b"\xff", 0, 1, "\ud800"),
}
PLACES = ("handler", "correlate", "command", "failure", "told", "policy", "ignore", "named")


def declare_question(place: str, errors: dict[str, Exception]) -> None:
    """A process that raises an event's error, found by its key, at one place of the road."""

    def visit(here: str, key: str) -> None:
        if here == place:
            raise errors[key]

    def key_of(event: Any) -> str:
        visit("correlate", event.key)
        return str(event.key)

    class Question(ProcessManager):
        class Meta:
            name = "hostile.question"
            retry = Retry("none")

        @handle(Asked, start=True, correlate=key_of)
        def asked(self, event: Asked) -> Any:
            if place == "ignore":
                return self.ignore(errors[event.key])  # type: ignore[arg-type]
            visit("handler" if place == "handler" else "failure", event.key)
            self.send(Answer(key=event.key))
            return None

        @on_command_failed(Answer)
        def not_answered(self, failure: Failure) -> None:
            visit("told", self.key)

        @on_failure
        def failed(self, failure: Failure) -> None:
            visit("failure", self.key)

    @command_handler(Answer, retry=Retry("none"))
    def answer(command: Answer) -> None:
        visit("told" if place == "told" else "command", command.key)

    @policy(Asked, retry=Retry("none"))
    def answer_at_once(event: Any, reaction: Any) -> None:
        visit("policy", event.key)

    @event(name="hostile.Checked")
    class Checked:
        key: str

        def __post_init__(self) -> None:
            raise errors[self.key]


@pytest.mark.parametrize("place", PLACES)
def test_whatever_is_raised_ends_as_a_letter_that_can_be_read_and_retried(
    place: str, admin_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "pm_celery")
    declare_question(place, {name: make() for name, make in HOSTILE.items()})

    for name in HOSTILE:
        if place == "named":
            publish_named("hostile.Checked", {"key": name}, name)
        else:
            publish(Asked(key=name), event_id=name)
    drain()

    letters = DeadLetter.objects.filter(status="open")
    expected = {"ignore": 2, "told": 2 * len(HOSTILE)}.get(place, len(HOSTILE))
    # What cannot be printed is no reason for declining either.
    assert len(letters) == expected
    assert not InboxMessage.objects.filter(status="pending").exists()
    every_page_opens(admin_client)
    answer = admin_client.post(
        reverse("admin:pm_celery_deadletter_changelist"),
        {"action": "retry", "_selected_action": [row.pk for row in letters]},
        follow=True,
    )
    assert answer.status_code == 200
    assert "<script>alert(1)" not in answer.text
    drain()
    assert not InboxMessage.objects.filter(status="pending").exists()
    for record in caplog.get_records("call"):
        line = record.getMessage()
        assert line.isprintable(), line[:200]
        assert len(line) < 5000


def every_page_opens(client: Client) -> None:
    for model in (DeadLetter, InboxMessage, OutboxCommand, Instance):
        name = f"admin:pm_celery_{model._meta.model_name}"
        assert admin.site.is_registered(model)
        rows = model._default_manager.order_by("-pk")
        # Of the letters all: they show the most of an error.
        rows = rows if model is DeadLetter else rows[:3]
        urls = [reverse(f"{name}_change", args=[row.pk]) for row in rows]
        for url in [reverse(f"{name}_changelist"), *urls]:
            answer = client.get(url)
            assert answer.status_code == 200
            assert "<script>alert(1)" not in answer.text


def test_a_name_from_outside_begins_no_line_of_its_own_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    publish_named("x\nERROR all is lost\x1b[31m\u202e", {}, "e\r\n-1")
    drain()

    lines = [r.getMessage() for r in caplog.records if r.name == "pm_celery"]
    assert any("x\\nERROR all is lost" in line for line in lines)
    assert all(line.isprintable() for line in lines)


# -- nesting ---------------------------------------------------------------------------------------------


@event(name="hostile.Nested")
class Nested:
    key: str
    data: Any = None


def nest(depth: int) -> Any:
    data: Any = 1
    for _ in range(depth):
        data = [data]
    return data


# About where pydantic's, Python's and PostgreSQL's limits are, and far beyond.
DEPTHS = (100, 190, 199, 200, 201, 254, 255, 256, 500, 990, 1000, 1100, 10_000, 500_000)


def test_nesting_is_stored_and_shown_or_refused_with_a_clear_error(admin_client: Client) -> None:
    class Nest(ProcessManager):
        data: Any = None

        class Meta:
            name = "hostile.nest"
            retry = Retry("none")

        @handle(Nested, start=True, correlate="key")
        def nested(self, event: Nested) -> None:
            # One level more than the event has: near the limit it cannot be stored, and the event is dead.
            self.data = [event.data]

    refused, refused_by_name = set(), set()
    for depth in DEPTHS:
        data = nest(depth)
        for name in ("hostile.Nested", "hostile.Unknown"):
            try:
                publish_named(name, {"key": f"n{depth}", "data": data}, f"e-{name}-{depth}")
            except InvalidMessage:
                refused_by_name.add(depth)
        try:
            publish(Nested(key=str(depth), data=data))
        except InvalidMessage:
            refused.add(depth)
    drain()

    assert min(refused) > 190
    assert min(refused_by_name) > 900
    assert (
        not InboxMessage.objects.filter(status="pending").exclude(name="hostile.Unknown").exists()
    )
    every_page_opens(admin_client)


def test_a_stored_row_that_is_nested_too_deeply_is_a_dead_letter_and_is_shown(
    admin_client: Client,
) -> None:
    """As nobody could publish it: by SQL, or by a release with other limits."""

    class Nest(ProcessManager):
        class Meta:
            name = "hostile.nest"
            retry = Retry("none")

        @handle(Nested, start=True, correlate="key")
        def nested(self, event: Nested) -> None: ...

    for depth in DEPTHS:
        payload = '{"key": "k", "data": ' + "[" * depth + "]" * depth + "}"
        event_id = publish(Nested(key=str(depth)))
        InboxMessage.objects.filter(message_id=event_id).update(payload=payload)
    drain()

    statuses = dict(InboxMessage.objects.values_list("key", "status"))
    assert {statuses[str(depth)] for depth in DEPTHS if depth < 200} == {"handled"}
    assert {statuses[str(depth)] for depth in DEPTHS if depth > 201} == {"dead"}
    every_page_opens(admin_client)


def test_a_mebibyte_of_nested_json_is_no_page_of_hundreds() -> None:
    """Indented by 400 blanks a line, it was 200 MB."""
    depth = 190
    text = "[" * depth + ",".join("1" * 500_000) + "]" * depth

    assert len(str(pretty(text))) < 6 * len(text)
    assert pretty('{"a":1}') == "<pre>{\n  &quot;a&quot;: 1\n}</pre>"


@pytest.mark.parametrize("depth", DEPTHS[8:])
def test_what_a_handler_nests_too_deeply_is_its_own_mistake(depth: int) -> None:
    turn = Turn("k", datetime.now(UTC), None)  # type: ignore[arg-type]

    with pytest.raises(Misuse):
        turn.set_timer("later", "1h", payload=nest(depth))
    try:
        json.dumps(nest(depth))
    except RecursionError:  # from which depth on depends on the Python
        with pytest.raises(Misuse, match="no JSON"):
            turn.send(signature("project.task", args=[nest(depth)]))
    else:
        assert depth < 10_000


def test_a_huge_number_is_refused_or_kept_and_never_half_of_it(admin_client: Client) -> None:
    class Nest(ProcessManager):
        class Meta:
            name = "hostile.nest"
            retry = Retry("none")

        @handle(Nested, start=True, correlate="data")
        def nested(self, event: Nested) -> None: ...

    for digits in (18, 19, 20, 100, 255, 256, 4299, 4301, 100_000):
        number = 10 ** (digits - 1)
        with suppress(InvalidMessage):
            publish(Nested(key="k", data=number))
    drain()

    rows = InboxMessage.objects.exclude(status="handled").values_list("status", flat=True)
    assert set(rows) <= {"dead"}
    keys = Instance.objects.values_list("key", flat=True)
    assert {len(key) for key in keys} >= {18, 19, 20, 100, 255}
    assert all(json.loads(key) == 10 ** (len(key) - 1) for key in keys)
    every_page_opens(admin_client)
