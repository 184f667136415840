"""Decoding what nobody could have encoded: a valid object, or the package's own error, and nothing else.

Breaks that turned these red: no ``except`` in ``decode``; none around ``json.loads`` in ``redaction``; lone
surrogates not looked for in ``publishing._name``.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import pytest
from django.test import override_settings
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from pm_celery import ProcessManager, Sensitive, event, handle
from pm_celery.exceptions import InvalidMessage, Misuse, UndecodablePayload, UndecodableState
from pm_celery.models import InboxMessage
from pm_celery.publishing import publish_named
from pm_celery.redaction import hider, payload_shown, state_shown
from pm_celery.registry import isolated_registries

fuzzed = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


class Colour(Enum):
    RED = "red"
    BLUE = 2


@dataclass
class Part:
    name: str
    weight: float | None = None
    parts: list[Part] = field(default_factory=list)


class Model(BaseModel):
    secret: Annotated[str, Sensitive] = ""
    aliased: int = Field(0, alias="anOther")


with isolated_registries():

    @event(name="fuzz.Everything")
    class Everything:
        key: str
        number: int = 0
        total: Decimal = Decimal(0)
        ratio: float = 0.0
        id: UUID = UUID(int=0)
        day: date = date(2026, 1, 1)
        at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
        wait: timedelta = timedelta(0)
        colour: Colour = Colour.RED
        raw: bytes = b""
        parts: list[Part] = field(default_factory=list)
        names: dict[str, int | str | None] = field(default_factory=dict)
        pair: tuple[int, str] = (0, "")
        model: Model | None = None
        anything: Any = None

    class Process(ProcessManager):
        key: str = ""
        total: Decimal = Decimal(0)
        parts: list[Part] = field(default_factory=list)
        names: dict[str, set[int]] = field(default_factory=dict)
        model: Model = field(default_factory=Model)
        anything: Any = None

        @handle(Everything, start=True, correlate="key")
        def handle(self, event: Everything) -> None: ...


DECLARED: Any = Everything.__pm_message__  # type: ignore[attr-defined]
PROCESS = Process.definition

texts = st.text() | st.sampled_from(
    ["", "\x00", "\ud800", "\u202e", "</script>", "'; --", "None", "NaN"]
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats()
    | texts
)
data = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
FIELDS = [*Everything.__dataclass_fields__, "anOther", "secret", "name", "weight"]
records = st.dictionaries(st.sampled_from(FIELDS), data, max_size=6)


def as_json(value: Any) -> str:
    return json.dumps(value)


part = st.builds(
    Part, st.text(max_size=5), st.none() | st.floats(allow_nan=False, allow_infinity=False)
)
events = st.builds(
    Everything,
    key=st.text(min_size=1, max_size=5),
    number=st.integers(-(2**63), 2**63),
    total=st.decimals(allow_nan=False, allow_infinity=False),
    ratio=st.floats(allow_nan=False),
    id=st.uuids(),
    day=st.dates(),
    at=st.datetimes(timezones=st.just(UTC), min_value=datetime(1900, 1, 1)),  # noqa: DTZ001
    wait=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=9999)),
    colour=st.sampled_from(Colour),
    raw=st.binary(max_size=9),
    parts=st.lists(part, max_size=3),
    names=st.dictionaries(st.text(max_size=4), st.integers(0, 9) | st.text(max_size=3) | st.none()),
    pair=st.tuples(st.integers(0, 9), st.text(max_size=3)),
    model=st.none() | st.builds(Model, secret=st.text(max_size=9), anOther=st.integers(0, 9)),
)


def decoded(text: str) -> Any:
    """What decoding gives, None where it is refused as it should be."""
    with suppress(UndecodablePayload):
        found = DECLARED.decode(text)
        assert isinstance(found, Everything)
        return found
    return None


def loaded(text: str) -> Any:
    with suppress(UndecodableState):
        found = PROCESS.load(text)
        assert isinstance(found, Process)
        return found
    return None


@fuzzed
@given(st.text() | texts)
@example("[" * 100_000)
@example('{"key": ' * 100_000)
@example('{"key": "\\ud800"}')
@example('{"key": "k", "number": ' + "9" * 5000 + "}")
@example('{"key": "k", "total": "1e999999999"}')
@example('{"key": "k", "wait": "P9999999999999D"}')
@example('{"key": "k", "at": 1e300}')
@example('{"key": "k", "raw": "%"}')
def test_any_text_is_decoded_or_refused(text: str) -> None:
    decoded(text)
    loaded(text)


@fuzzed
@given(data | records)
def test_any_json_is_decoded_or_refused(value: Any) -> None:
    decoded(as_json(value))
    loaded(as_json(value))


@fuzzed
@given(events, st.data())
def test_a_valid_payload_that_was_changed_is_decoded_or_refused(message: Any, draw: Any) -> None:
    with suppress(InvalidMessage):
        text, _ = DECLARED.encode(message)
        at = draw.draw(st.integers(0, len(text)))
        to = draw.draw(st.integers(at, min(len(text), at + 9)))
        decoded(text[:at] + draw.draw(st.text(max_size=5)) + text[to:])


@fuzzed
@given(events)
def test_what_is_encoded_comes_back_and_is_encoded_alike(message: Any) -> None:
    """Or it is refused: text that no database stores."""
    try:
        text, validated = DECLARED.encode(message)
    except InvalidMessage as error:
        assert "U+0000" in str(error) or "as JSON" in str(error) or "validate" in str(error)  # noqa: PT017
        return

    assert DECLARED.decode(text) == validated == message
    assert DECLARED.encode(validated)[0] == text


@fuzzed
@given(data, texts)
def test_whatever_a_handler_leaves_in_the_state_comes_back_or_is_refused(
    value: Any, text: str
) -> None:
    process = Process(key=text, anything=value)
    try:
        stored, after = PROCESS.dump(process)
    except Misuse:
        return

    assert PROCESS.dump(after)[0] == stored
    assert PROCESS.load(stored) is not after


@fuzzed
@given(data | records, st.text())
def test_whatever_is_stored_can_be_shown(value: Any, text: str) -> None:
    with override_settings(PM_CELERY={"REDACT": ["key", "a*", "secret"]}):
        for stored in (as_json(value), text):
            assert isinstance(payload_shown("fuzz.Any", "", stored), str)
            assert isinstance(state_shown("tests.Process", stored), str)
            hide = hider("fuzz.Any", "tests.Process", stored, state=stored)
            assert isinstance(hide(text), str)


@pytest.mark.django_db(transaction=True)
@settings(fuzzed, max_examples=60)
@given(data, texts, texts)
def test_whatever_comes_by_name_is_stored_or_refused(value: Any, name: str, event_id: str) -> None:
    """Nothing but ``InvalidMessage``; and what was stored is there."""
    try:
        stored = publish_named(name, value, event_id)
    except InvalidMessage:
        return

    assert InboxMessage.objects.filter(message_id=stored).exists()
