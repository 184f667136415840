"""Bad input: each gets a clear error that names the next step, and nothing is lost."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from celery import chain, group, signature
from django.db import transaction
from pydantic import BaseModel, Field, field_validator

from pm_celery import (
    Envelope,
    Failure,
    ProcessManager,
    Reaction,
    Retry,
    Wait,
    clock,
    command,
    command_handler,
    engine,
    event,
    execution,
    handle,
    on_command_failed,
    on_failure,
    on_timer,
    policy,
    publish,
    publish_many,
    signals,
    tasks,
    ticks,
)
from pm_celery.exceptions import DeclarationError, InvalidMessage, PmCeleryError, Refused
from pm_celery.keys import partition_of
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
from pm_celery.registry import isolated_registries
from tests.driving import Time, advance_all, drain
from tests.testapp.models import Effect

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass
class Line:
    article: str
    quantity: int


@event(name="bad.BillWritten")
class BillWritten:
    bill: str
    total: Decimal = Decimal(1)
    lines: list[Line] = field(default_factory=list)
    note: str = ""


@event(name="bad.BillPaid")
class BillPaid:
    bill: str


@command(name="bad.CollectBill")
class CollectBill:
    bill: str
    days: int = 14


def declare_bill(
    written: Any = None, *, failed: bool = False, name: str = "bad.bill", unmatched: Any = None
) -> type[ProcessManager]:
    """A process whose start handler does what a test says, and that is never retried without need."""

    class Bill(ProcessManager):
        total: Decimal = Decimal(0)
        problem: str = ""

        class Meta:
            retry = Retry("fixed", delay="1m", max_retries=3, jitter=False)
            correlate = "bill"

        Meta.name = name  # type: ignore[attr-defined]

        @handle(BillWritten, start=True)
        def written(self, event: BillWritten) -> Any:
            self.total = event.total
            return written(self, event) if written else None

        @handle(BillPaid, end=True, unmatched=unmatched)
        def paid(self, event: BillPaid) -> None: ...

        @on_timer("reminder")
        def remind(self, payload: Any) -> None: ...

        @on_command_failed(CollectBill)
        def not_collected(self, failure: Failure) -> None:
            self.problem = f"{failure.exception}: {failure.error}"

    return Bill


def letter() -> DeadLetter:
    return DeadLetter.objects.get()


def instance(process: str = "bad.bill") -> Instance:
    return Instance.objects.get(process=process)


# -- what is published -------------------------------------------------------------------------------


class Nothing:
    pass


@pytest.mark.parametrize(
    "thing",
    [None, "bad.BillWritten", {"bill": "b-1"}, 7, Nothing(), Nothing, BillWritten, Exception("x")],
    ids=["none", "text", "dict", "int", "object", "class", "event class", "exception"],
)
def test_publishing_what_is_no_event_is_an_error_and_writes_nothing(thing: Any) -> None:
    declare_bill()

    with pytest.raises(InvalidMessage, match=r"@event|give an instance"):
        publish(thing)

    assert not InboxMessage.objects.exists()


def test_publishing_a_command_is_an_error_that_says_so() -> None:
    with pytest.raises(InvalidMessage, match=r"bad\.CollectBill is declared as command, not as an"):
        publish(CollectBill("b-1"))


@pytest.mark.parametrize(
    "values",
    [
        {"bill": 7},
        {"bill": None},
        {"bill": "b-1", "total": "many"},
        {"bill": "b-1", "total": None},
        {"bill": "b-1", "total": Decimal("NaN")},
        {"bill": "b-1", "lines": "none"},
        {"bill": "b-1", "lines": [{"article": "tea"}]},
        {"bill": "b-1", "lines": [Line("tea", "many")]},  # type: ignore[arg-type]
        {"bill": "b-1", "lines": [Line(quantity=2, article=None)]},  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_an_event_that_does_not_validate_is_an_error_and_writes_nothing(values: Any) -> None:
    declare_bill()

    with pytest.raises(InvalidMessage, match=r"bad\.BillWritten does not validate"):
        publish(BillWritten(**values))

    assert not InboxMessage.objects.exists()


def test_what_an_event_s_own_check_refuses_is_an_error_and_writes_nothing() -> None:
    @event(name="bad.Credited")
    @dataclass
    class Credited:
        bill: str
        amount: Annotated[Decimal, Field(gt=0)] = Decimal(1)

        def __post_init__(self) -> None:
            if self.bill == "b-0":
                raise ValueError("no such bill")

    with pytest.raises(InvalidMessage, match="greater than 0"):
        publish(Credited("b-1", Decimal(-1)))
    changed = Credited("b-1")
    changed.bill = "b-0"
    with pytest.raises(InvalidMessage, match="no such bill"):
        publish(changed)

    assert not InboxMessage.objects.exists()


def test_a_pydantic_event_that_was_changed_into_an_invalid_one_is_an_error() -> None:
    @event(name="bad.Debited")
    class Debited(BaseModel):
        bill: str
        amount: int = Field(default=1, gt=0)

    class BillDebited(ProcessManager):
        class Meta:
            correlate = "bill"
            started_by = [Debited]
            completed_by = [Debited]

    changed = Debited(bill="b-1")
    changed.amount = -1

    with pytest.raises(InvalidMessage, match="greater than 0"):
        publish(changed)
    with pytest.raises(InvalidMessage, match="greater than 0"):
        publish(Debited.model_construct(bill="b-1", amount=0))

    assert not InboxMessage.objects.exists()


class Size(Enum):
    SMALL = ("s", 1)


@event(name="bad.Sized")
class Sized:
    bill: str
    size: Size


@event(name="bad.Overflowed")
class Overflowed(BaseModel):
    bill: str
    level: float


@pytest.mark.parametrize(
    "unreadable",
    [Sized("b-1", Size.SMALL), Overflowed(bill="b-1", level=float("inf"))],
    ids=["enum of tuples", "infinity in a pydantic model"],
)
def test_an_event_that_could_not_be_read_again_is_an_error(unreadable: object) -> None:
    """Pydantic writes it as JSON, but does not read that JSON: better said to the one who publishes."""

    class BillOfSizes(ProcessManager):
        class Meta:
            correlate = "bill"
            started_by = [Sized, Overflowed]
            completed_by = [Sized]

    with pytest.raises(InvalidMessage):
        publish(unreadable)

    assert not InboxMessage.objects.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [("a\x00b", r"U\+0000"), ("\ud800", "JSON|Unicode|utf-8"), ("x\\\x00", r"U\+0000")],
    ids=["nul", "lone surrogate", "nul behind a backslash"],
)
def test_text_that_no_database_stores_is_an_error_and_writes_nothing(text: str, words: str) -> None:
    declare_bill()

    with pytest.raises(InvalidMessage, match=words):
        publish(BillWritten("b-1", note=text))

    assert not InboxMessage.objects.exists()


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "\u0001\u001f", "\u2028", "𝄞"])
def test_text_that_only_looks_dangerous_is_stored_as_it_is(text: str) -> None:
    found: list[str] = []
    declare_bill(lambda self, event: found.append(event.note))

    publish(BillWritten("b-1", note=text))
    drain()

    assert found == [text]


def test_one_invalid_event_among_many_lets_none_be_published() -> None:
    declare_bill()

    with pytest.raises(InvalidMessage):
        publish_many([BillWritten("b-1"), BillWritten("b-2", total="many"), BillWritten("b-3")])  # type: ignore[arg-type]

    assert not InboxMessage.objects.exists()


def test_an_invalid_event_leaves_the_caller_s_transaction_usable() -> None:
    declare_bill()

    with transaction.atomic():
        Effect.objects.create(name="before")
        with pytest.raises(InvalidMessage):
            publish(BillWritten("b-1", total="many"))  # type: ignore[arg-type]
        Effect.objects.create(name="after")
        publish(BillWritten("b-2"))

    assert Effect.objects.count() == 2
    assert InboxMessage.objects.get().key == "b-2"


@pytest.mark.parametrize("event_id", ["", "x" * 256, 7, b"id", "a\x00b", "\ud800", ["id"]])
def test_an_event_id_that_no_row_can_hold_is_an_error(event_id: Any) -> None:
    declare_bill()

    with pytest.raises(InvalidMessage, match="event_id"):
        publish(BillWritten("b-1"), event_id=event_id)
    with pytest.raises(InvalidMessage, match="correlation_id"):
        publish(BillWritten("b-1"), correlation_id=event_id)

    assert not InboxMessage.objects.exists()


@pytest.mark.parametrize("event_id", [uuid4(), "x" * 255, "ü 漢字", " "])
def test_a_uuid_or_any_text_may_be_an_event_id(event_id: Any) -> None:
    declare_bill()

    assert publish(BillWritten("b-1"), event_id=event_id) == str(event_id)

    assert InboxMessage.objects.get().message_id == str(event_id)


@pytest.mark.parametrize("moment", [datetime(2024, 1, 1), "2024-01-01", 1704067200, timedelta(1)])  # noqa: DTZ001
def test_a_moment_without_a_zone_is_an_error(moment: Any) -> None:
    declare_bill()

    with pytest.raises(InvalidMessage, match=r"occurred_at.*time zone"):
        publish(BillWritten("b-1"), occurred_at=moment)

    assert not InboxMessage.objects.exists()


def test_a_moment_in_any_zone_is_kept() -> None:
    declare_bill()
    moment = datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=-7)))

    publish_many([Envelope(BillWritten("b-1"), occurred_at=moment)])

    assert InboxMessage.objects.get().occurred_at == moment


# -- keys --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "words"),
    [("", "empty"), ("  ", "empty"), ("k" * 256, "256 characters long, more than 255")],
)
def test_a_key_that_is_empty_or_too_long_becomes_a_dead_letter(key: str, words: str) -> None:
    declare_bill()

    event_id = publish(BillWritten(key))
    drain()

    assert letter().message_ref == event_id
    assert letter().exception == "UnusableKey"
    assert words in letter().error
    assert letter().payload == InboxMessage.objects.get().payload
    assert not Instance.objects.exists()


@pytest.mark.parametrize("key", [["b-1"], {"bill": 1}, True, None, 1.5j])
def test_a_key_that_is_no_string_number_or_uuid_becomes_a_dead_letter(key: Any) -> None:
    @event(name="bad.Keyed")
    class Keyed:
        bill: str

    class BillKeyed(ProcessManager):
        @handle(Keyed, start=True, end=True, correlate=lambda event: key and (key,)[0])
        def keyed(self, event: Keyed) -> None: ...

    class BillKeyedByField(ProcessManager):
        @handle(Keyed, start=True, end=True, correlate="bill")
        def keyed(self, event: Keyed) -> None: ...

    publish(Keyed(bill="b-1"))  # type: ignore[call-arg]
    drain()

    found = DeadLetter.objects.filter(process="tests.BillKeyed")
    if key is None:
        assert not found.exists()  # a function's None: not mine
    else:
        assert found.get().exception == "UnusableKey"
        assert "a string, a number or a UUID" in found.get().error
    assert Instance.objects.get().process == "tests.BillKeyedByField"


def test_a_dead_letter_for_one_process_keeps_the_event_for_the_others() -> None:
    declare_bill()

    class BillCounter(ProcessManager):
        @handle(BillWritten, start=True, correlate=lambda event: "all")
        def written(self, event: BillWritten) -> None: ...

    publish(BillWritten(""))
    drain()

    assert instance("tests.BillCounter").number == 1
    assert letter().process == "bad.bill"


# -- types that this release does not know -----------------------------------------------------------


def test_an_event_of_a_type_unknown_to_this_worker_waits_and_is_reported(time: Time) -> None:
    """An older release is still running; the newer one published already."""
    with isolated_registries():

        @event(name="bad.Refunded")
        class RefundedThen:
            bill: str

        class BillThen(ProcessManager):
            class Meta:
                name = "bad.refund"

            @handle(RefundedThen, start=True, correlate="bill")
            def refunded(self, event: Any) -> None: ...

        event_id = publish(RefundedThen(bill="b-1"))  # type: ignore[call-arg]
    reports: list[dict[str, Any]] = []

    def note(**news: Any) -> None:
        reports.append(news)

    signals.unknown_message.connect(note)
    try:
        drain()
        time.elapse("1h")
    finally:
        signals.unknown_message.disconnect(note)

    row = InboxMessage.objects.get(message_id=event_id)
    assert (row.status, row.attempts) == ("pending", 0)
    assert not DeadLetter.objects.exists()
    assert reports
    assert reports[0]["message_id"] == event_id
    assert reports[0]["name"] == "bad.Refunded"

    @event(name="bad.Refunded")
    class Refunded:
        bill: str

    class BillNow(ProcessManager):
        class Meta:
            name = "bad.refund"

        @handle(Refunded, start=True, correlate="bill")
        def refunded(self, event: Any) -> None: ...

    time.elapse("15s")

    assert InboxMessage.objects.get(message_id=event_id).status == "handled"
    assert instance("bad.refund").key == "b-1"


def test_an_event_of_a_newer_version_waits_for_the_release_that_knows_it(time: Time) -> None:
    with isolated_registries():

        @event(name="bad.Dunned", version=2)
        class DunnedV2:
            bill: str
            level: int = 0

        class BillOfNewRelease(ProcessManager):
            class Meta:
                name = "bad.dunning"

            @handle(DunnedV2, start=True, correlate="bill")
            def dunned(self, event: Any) -> None: ...

        event_id = publish(DunnedV2(bill="b-1"))  # type: ignore[call-arg]

    with isolated_registries():

        @event(name="bad.Dunned")
        class Dunned:
            bill: str

        class BillOfOldRelease(ProcessManager):
            class Meta:
                name = "bad.dunning"

            @handle(Dunned, start=True, correlate="bill")
            def dunned(self, event: Any) -> None: ...

        drain()
        older = publish(Dunned(bill="b-2"))  # type: ignore[call-arg]
        drain()

    assert InboxMessage.objects.get(message_id=event_id).status == "pending"
    assert InboxMessage.objects.get(message_id=older).status == "handled"


def test_what_is_behind_an_unknown_event_waits_in_order(time: Time) -> None:
    heard: list[str] = []

    def declare(*, knows: bool) -> None:
        @event(name="bad.Reminded")
        class Reminded:
            bill: str

        class BillReminded(ProcessManager):
            class Meta:
                name = "bad.reminding"
                correlate = "bill"

            @handle(BillWritten, start=True)
            def written(self, event: Any) -> None:
                heard.append(event.note)

            if knows:

                @handle(Reminded)
                def reminded(self, event: Any) -> None:
                    heard.append("reminded")

        if knows:
            publish(BillWritten("b-1", note="first"))
            publish(Reminded(bill="b-1"))  # type: ignore[call-arg]
            publish(BillWritten("b-1", note="last"))
            publish(BillWritten("b-2", note="another"))

    with isolated_registries():
        declare(knows=True)
    with isolated_registries():
        declare(knows=False)
        drain()
        assert sorted(heard) == ["another", "first"]
    declared_again = len(InboxMessage.objects.filter(status="pending"))
    assert declared_again == 2

    @event(name="bad.Reminded")
    class Reminded:
        bill: str

    class BillReminded(ProcessManager):
        class Meta:
            name = "bad.reminding"
            correlate = "bill"

        @handle(BillWritten, start=True)
        def written(self, event: Any) -> None:
            heard.append(event.note)

        @handle(Reminded)
        def reminded(self, event: Any) -> None:
            heard.append("reminded")

    time.elapse("15s")

    assert heard[2:] == ["reminded", "last"]


def test_unknown_events_do_not_keep_a_worker_busy(settings: Any) -> None:
    """More of them than a batch holds, of a policy that only the newer release has."""
    settings.PM_CELERY = {"BATCH_SIZE": 2, "ADVANCE_SECONDS": 1.0}
    with isolated_registries():

        @policy(BillPaid, name="bad.new_policy")
        def new_policy(event: BillPaid, reaction: Reaction) -> None: ...

        partition = partition_of("bad.new_policy", "id-0")
        ids = [f"id-{n}" for n in range(500)]
        same = [i for i in ids if partition_of("bad.new_policy", i) == partition][:7]
        for event_id in same:
            publish(BillPaid("b-1"), event_id=event_id)

    assert engine.advance(partition) is False

    assert InboxMessage.objects.filter(status="pending").count() == 7


# -- what is stored and no longer validates ----------------------------------------------------------


def test_a_stored_payload_that_no_longer_validates_becomes_a_dead_letter() -> None:
    declare_bill()
    event_id = publish(BillWritten("b-1"))
    InboxMessage.objects.update(payload='{"bill": "b-1", "total": "many"}')

    drain()

    assert (letter().message_ref, letter().exception) == (event_id, "UndecodablePayload")
    assert "total" in letter().error
    assert "decimal" in letter().error.lower()
    assert letter().attempts == 1
    assert instance().status == "failed"


@pytest.mark.parametrize("payload", ["", "{", "null", "[]", '"b-1"', '{"bill": null}', "NaN"])
def test_a_stored_payload_that_is_no_event_at_all_becomes_a_dead_letter(payload: str) -> None:
    declare_bill()
    publish(BillWritten("b-1"))
    InboxMessage.objects.update(payload=payload)

    drain()

    assert letter().exception == "UndecodablePayload"


def test_a_payload_s_dead_letter_is_handled_once_the_release_reads_it_again() -> None:
    process = declare_bill()
    publish(BillWritten("b-1", Decimal("7.5")))
    good = InboxMessage.objects.get().payload
    InboxMessage.objects.update(payload="{}")
    drain()

    InboxMessage.objects.update(payload=good)
    dead_letters.retry(letter().pk)
    drain()

    assert instance().status == "started"
    assert process.definition.load(instance().state).total == Decimal("7.5")  # type: ignore[attr-defined]


@pytest.mark.parametrize("state", ['{"total": "many"}', "{", "[]", "null", ""])
def test_a_state_that_no_longer_validates_becomes_a_dead_letter(state: str) -> None:
    declare_bill()
    publish(BillWritten("b-1"))
    drain()
    Instance.objects.update(state=state)

    event_id = publish(BillPaid("b-1"))
    drain()

    assert (letter().message_ref, letter().exception) == (event_id, "UndecodableState")
    assert "Bill" in letter().error
    assert letter().attempts == 1
    assert instance().status == "failed"
    assert instance().state == state


def test_a_state_s_dead_letter_is_handled_once_the_state_is_mended() -> None:
    declare_bill()
    publish(BillWritten("b-1"))
    drain()
    good = instance().state
    Instance.objects.update(state="{")
    publish(BillPaid("b-1"))
    drain()

    Instance.objects.update(state=good)
    dead_letters.retry(letter().pk)
    drain()

    assert instance().status == "completed"


def test_a_stored_command_that_no_longer_validates_becomes_a_dead_letter() -> None:
    @command_handler(CollectBill)
    def collect(command: CollectBill) -> None: ...

    process = declare_bill(lambda self, event: self.send(CollectBill("b-1")) and None)
    publish(BillWritten("b-1"))
    advance_all()
    OutboxCommand.objects.update(payload='{"bill": "b-1", "days": "many"}')

    drain()

    assert (letter().place, letter().exception) == ("command", "UndecodablePayload")
    assert "days" in letter().error
    assert "UndecodablePayload" in process.definition.load(instance().state).problem  # type: ignore[attr-defined]


# -- an id that is used again ------------------------------------------------------------------------


def test_an_event_id_used_again_with_another_payload_is_recorded_and_the_first_one_stands() -> None:
    process = declare_bill()
    publish(BillWritten("b-1", Decimal(1)), event_id="e-1")

    publish(BillWritten("b-1", Decimal(2)), event_id="e-1")
    drain()

    assert process.definition.load(instance().state).total == Decimal(1)  # type: ignore[attr-defined]
    assert instance().number == 1
    assert (letter().place, letter().exception) == ("publish", "EventIdConflict")
    assert json.loads(letter().payload)["total"] == "2"
    assert "Publish with a new id" in letter().error


def test_an_event_id_used_again_with_the_same_payload_is_no_conflict() -> None:
    declare_bill()

    for _ in range(3):
        publish(BillWritten("b-1"), event_id="e-1")
        drain()

    assert not DeadLetter.objects.exists()
    assert Transition.objects.count() == 1


def test_an_event_id_used_again_for_another_key_or_type_is_recorded() -> None:
    declare_bill()
    publish(BillWritten("b-1"), event_id="e-1")

    publish(BillWritten("b-2"), event_id="e-1")
    publish(BillPaid("b-1"), event_id="e-1")
    drain()

    assert list(DeadLetter.objects.values_list("place", flat=True)) == ["publish", "publish"]
    assert list(Instance.objects.values_list("key", "status")) == [("b-1", "started")]


def test_an_event_id_used_twice_in_one_bulk_is_recorded() -> None:
    declare_bill()

    publish_many(
        [
            Envelope(BillWritten("b-1", Decimal(1)), "e-1"),
            Envelope(BillWritten("b-1", Decimal(2)), "e-1"),
            Envelope(BillWritten("b-1", Decimal(1)), "e-1"),
        ]
    )

    assert InboxMessage.objects.count() == 1
    assert letter().exception == "EventIdConflict"


def test_a_conflict_that_is_repeated_is_recorded_once() -> None:
    declare_bill()
    publish(BillWritten("b-1", Decimal(1)), event_id="e-1")

    for _ in range(3):
        publish(BillWritten("b-1", Decimal(2)), event_id="e-1")

    assert DeadLetter.objects.count() == 1


def test_a_conflict_leaves_the_caller_s_transaction_usable() -> None:
    declare_bill()
    publish(BillWritten("b-1", Decimal(1)), event_id="e-1")

    with transaction.atomic():
        publish(BillWritten("b-1", Decimal(2)), event_id="e-1")
        Effect.objects.create(name="after")

    assert Effect.objects.count() == 1
    assert DeadLetter.objects.count() == 1


def test_retrying_a_conflict_is_refused_and_says_what_to_do() -> None:
    declare_bill()
    publish(BillWritten("b-1", Decimal(1)), event_id="e-1")
    publish(BillWritten("b-1", Decimal(2)), event_id="e-1")

    with pytest.raises(Refused, match="new id"):
        dead_letters.retry(letter().pk)
    assert letter().status == "open"
    dead_letters.discard(letter().pk)

    assert letter().status == "discarded"
    assert InboxMessage.objects.get().status == "pending"


# -- size --------------------------------------------------------------------------------------------


def test_a_payload_larger_than_the_limit_is_an_error_that_says_what_to_do(settings: Any) -> None:
    settings.PM_CELERY = {"MAX_PAYLOAD_BYTES": 1000}
    declare_bill()

    with pytest.raises(InvalidMessage, match=r"MAX_PAYLOAD_BYTES.*1,000.*send its id"):
        publish(BillWritten("b-1", note="x" * 1000))

    assert not InboxMessage.objects.exists()


def test_the_limit_counts_bytes_and_not_characters(settings: Any) -> None:
    declare_bill()
    settings.PM_CELERY = {"MAX_PAYLOAD_BYTES": 400}

    publish(BillWritten("b-1", note="x" * 300))
    with pytest.raises(InvalidMessage, match="bytes"):
        publish(BillWritten("b-2", note="ü" * 200))

    assert InboxMessage.objects.get().key == "b-1"


def test_a_payload_of_exactly_the_limit_is_stored(settings: Any) -> None:
    declare_bill()
    publish(BillWritten("b-0"))
    empty = len(InboxMessage.objects.get().payload)
    settings.PM_CELERY = {"MAX_PAYLOAD_BYTES": empty + 10}

    publish(BillWritten("b-1", note="x" * 10))
    with pytest.raises(InvalidMessage):
        publish(BillWritten("b-2", note="x" * 11))

    assert set(InboxMessage.objects.values_list("key", flat=True)) == {"b-0", "b-1"}


def test_the_limit_is_a_mebibyte_unless_it_is_set() -> None:
    declare_bill()

    publish(BillWritten("b-1", note="x" * (1024 * 1024 - 200)))
    with pytest.raises(InvalidMessage, match="1,048,576"):
        publish(BillWritten("b-2", note="x" * 1024 * 1024))

    assert InboxMessage.objects.count() == 1


def test_a_state_or_command_larger_than_the_limit_becomes_a_dead_letter(settings: Any) -> None:
    def grow(self: Any, event: BillWritten) -> None:
        if event.note == "state":
            self.problem = "x" * 1000
        else:
            self.send(CollectBill("x" * 1000))

    declare_bill(grow)
    settings.PM_CELERY = {"MAX_PAYLOAD_BYTES": 900}
    publish(BillWritten("b-1", note="state"))
    publish(BillWritten("b-2", note="command"))

    drain()

    assert sorted(DeadLetter.objects.values_list("key", flat=True)) == ["b-1", "b-2"]
    assert all("MAX_PAYLOAD_BYTES" in found.error for found in DeadLetter.objects.all())
    assert not OutboxCommand.objects.exists()


# -- what handlers do wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("returned", [7, "done", False, BillPaid("b-1"), (), object()], ids=repr)
def test_a_handler_that_returns_something_becomes_a_dead_letter(returned: Any) -> None:
    declare_bill(lambda self, event: returned)

    publish(BillWritten("b-1"))
    drain()

    assert (letter().exception, letter().attempts) == ("Misuse", 1)
    assert "returned" in letter().error
    assert "self.ignore(reason)" in letter().error


@pytest.mark.parametrize("thing", [None, "CollectBill", {"bill": 1}, CollectBill, Nothing()])
def test_a_handler_that_sends_what_is_no_command_becomes_a_dead_letter(thing: Any) -> None:
    declare_bill(lambda self, event: self.send(thing) and None)

    publish(BillWritten("b-1"))
    drain()

    assert letter().attempts == 1
    assert "@command" in letter().error or "give an instance" in letter().error
    assert not OutboxCommand.objects.exists()


def test_a_handler_that_sends_an_event_is_told_so() -> None:
    declare_bill(lambda self, event: self.send(BillPaid("b-1")) and None)

    publish(BillWritten("b-1"))
    drain()

    assert "bad.BillPaid is declared as event, not as a command" in letter().error


def test_a_handler_that_sends_an_invalid_command_becomes_a_dead_letter() -> None:
    declare_bill(lambda self, event: self.send(CollectBill("b-1", days="many")) and None)  # type: ignore[arg-type]

    publish(BillWritten("b-1"))
    drain()

    assert (letter().exception, letter().attempts) == ("InvalidMessage", 1)
    assert "days" in letter().error


@pytest.mark.parametrize(
    "sent",
    [
        chain(signature("a"), signature("b")),
        group(signature("a"), signature("b")),
        signature("a", countdown=5),
        signature("a", eta=datetime(2030, 1, 1)),  # noqa: DTZ001
        signature("a", args=(object(),)),
    ],
    ids=["chain", "group", "countdown", "eta", "no JSON"],
)
def test_a_signature_that_cannot_be_a_row_becomes_a_dead_letter(sent: Any) -> None:
    declare_bill(lambda self, event: self.send(sent) and None)

    publish(BillWritten("b-1"))
    drain()

    assert (letter().exception, letter().attempts) == ("Misuse", 1)
    assert not OutboxCommand.objects.exists()


@pytest.mark.parametrize(
    "options",
    [
        {"delay": "soon"},
        {"delay": "-1m"},
        {"delay": 60},
        {"expires": "0s"},
        {"expires": timedelta(0)},
        {"delay": "200y"},
        {"delay": "99999999999d"},
    ],
    ids=repr,
)
def test_a_command_with_a_nonsensical_duration_becomes_a_dead_letter(options: Any) -> None:
    declare_bill(lambda self, event: self.send(CollectBill("b-1"), **options) and None)

    publish(BillWritten("b-1"))
    drain()

    assert (letter().exception, letter().attempts) == ("Misuse", 1)
    assert "is no duration" in letter().error or "longer than a century" in letter().error


@pytest.mark.parametrize(
    "arguments",
    [
        ("reminder", "soon"),
        ("reminder", "-1h"),
        ("reminder", "0s"),
        ("reminder", 3600),
        ("reminder", None),
        ("reminder", timedelta(days=-1)),
        ("reminder", timedelta.max),
        ("reminder", "9999999999999d"),
    ],
    ids=repr,
)
def test_a_timer_with_a_nonsensical_duration_becomes_a_dead_letter(arguments: Any) -> None:
    declare_bill(lambda self, event: self.set_timer(*arguments))

    publish(BillWritten("b-1"))
    drain()

    assert (letter().exception, letter().attempts) == ("Misuse", 1)
    assert "set_timer('reminder'" in letter().error
    assert not Timer.objects.exists()


@pytest.mark.parametrize(
    "options",
    [
        {"at": datetime(2030, 1, 1)},  # noqa: DTZ001
        {"at": "2030-01-01"},
        {"at": 5},
        {"after": "1h", "at": datetime(2030, 1, 1, tzinfo=timezone.utc)},  # noqa: UP017
        {},
        {"after": "1h", "payload": object()},
        {"after": "1h", "payload": "a\x00b"},
    ],
    ids=repr,
)
def test_a_timer_with_a_nonsensical_moment_or_payload_becomes_a_dead_letter(options: Any) -> None:
    declare_bill(lambda self, event: self.set_timer("reminder", **options))

    publish(BillWritten("b-1"))
    drain()

    assert (letter().exception, letter().attempts) == ("Misuse", 1)
    assert "set_timer('reminder'" in letter().error


@pytest.mark.parametrize("verb", ["set_timer", "cancel_timer"])
def test_a_timer_that_no_method_handles_becomes_a_dead_letter(verb: str) -> None:
    arguments = ("remainder", "1h") if verb == "set_timer" else ("remainder",)
    declare_bill(lambda self, event: getattr(self, verb)(*arguments))

    publish(BillWritten("b-1"))
    drain()

    assert letter().exception == "Misuse"
    assert "@on_timer('remainder')" in letter().error


@pytest.mark.parametrize("total", ["many", None, 5, 1.5, [1]], ids=repr)
def test_a_handler_that_leaves_a_wrong_type_in_the_state_becomes_a_dead_letter(total: Any) -> None:
    declare_bill(lambda self, event: setattr(self, "total", total))

    publish(BillWritten("b-1"))
    drain()

    assert (letter().exception, letter().attempts) == ("Misuse", 1)
    assert "total" in letter().error


def test_a_handler_that_publishes_an_invalid_event_becomes_a_dead_letter() -> None:
    declare_bill(lambda self, event: publish(BillPaid(7)) and None)  # type: ignore[arg-type]

    publish(BillWritten("b-1"))
    drain()

    assert (letter().exception, letter().attempts) == ("InvalidMessage", 1)
    assert InboxMessage.objects.count() == 1


def test_what_a_handler_does_wrong_leaves_the_event_to_be_retried_when_it_is_mended() -> None:
    mistakes = [7]
    declare_bill(lambda self, event: mistakes[0] if mistakes else None)
    publish(BillWritten("b-1"))
    drain()

    mistakes.clear()
    dead_letters.retry(letter().pk)
    drain()

    assert (instance().status, letter().status) == ("started", "retried")


def test_a_policy_that_returns_or_sends_nonsense_becomes_a_dead_letter() -> None:
    @policy(BillPaid, name="bad.returns")
    def returns(event: BillPaid, reaction: Reaction) -> Any:
        return "done"

    @policy(BillPaid, name="bad.sends")
    def sends(event: BillPaid, reaction: Reaction) -> None:
        reaction.send("CollectBill")

    publish(BillPaid("b-1"))
    drain()

    found = dict(DeadLetter.objects.values_list("process", "exception"))
    assert found == {"bad.returns": "Misuse", "bad.sends": "Misuse"}


def test_a_failure_handler_that_returns_something_is_noted_on_the_letter() -> None:
    class BillFailing(ProcessManager):
        class Meta:
            retry = Retry("none")

        @handle(BillWritten, start=True, correlate="bill")
        def written(self, event: BillWritten) -> None:
            raise RuntimeError("broken")

        @on_failure
        def failed(self, failure: Failure) -> Any:
            return "done"

    publish(BillWritten("b-1"))
    drain()

    assert letter().error == "broken"
    assert "returned 'done'" in letter().failure_handler_error


# -- commands without a handler ----------------------------------------------------------------------


def test_a_command_without_a_handler_becomes_a_dead_letter_and_its_instance_hears_of_it() -> None:
    process = declare_bill(lambda self, event: self.send(CollectBill("b-1")) and None)

    publish(BillWritten("b-1"))
    drain()

    assert (letter().place, letter().name) == ("command", "bad.CollectBill")
    assert letter().exception == "NoCommandHandler"
    assert "@command_handler(CollectBill)" in letter().error
    assert OutboxCommand.objects.get().status == "dead"
    assert "NoCommandHandler" in process.definition.load(instance().state).problem  # type: ignore[attr-defined]


def test_a_command_without_a_handler_runs_when_it_has_one_and_is_retried() -> None:
    declare_bill(lambda self, event: self.send(CollectBill("b-1")) and None)
    publish(BillWritten("b-1"))
    drain()
    collected: list[str] = []

    @command_handler(CollectBill)
    def collect(command: CollectBill) -> None:
        collected.append(command.bill)

    dead_letters.retry(letter().pk)
    drain()

    assert collected == ["b-1"]
    assert OutboxCommand.objects.get().status == "done"


def test_a_command_unknown_to_this_worker_waits_for_one_that_knows_it(time: Time) -> None:
    """An older release is still running, and gets the command again and again, for half an hour."""
    with isolated_registries():

        @command(name="bad.SendDunning")
        class SendDunning:
            bill: str

        declare_bill(lambda self, event: self.send(SendDunning("b-1")) and None)  # type: ignore[call-arg]
        publish(BillWritten("b-1"))
        advance_all()
    command_id = str(OutboxCommand.objects.get().command_id)

    for _ in range(30):
        execution.run(command_id)
        time.enter_context(clock.travel(timedelta(minutes=1)))
        ticks.tick()

    assert OutboxCommand.objects.get().status == "dispatched"
    assert not DeadLetter.objects.exists()

    collected: list[str] = []

    @command(name="bad.SendDunning")
    class SendDunningNow:
        bill: str

    @command_handler(SendDunningNow)
    def send_dunning(command: Any) -> None:
        collected.append(command.bill)

    execution.run(command_id)
    assert collected == ["b-1"]


def test_what_is_no_command_cannot_have_a_handler() -> None:
    for thing in (BillPaid, dict, None):
        with pytest.raises(DeclarationError, match=r"@command_handler"):

            @command_handler(thing)  # type: ignore[arg-type]
            def collect(command: Any) -> None: ...


@pytest.mark.parametrize(
    ("options", "words"),
    [({"retry": 3}, "give a Retry"), ({"expires": "soon"}, "is no duration")],
)
def test_a_command_handler_with_nonsensical_options_is_a_start_up_error(
    options: Any, words: str
) -> None:
    with pytest.raises(DeclarationError, match=words):

        @command_handler(CollectBill, **options)
        def collect(command: CollectBill) -> None: ...


@pytest.mark.parametrize("name", ["", "x" * 201, 7])
def test_an_event_with_an_unusable_name_is_a_start_up_error(name: Any) -> None:
    with pytest.raises(DeclarationError, match="1 to 200 characters"):

        @event(name=name)
        class Unnamed:
            bill: str


@pytest.mark.parametrize("version", [0, -1, "2", True, 2**20, 1.5])
def test_an_event_with_an_unusable_version_is_a_start_up_error(version: Any) -> None:
    with pytest.raises(DeclarationError, match="version"):

        @event(version=version)
        class Versioned:
            bill: str


def test_what_is_no_class_cannot_be_an_event() -> None:
    with pytest.raises(DeclarationError, match="decorates a class"):

        @event  # type: ignore[arg-type]
        def paid() -> None: ...


# -- by name, from other services --------------------------------------------------------------------


def test_other_services_publish_by_name_with_the_task_pm_celery_publish() -> None:
    process = declare_bill()

    returned = tasks.publish.apply(
        args=("bad.BillWritten", {"bill": "b-1", "total": "7.50"}),
        kwargs={
            "id": "e-1",
            "correlation_id": "c-1",
            "occurred_at": "2024-02-29T12:00:00+01:00",
        },
    ).get()
    drain()

    assert returned == "e-1"
    row = InboxMessage.objects.get()
    assert (row.message_id, row.correlation_id, row.status) == ("e-1", "c-1", "handled")
    assert row.occurred_at == datetime.fromisoformat("2024-02-29T11:00:00Z")
    assert process.definition.load(instance().state).total == Decimal("7.50")  # type: ignore[attr-defined]
    assert tasks.publish.name == "pm_celery.publish"


def test_without_an_id_a_redelivered_task_publishes_once() -> None:
    declare_bill()

    for _ in range(2):
        tasks.publish.apply(args=("bad.BillWritten", {"bill": "b-1"}), task_id="task-1")
    drain()

    assert InboxMessage.objects.get().message_id == "task-1"
    assert Transition.objects.count() == 1


def test_a_name_that_nobody_knows_waits_and_is_routed_once_its_type_is_declared(
    time: Time,
) -> None:
    publish_named("bad.Shipped", {"bill": "b-1"}, "e-1", correlation_id="c-1")
    drain()
    time.elapse("1h")
    row = InboxMessage.objects.get()
    assert (row.status, row.process) == ("pending", "")
    assert not DeadLetter.objects.exists()

    @event(name="bad.Shipped")
    class Shipped:
        bill: str

    class BillShipped(ProcessManager):
        @handle(Shipped, start=True, correlate="bill")
        def shipped(self, event: Shipped) -> None: ...

    @policy(Shipped, name="bad.on_shipped")
    def on_shipped(event: Shipped, reaction: Reaction) -> None: ...

    time.elapse("15s")

    statuses = dict(InboxMessage.objects.filter(message_id="e-1").values_list("process", "status"))
    assert statuses == {
        "": "handled",
        "tests.BillShipped": "handled",
        "bad.on_shipped": "handled",
    }
    assert instance("tests.BillShipped").correlation_id == "c-1"


def test_a_named_event_that_comes_again_after_the_release_that_knows_it_is_no_conflict(
    time: Time,
) -> None:
    """Other services deliver at least once; this one was unknown at first, and known the second time."""
    publish_named("bad.Packed", {"bill": "b-1", "boxes": 2}, "e-1")
    drain()

    @event(name="bad.Packed")
    class Packed:
        bill: str
        boxes: int

    class BillPacked(ProcessManager):
        @handle(Packed, start=True, correlate="bill")
        def packed(self, event: Packed) -> None: ...

    time.elapse("15s")
    publish_named("bad.Packed", {"bill": "b-1", "boxes": 2}, "e-1")
    drain()

    assert instance("tests.BillPacked").number == 1
    assert not DeadLetter.objects.exists()


def test_a_named_event_that_comes_again_before_it_is_routed_is_no_conflict(time: Time) -> None:
    publish_named("bad.Loaded", {"bill": "b-1", "boxes": 2}, "e-1")

    @event(name="bad.Loaded")
    class Loaded:
        bill: str
        boxes: int

    class BillLoaded(ProcessManager):
        @handle(Loaded, start=True, correlate="bill")
        def loaded(self, event: Loaded) -> None: ...

    publish_named("bad.Loaded", {"boxes": 2, "bill": "b-1"}, "e-1")
    drain()
    time.elapse("15s")

    assert instance("tests.BillLoaded").number == 1
    assert not DeadLetter.objects.exists()


@pytest.mark.parametrize(
    "payload",
    [{"bill": 7}, {}, {"bill": "b-1", "total": "many"}, None, [], "b-1", 7, {"bill": None}],
    ids=repr,
)
def test_a_named_event_that_does_not_validate_becomes_a_dead_letter(payload: Any) -> None:
    declare_bill()

    assert publish_named("bad.BillWritten", payload, "e-1") == "e-1"
    drain()

    assert (letter().name, letter().message_ref) == ("bad.BillWritten", "e-1")
    assert letter().exception == "UndecodablePayload"
    assert json.loads(letter().payload) == payload
    assert InboxMessage.objects.get().status == "dead"


def test_a_named_event_whose_own_check_crashes_becomes_a_dead_letter() -> None:
    """The sender is gone: an IndexError in a validator must not lose the event."""

    @event(name="bad.Itemised")
    class Itemised(BaseModel):
        bill: str
        items: list[str] = []

        @field_validator("items")
        @classmethod
        def first_item_is_named(cls, items: list[str]) -> list[str]:
            assert items[0]
            return items

    class BillItemised(ProcessManager):
        @handle(Itemised, start=True, correlate="bill")
        def itemised(self, event: Itemised) -> None: ...

    publish_named("bad.Itemised", {"bill": "b-1", "items": []}, "e-1")
    drain()

    assert (letter().message_ref, letter().exception) == ("e-1", "IndexError")


def test_a_named_event_s_dead_letter_is_routed_when_it_validates_and_is_retried() -> None:
    """The payload is in the old shape; a release that reads both is deployed; the letter is retried."""
    with isolated_registries():

        @event(name="bad.Moved")
        class MovedStrict:
            bill: str
            to: str

        publish_named("bad.Moved", {"bill": "b-1"}, "e-1")
    with pytest.raises(Refused, match="does not know"):
        dead_letters.retry(letter().pk)

    @event(name="bad.Moved")
    class Moved:
        bill: str
        to: str = "somewhere"

    class BillMoved(ProcessManager):
        @handle(Moved, start=True, correlate="bill")
        def moved(self, event: Moved) -> None: ...

    dead_letters.retry(letter().pk)
    drain()

    assert instance("tests.BillMoved").key == "b-1"
    assert letter().status == "retried"


def test_retrying_a_named_event_s_letter_is_refused_while_it_does_not_validate() -> None:
    declare_bill()
    publish_named("bad.BillWritten", {"bill": 7}, "e-1")

    with pytest.raises(Refused, match=r"UndecodablePayload[\s\S]*bill"):
        dead_letters.retry(letter().pk)

    assert letter().status == "open"


def test_a_named_event_whose_correlate_fails_becomes_one_dead_letter_of_its_process() -> None:
    declare_bill()

    publish_named("bad.BillWritten", {"bill": ""}, "e-1")
    drain()

    assert (letter().process, letter().exception) == ("bad.bill", "UnusableKey")


def test_an_event_routed_late_reaches_every_process_but_the_one_whose_correlate_fails(
    time: Time,
) -> None:
    """Conformance 9. It came before its type was known: still, listeners do not affect each other."""
    publish_named("bad.Split", {"bill": "b-1"}, "e-1")

    @event(name="bad.Split")
    class Split:
        bill: str

    class BillSplit(ProcessManager):
        @handle(Split, start=True, correlate="bill")
        def split(self, event: Split) -> None: ...

    class BillSplitBadly(ProcessManager):
        @handle(Split, start=True, correlate=lambda event: event.nonsense)
        def split(self, event: Split) -> None: ...

    drain()
    time.elapse("15s")

    assert instance("tests.BillSplit").number == 1
    assert DeadLetter.objects.get().exception == "AttributeError"


@pytest.mark.parametrize("name", ["bad.CollectBill", "bad.NoSuchThing"])
def test_a_name_that_is_no_event_is_kept(name: str) -> None:
    publish_named(name, {"bill": "b-1"}, "e-1")
    drain()

    row = InboxMessage.objects.get()
    assert row.status == ("dead" if name == "bad.CollectBill" else "pending")
    assert json.loads(row.payload) == {"bill": "b-1"}


@pytest.mark.parametrize("moment", ["yesterday", "2024-01-01T12:00:00", "", 1704067200])
def test_a_named_event_with_an_unreadable_moment_is_kept(moment: Any) -> None:
    """Its sender is gone: the event is worth more than its moment."""
    declare_bill()

    publish_named("bad.BillWritten", {"bill": "b-1"}, "e-1", occurred_at=moment)
    drain()

    assert InboxMessage.objects.filter(message_id="e-1").exists()


@pytest.mark.parametrize("correlation_id", ["", "x" * 256, 7])
def test_a_named_event_with_an_unusable_correlation_id_is_kept(correlation_id: Any) -> None:
    declare_bill()

    publish_named("bad.BillWritten", {"bill": "b-1"}, "e-1", correlation_id=correlation_id)
    drain()

    assert InboxMessage.objects.filter(message_id="e-1").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("", {}, "e-1"), "wire name"),
        (("x" * 201, {}, "e-1"), "wire name"),
        ((7, {}, "e-1"), "wire name"),
        (("a\x00b", {}, "e-1"), "wire name"),
        (("a\ud800", {}, "e-1"), "wire name"),
        (("bad.X", {}, ""), "event_id"),
        (("bad.X", {}, "x" * 256), "event_id"),
        (("bad.X", {"a": object()}, "e-1"), "no JSON"),
        (("bad.X", {"a": float("nan")}, "e-1"), "no JSON"),
        (("bad.X", {"a": "\ud800"}, "e-1"), "no JSON"),
        (("bad.X", {"a": "\x00"}, "e-1"), r"U\+0000"),
        (("bad.X", {"a": "x" * 1024 * 1024}, "e-1"), "MAX_PAYLOAD_BYTES"),
    ],
    ids=[str(number) for number in range(12)],
)
def test_only_what_no_row_can_hold_is_refused_by_name(arguments: Any, words: str) -> None:
    with pytest.raises(InvalidMessage, match=words):
        publish_named(*arguments)

    assert not InboxMessage.objects.exists()


def test_a_conflict_of_ids_is_recorded_also_for_events_by_name() -> None:
    declare_bill()
    publish_named("bad.BillWritten", {"bill": "b-1", "total": "1"}, "e-1")

    publish_named("bad.BillWritten", {"bill": "b-1", "total": "2"}, "e-1")

    assert letter().exception == "EventIdConflict"


def test_an_event_by_name_for_a_broken_process_is_kept() -> None:
    class BillBroken(ProcessManager):
        @handle(BillWritten, start=True)
        def written(self, event: BillWritten) -> None: ...

    publish_named("bad.BillWritten", {"bill": "b-1"}, "e-1")

    assert (letter().exception, letter().message_ref) == ("DeclarationError", "e-1")


# -- every error is ours and says what to do ---------------------------------------------------------


def test_errors_of_the_package_have_one_root() -> None:
    with pytest.raises(PmCeleryError):
        publish("nonsense")
    with pytest.raises(PmCeleryError):
        Retry("often")  # type: ignore[arg-type]


def test_an_unmatched_event_that_waits_says_so_where_it_is_looked_up() -> None:
    declare_bill(unmatched=Wait("1h"))

    event_id = publish(BillPaid("b-1"))
    drain()

    row = InboxMessage.objects.get(message_id=event_id)
    assert (row.status, row.reason) == ("waiting", "no instance yet")


def test_a_uuid_key_and_a_uuid_event_id_are_stored_as_text() -> None:
    @event(name="bad.Identified")
    class Identified:
        bill: UUID

    class BillIdentified(ProcessManager):
        @handle(Identified, start=True, correlate="bill")
        def identified(self, event: Identified) -> None: ...

    bill = uuid4()
    event_id = publish(Identified(bill=bill), event_id=UUID(int=1))  # type: ignore[call-arg]
    drain()

    assert event_id == "00000000-0000-0000-0000-000000000001"
    assert instance("tests.BillIdentified").key == str(bill)
