"""Which instance an event finds, and what becomes of one that finds none."""

from __future__ import annotations

import re
import threading
import time as clocks
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import field
from decimal import Decimal
from enum import Enum, IntEnum
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction

from pm_celery import (
    ProcessManager,
    Retry,
    Wait,
    engine,
    event,
    handle,
    publish,
    publish_many,
)
from pm_celery.exceptions import Refused, UnusableKey
from pm_celery.keys import PARTITIONS, correlation_key, partition_of
from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand, Transition
from pm_celery.operations import dead_letters
from pm_celery.registry import isolated_registries
from tests.driving import Time, Worker, advance_all, drain
from tests.testapp.models import Effect

pytestmark = pytest.mark.django_db(transaction=True)

# The lane of the only queue.
ALL_PARTITIONS = PARTITIONS


@event(name="routing.TicketOpened")
class TicketOpened:
    ticket: Any
    note: str = ""


@event(name="routing.TicketReopened")
class TicketReopened:
    ticket: Any
    note: str = ""


@event(name="routing.CommentWritten")
class CommentWritten:
    ticket: Any
    note: str = ""


@event(name="routing.TicketClosed")
class TicketClosed:
    ticket: Any
    note: str = ""


@event(name="routing.InvoiceSettled")
class InvoiceSettled:
    invoice: int
    reference: str


def declare_ticket(
    *,
    unmatched: Any = None,
    correlate: Any = "ticket",
    opening: Callable[[Any, Any], object] | None = None,
) -> type[ProcessManager]:
    """A process that notes what it hears, and ends with TicketClosed."""

    class Ticket(ProcessManager):
        notes: list[str] = field(default_factory=list)

        class Meta:
            name = "routing.ticket"
            retry = Retry("fixed", delay="1m", max_retries=1, jitter=False)

        @handle(TicketOpened, start=True, correlate=correlate)
        def opened(self, event: TicketOpened) -> object:
            self.notes.append(event.note or "opened")
            return opening(self, event) if opening else None

        @handle(TicketReopened, start=True, correlate=correlate)
        def reopened(self, event: TicketReopened) -> None:
            self.notes.append(event.note or "reopened")

        @handle(CommentWritten, correlate=correlate, unmatched=unmatched)
        def commented(self, event: CommentWritten) -> None:
            self.notes.append(event.note)

        @handle(TicketClosed, correlate=correlate, end=True)
        def closed(self, event: TicketClosed) -> None:
            self.notes.append(event.note or "closed")

    return Ticket


def ticket(key: object) -> Instance:
    return Instance.objects.get(process="routing.ticket", key=str(key))


def notes(process: type[ProcessManager], key: object) -> list[str]:
    found: list[str] = process.definition.load(ticket(key).state).notes  # type: ignore[attr-defined]
    return found


def fate(event_id: str, process: str = "routing.ticket") -> tuple[str, str]:
    """What became of an event: status and reason."""
    row = InboxMessage.objects.get(message_id=event_id, process=process)
    return row.status, row.reason


# -- by key ------------------------------------------------------------------------------------------


def test_the_first_start_event_of_a_key_creates_the_instance() -> None:
    """Conformance 9."""
    declare_ticket()

    event_id = publish(TicketOpened("T-1"))
    assert not Instance.objects.exists()
    drain()

    assert (ticket("T-1").status, ticket("T-1").number) == ("started", 1)
    assert fate(event_id) == ("handled", "")


def test_a_late_event_finds_the_instance_of_its_key(time: Time) -> None:
    """Conformance 9."""
    process = declare_ticket()
    publish(TicketOpened("T-1"))
    drain()
    publish(CommentWritten("T-1", "months later"))

    time.elapse("90d")

    assert notes(process, "T-1") == ["opened", "months later"]
    assert ticket("T-1").number == 2


def test_separate_keys_are_separate_instances() -> None:
    """Conformance 9."""
    process = declare_ticket()
    publish_many([TicketOpened(f"T-{number}") for number in range(40)])
    publish_many([CommentWritten(f"T-{number}", f"note {number}") for number in range(40)])

    drain()

    assert Instance.objects.filter(process="routing.ticket", number=2).count() == 40
    assert notes(process, "T-7") == ["opened", "note 7"]
    assert notes(process, "T-39") == ["opened", "note 39"]


@pytest.mark.parametrize("other", ["t-1", "T-1 ", " T-1", "T-\u200b1", "T-\uff11"])
def test_keys_that_differ_in_one_character_are_separate_instances(other: str) -> None:
    """Conformance 9."""
    process = declare_ticket()
    publish(TicketOpened("T-1"))
    publish(TicketOpened(other))
    publish(CommentWritten(other, "for the other"))

    drain()

    assert notes(process, "T-1") == ["opened"]
    assert notes(process, other) == ["opened", "for the other"]


def test_events_of_a_key_may_be_published_and_handled_together() -> None:
    """Conformance 9."""
    process = declare_ticket()
    publish_many(
        [
            TicketOpened("T-1"),
            CommentWritten("T-1", "a"),
            CommentWritten("T-1", "b"),
            TicketClosed("T-1"),
        ]
    )

    drain()

    assert notes(process, "T-1") == ["opened", "a", "b", "closed"]
    assert ticket("T-1").status == "completed"


def test_several_processes_hear_one_event() -> None:
    """Conformance 9."""
    declare_ticket()

    class TicketStatistics(ProcessManager):
        @handle(TicketOpened, start=True, correlate=lambda event: "all tickets")
        def opened(self, event: TicketOpened) -> None: ...

    event_id = publish(TicketOpened("T-1"))
    drain()

    assert fate(event_id) == fate(event_id, "tests.TicketStatistics") == ("handled", "")
    keys = set(Instance.objects.values_list("process", "key"))
    assert keys == {("routing.ticket", "T-1"), ("tests.TicketStatistics", "all tickets")}


def test_processes_that_hear_one_event_do_not_affect_each_other() -> None:
    """Conformance 9."""
    process = declare_ticket()

    class TicketThatFails(ProcessManager):
        class Meta:
            retry = Retry("none")
            correlate = "ticket"

        @handle(TicketOpened, start=True)
        def opened(self, event: TicketOpened) -> None:
            raise RuntimeError("only here")

    class TicketThatEnds(ProcessManager):
        class Meta:
            correlate = "ticket"
            started_by = [TicketOpened]
            completed_by = [TicketOpened, CommentWritten]

    class TicketThatCannotSay(ProcessManager):
        @handle(TicketOpened, start=True, correlate=lambda event: event.nonsense)
        def opened(self, event: TicketOpened) -> None: ...

    publish(TicketOpened("T-1"))
    publish(CommentWritten("T-1", "still running"))

    drain()

    assert notes(process, "T-1") == ["opened", "still running"]
    statuses = dict(Instance.objects.values_list("process", "status"))
    assert statuses == {
        "routing.ticket": "started",
        "tests.TicketThatFails": "failed",
        "tests.TicketThatEnds": "completed",
    }
    assert DeadLetter.objects.filter(process="tests.TicketThatCannotSay").count() == 1
    assert not DeadLetter.objects.filter(process="routing.ticket").exists()


def test_a_process_hears_events_of_several_aggregates() -> None:
    """Conformance 10."""
    heard: list[str] = []

    class PaidSupport(ProcessManager):
        invoice: int | None = None

        @handle(TicketOpened, start=True, correlate="ticket")
        def opened(self, event: TicketOpened) -> None:
            heard.append("ticket")

        @handle(InvoiceSettled, correlate="reference", end=True)
        def settled(self, event: InvoiceSettled) -> None:
            self.invoice = event.invoice
            heard.append("invoice")

    publish(TicketOpened("T-1"))
    publish(InvoiceSettled(invoice=77, reference="T-1"))

    drain()

    instance = Instance.objects.get(process="tests.PaidSupport", key="T-1")
    assert heard == ["ticket", "invoice"]
    assert instance.status == "completed"
    assert PaidSupport.definition.load(instance.state).invoice == 77  # type: ignore[attr-defined]


# -- keys of every type ------------------------------------------------------------------------------


class Colour(str, Enum):  # noqa: UP042 -- what people wrote before StrEnum
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Grade(int, Enum):
    BEST = 1


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("T-1", "T-1"),
        ("ü 漢字 🙂", "ü 漢字 🙂"),
        ("x" * 255, "x" * 255),
        (7, "7"),
        (0, "0"),
        (-3, "-3"),
        (2**70, str(2**70)),
        (1.5, "1.5"),
        (Decimal("10.20"), "10.20"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (Colour.RED, "red"),
        (Level.HIGH, "3"),
        (Grade.BEST, "1"),
    ],
)
def test_strings_numbers_uuids_and_their_enums_can_be_keys(value: Any, key: str) -> None:
    """Conformance 9."""
    assert correlation_key(value) == key


@pytest.mark.parametrize(
    "value",
    [
        None,
        "None",
        "",
        "   ",
        "\n\t",
        "x" * 256,
        True,
        False,
        b"T-1",
        ("T", 1),
        ["T-1"],
        {"ticket": 1},
        object(),
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        "T\x001",
        "T\ud800",
    ],
    ids=lambda value: repr(value)[:20].encode("ascii", "replace").decode().replace("\x00", ""),
)
def test_nothing_else_can_be_a_key(value: Any) -> None:
    """Conformance 13."""
    with pytest.raises(UnusableKey):
        correlation_key(value)


def test_a_uuid_and_its_text_are_one_key() -> None:
    """Conformance 9. One service publishes the UUID, another one what JSON made of it."""
    process = declare_ticket()
    number = uuid4()
    publish(TicketOpened(number))
    publish(CommentWritten(str(number), "by text"))

    drain()

    assert notes(process, number) == ["opened", "by text"]


@pytest.mark.parametrize(
    "written", [str.upper, lambda text: text.replace("-", ""), "{{{}}}".format]
)
def test_the_key_is_taken_from_the_event_as_it_was_validated(written: Any) -> None:
    """Conformance 9. A UUID may be written in several ways, and pydantic takes them all."""

    @event(name="routing.CaseOpened")
    class CaseOpened:
        case: UUID

    @event(name="routing.CaseClosed")
    class CaseClosed:
        case: UUID

    class CaseOfUuid(ProcessManager):
        class Meta:
            correlate = "case"
            started_by = [CaseOpened]
            completed_by = [CaseClosed]

    case = UUID("abcdefab-cdef-4bcd-8fab-cdefabcdefab")
    publish(CaseOpened(case=case))  # type: ignore[call-arg]
    publish(CaseClosed(case=written(str(case))))  # type: ignore[call-arg]

    drain()

    found = Instance.objects.filter(process="tests.CaseOfUuid").values_list("key", "status")
    assert list(found) == [(str(case), "completed")]


def test_a_function_gets_the_event_as_it_was_validated() -> None:
    """Conformance 9. It would meet strings where the class promises UUIDs."""
    given: list[object] = []

    @event(name="routing.CaseNumbered")
    class CaseNumbered:
        number: int

    def by_number(event: Any) -> Any:
        given.append(event.number)
        return event.number

    class CaseByNumber(ProcessManager):
        @handle(CaseNumbered, start=True, end=True, correlate=by_number)
        def numbered(self, event: Any) -> None: ...

    publish(CaseNumbered(number="007"))  # type: ignore[call-arg]
    drain()

    assert given == [7]
    assert Instance.objects.get(process="tests.CaseByNumber").key == "7"


def test_a_partition_is_the_same_in_every_process_and_release() -> None:
    """Conformance 9. It is stored on rows: these numbers must never change."""
    assert partition_of("shop.Order", "A-1") == 10
    assert partition_of("shop.Order", "ü") == 6
    assert {partition_of("shop.Order", str(number)) for number in range(200)} == set(range(16))


# -- races -------------------------------------------------------------------------------------------


@contextmanager
def handler_held(process: dict[str, threading.Event]) -> Iterator[None]:
    """Wait until a handler is inside, and let it go on at the end."""
    assert process["entered"].wait(timeout=30)
    try:
        yield
    finally:
        process["go on"].set()


def _somebody_waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        if connection.vendor == "mysql":
            # That table is made anew only if nobody has read it for a tenth of a second.
            cursor.execute("DO SLEEP(0.15)")
            cursor.execute(
                "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
            )
        else:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        return bool(cursor.fetchone()[0])


def _until(condition: Callable[[], bool]) -> None:
    end = clocks.monotonic() + 30
    while not condition():
        assert clocks.monotonic() < end, "it never happened"


def test_two_first_events_of_a_key_on_two_workers_give_one_instance() -> None:
    """Conformance 11. Schedule: worker A has created the instance, uncommitted, and is inside the first
    event's handler. A second start event is published, and worker B advances the same partition: it
    finds no instance. Then A commits.
    """
    held = {"entered": threading.Event(), "go on": threading.Event()}

    def hold(process: Any, event: TicketOpened) -> None:
        if event.note == "first":
            held["entered"].set()
            assert held["go on"].wait(timeout=30)

    process = declare_ticket(opening=hold)
    partition = partition_of("routing.ticket", "T-1")
    publish(TicketOpened("T-1", "first"))

    def publish_and_advance() -> None:
        publish(TicketReopened("T-1", "second"))
        engine.advance(ALL_PARTITIONS)

    first = Worker(lambda: engine.advance(partition))
    with handler_held(held):
        second = Worker(publish_and_advance)
        if connection.vendor != "sqlite":
            _until(_somebody_waits_for_a_lock)
    first.finish()
    second.finish()
    # Whoever found the row locked may leave it to the tick.
    drain()

    assert Instance.objects.filter(process="routing.ticket").count() == 1
    assert list(
        Transition.objects.order_by("number").values_list("number", "handler", "message_id")
    ) == [
        (1, "opened", InboxMessage.objects.get(name="routing.TicketOpened").message_id),
        (2, "reopened", InboxMessage.objects.get(name="routing.TicketReopened").message_id),
    ]
    assert notes(process, "T-1") == ["first", "second"]


# MariaDB's says IGNORE, and has quotes; PostgreSQL's is part of a longer one.
INSERTS_INSTANCE = re.compile(r".*\bINSERT (IGNORE )?INTO [`\"]?pm_celery_instance\b", re.DOTALL)


def advance_and_meet(lane: int, meeting: threading.Barrier) -> None:
    """Advance a lane, and wait for the other worker before the first instance is inserted."""
    met: list[str] = []

    def meet(execute: Any, sql: str, parameters: Any, many: bool, context: Any) -> Any:
        if INSERTS_INSTANCE.match(sql) and not met:
            met.append(sql)
            meeting.wait(timeout=30)
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(meet):
        engine.advance(lane)


@pytest.mark.needs("row locks")
def test_two_workers_that_both_find_no_instance_create_one() -> None:
    """Conformance 11. Schedule: two workers, one in the lane of the partition and one in that of all, have
    claimed both events and found no instance; they meet right before each inserts it.
    """
    process = declare_ticket()
    partition = partition_of("routing.ticket", "T-1")
    publish(TicketOpened("T-1", "first"))
    publish(TicketReopened("T-1", "second"))
    meeting = threading.Barrier(2)

    for worker in [
        Worker(partial(advance_and_meet, lane, meeting)) for lane in (partition, ALL_PARTITIONS)
    ]:
        worker.finish()

    assert not meeting.broken
    assert notes(process, "T-1") == ["first", "second"]
    assert ticket("T-1").number == Transition.objects.count() == 2


@pytest.mark.needs("row locks")
def test_a_worker_that_waited_for_a_key_s_first_event_does_not_handle_it_again() -> None:
    """Conformance 11. Schedule: as before, with one event only. Whoever inserts second must find the
    event handled, not run it on the instance that it finds.
    """
    process = declare_ticket()
    partition = partition_of("routing.ticket", "T-1")
    publish(TicketOpened("T-1"))
    meeting = threading.Barrier(2)

    for worker in [
        Worker(partial(advance_and_meet, lane, meeting)) for lane in (partition, ALL_PARTITIONS)
    ]:
        worker.finish()

    assert not meeting.broken
    assert notes(process, "T-1") == ["opened"]
    assert Transition.objects.count() == 1


# -- further start events ----------------------------------------------------------------------------


def test_a_second_start_event_is_handled_by_the_running_instance() -> None:
    """Conformance 12."""
    process = declare_ticket()
    publish(TicketOpened("T-1"))
    drain()
    publish(TicketReopened("T-1"))
    publish(TicketOpened("T-1", "opened again"))

    drain()

    assert notes(process, "T-1") == ["opened", "reopened", "opened again"]
    assert Instance.objects.count() == 1


def test_a_start_event_never_reopens_an_instance_that_has_ended() -> None:
    """Conformance 12."""
    process = declare_ticket()
    publish(TicketOpened("T-1"))
    publish(TicketClosed("T-1"))
    drain()
    ended_at = ticket("T-1").ended_at

    event_id = publish(TicketReopened("T-1"))
    drain()

    assert fate(event_id) == ("skipped", "the instance is completed")
    assert notes(process, "T-1") == ["opened", "closed"]
    assert (ticket("T-1").status, ticket("T-1").ended_at) == ("completed", ended_at)
    assert Transition.objects.count() == 2


def test_a_start_event_behind_the_end_in_one_batch_is_skipped() -> None:
    """Conformance 12."""
    process = declare_ticket()
    publish(TicketOpened("T-1"))
    publish(TicketClosed("T-1"))
    event_id = publish(TicketReopened("T-1"))

    drain()

    assert fate(event_id) == ("skipped", "the instance is completed")
    assert notes(process, "T-1") == ["opened", "closed"]


def test_a_start_event_that_its_handler_declines_leaves_no_instance() -> None:
    """Conformance 12."""
    declare_ticket(opening=lambda process, event: process.ignore("a test ticket"))

    event_id = publish(TicketOpened("T-1"))
    later = publish(CommentWritten("T-1", "hello"))
    drain()

    assert fate(event_id) == ("skipped", "a test ticket")
    assert fate(later) == ("unmatched", "no instance")
    assert not Instance.objects.exists()


def test_an_instance_that_was_declined_once_may_start_later() -> None:
    """Conformance 12."""
    process = declare_ticket(
        opening=lambda process, event: process.ignore("a test ticket") if event.note else None
    )
    publish(TicketOpened("T-1", "just a test"))
    drain()

    publish(TicketOpened("T-1"))
    drain()

    assert notes(process, "T-1") == ["opened"]
    assert ticket("T-1").number == 1


# -- correlates that fail ----------------------------------------------------------------------------


def _raise(event: object) -> str:
    raise LookupError("no such customer")


@pytest.mark.parametrize(
    ("correlate", "exception"),
    [
        (_raise, "LookupError"),
        (lambda event: "", "UnusableKey"),
        (lambda event: "  ", "UnusableKey"),
        (lambda event: True, "UnusableKey"),
        (lambda event: ("T", 1), "UnusableKey"),
        (lambda event: "x" * 256, "UnusableKey"),
        (lambda event: "a\x00b", "UnusableKey"),
        (lambda event: "\ud800", "UnusableKey"),
        (lambda event: event, "UnusableKey"),
        (lambda: "T-1", "TypeError"),
        (lambda event: 10**5000, "ValueError"),
    ],
)
def test_a_correlate_without_a_usable_key_becomes_a_dead_letter(
    correlate: Any, exception: str
) -> None:
    """Conformance 13."""
    declare_ticket(correlate=correlate)

    event_id = publish(TicketOpened("T-1"))
    drain()

    letter = DeadLetter.objects.get()
    assert (letter.place, letter.process, letter.key) == ("correlate", "routing.ticket", "")
    assert (letter.exception, letter.message_ref) == (exception, event_id)
    assert letter.error
    assert fate(event_id)[0] == "dead"
    assert not Instance.objects.exists()


def test_a_correlate_that_fails_does_not_fail_the_code_that_publishes() -> None:
    """Conformance 13. The event happened, whatever a listener thinks of it."""
    declare_ticket(correlate=_raise)

    event_id = publish(TicketOpened("T-1"))

    assert fate(event_id) == ("dead", "no such customer")


def test_a_correlate_whose_query_fails_leaves_the_publisher_s_transaction_usable() -> None:
    """Conformance 13. On PostgreSQL an error of the database aborts the transaction that it happens in."""

    def ask_the_database(event: object) -> str:
        with connection.cursor() as cursor:
            cursor.execute("SELECT key FROM no_such_table")
        return "never"

    declare_ticket(correlate=ask_the_database)

    with transaction.atomic():
        Effect.objects.create(name="before")
        event_id = publish(TicketOpened("T-1"))
        Effect.objects.create(name="after")

    assert Effect.objects.count() == 2
    assert fate(event_id)[0] == "dead"


def test_a_field_that_is_none_becomes_a_dead_letter_and_not_the_key_none() -> None:
    """Conformance 13."""
    declare_ticket()

    publish(TicketOpened(None))
    drain()

    letter = DeadLetter.objects.get()
    assert letter.exception == "UnusableKey"
    assert "None" in letter.error
    assert not Instance.objects.exists()


def test_a_function_that_writes_none_as_text_does_not_make_the_key_none() -> None:
    """Conformance 13. ``str(event.ticket)`` is what people write."""
    declare_ticket(correlate=lambda event: str(event.ticket))

    publish(TicketOpened(None))
    drain()

    assert not Instance.objects.filter(key="None").exists()
    assert DeadLetter.objects.get().exception == "UnusableKey"


def test_a_function_that_returns_none_says_that_the_event_is_not_for_it() -> None:
    """Conformance 13."""
    declare_ticket(correlate=lambda event: event.ticket if event.note != "spam" else None)

    publish(TicketOpened("T-1", "spam"))
    publish(TicketOpened("T-2"))
    drain()

    assert list(Instance.objects.values_list("key", flat=True)) == ["T-2"]
    assert not DeadLetter.objects.exists()


def test_a_correlate_s_dead_letter_is_routed_once_the_code_is_mended() -> None:
    """Conformance 13."""
    with isolated_registries():
        declare_ticket(correlate=_raise)
        event_id = publish(TicketOpened("T-1"))
    process = declare_ticket()
    drain()
    assert not Instance.objects.exists()

    dead_letters.retry(DeadLetter.objects.get().pk, by="anna")
    drain()

    assert notes(process, "T-1") == ["opened"]
    assert fate(event_id) == ("handled", "")
    assert DeadLetter.objects.get().status == "retried"


def test_retrying_a_correlate_s_dead_letter_is_refused_while_it_still_fails() -> None:
    """Conformance 13."""
    declare_ticket(correlate=_raise)
    publish(TicketOpened("T-1"))

    with pytest.raises(Refused, match="LookupError: no such customer"):
        dead_letters.retry(DeadLetter.objects.get().pk)

    assert DeadLetter.objects.get().status == "open"


def test_retrying_a_correlate_s_dead_letter_may_find_that_it_is_not_for_the_process() -> None:
    """Conformance 13."""
    with isolated_registries():
        declare_ticket(correlate=_raise)
        event_id = publish(TicketOpened("T-1"))
    declare_ticket(correlate=lambda event: None)

    dead_letters.retry(DeadLetter.objects.get().pk)
    drain()

    assert fate(event_id)[0] == "skipped"
    assert not Instance.objects.exists()


def test_publishing_an_event_again_whose_correlate_failed_opens_no_second_letter() -> None:
    """Conformance 13."""
    declare_ticket(correlate=_raise)

    publish(TicketOpened("T-1"), event_id="e-1")
    publish(TicketOpened("T-1"), event_id="e-1")

    assert DeadLetter.objects.count() == 1


# -- unmatched events --------------------------------------------------------------------------------


def test_an_event_that_no_instance_waits_for_is_recorded_as_unmatched() -> None:
    """Conformance 14."""
    declare_ticket()

    event_id = publish(CommentWritten("T-1"))
    drain()
    publish(TicketOpened("T-1"))
    drain()

    assert fate(event_id) == ("unmatched", "no instance")
    assert InboxMessage.objects.get(message_id=event_id).handled_at is not None
    assert ticket("T-1").number == 1
    assert not DeadLetter.objects.exists()


def test_an_unmatched_event_leaves_no_instance_behind() -> None:
    """Conformance 14."""
    declare_ticket()

    publish(CommentWritten("T-1"))
    drain()

    assert not Instance.objects.exists()


def test_an_unmatched_event_becomes_a_dead_letter_where_the_handler_says_so() -> None:
    """Conformance 14."""
    declare_ticket(unmatched="dead_letter")

    event_id = publish(CommentWritten("T-1"))
    drain()

    letter = DeadLetter.objects.get()
    assert (letter.place, letter.process, letter.key) == ("unmatched", "routing.ticket", "T-1")
    assert (letter.exception, letter.message_ref) == ("UnmatchedEvent", event_id)
    assert fate(event_id)[0] == "dead"
    assert not Instance.objects.exists()


def test_an_unmatched_event_s_letter_is_handled_when_retried_after_the_start() -> None:
    """Conformance 14."""
    process = declare_ticket(unmatched="dead_letter")
    publish(CommentWritten("T-1", "early"))
    drain()
    publish(TicketOpened("T-1"))
    drain()

    dead_letters.retry(DeadLetter.objects.get().pk)
    drain()

    assert notes(process, "T-1") == ["opened", "early"]


def test_an_unmatched_event_s_letter_that_is_retried_in_vain_dies_again() -> None:
    """Conformance 14."""
    declare_ticket(unmatched="dead_letter")
    publish(CommentWritten("T-1", "early"))
    drain()

    dead_letters.retry(DeadLetter.objects.get().pk)
    drain()

    assert list(DeadLetter.objects.order_by("id").values_list("status", flat=True)) == [
        "retried",
        "open",
    ]


def test_an_event_that_may_wait_is_kept_until_the_start_event_arrives() -> None:
    """Conformance 14."""
    process = declare_ticket(unmatched=Wait("1h"))
    event_id = publish(CommentWritten("T-1", "early"))
    drain()
    assert fate(event_id) == ("waiting", "no instance yet")
    assert not Instance.objects.exists()

    publish(TicketOpened("T-1"))
    drain()

    assert notes(process, "T-1") == ["opened", "early"]
    assert fate(event_id) == ("handled", "")


def test_events_that_waited_are_handled_in_their_order_and_before_later_ones() -> None:
    """Conformance 14."""
    process = declare_ticket(unmatched=Wait("1h"))
    for note in ("a", "b", "c"):
        publish(CommentWritten("T-1", note))
        drain()

    publish(TicketOpened("T-1"))
    publish(CommentWritten("T-1", "d"))
    publish(TicketClosed("T-1"))
    drain()

    assert notes(process, "T-1") == ["opened", "a", "b", "c", "d", "closed"]


def test_events_that_waited_are_in_order_also_if_all_are_seen_at_once() -> None:
    """Conformance 14."""
    process = declare_ticket(unmatched=Wait("1h"))
    publish_many(
        [
            CommentWritten("T-1", "a"),
            CommentWritten("T-1", "b"),
            TicketOpened("T-1"),
            CommentWritten("T-1", "c"),
            TicketClosed("T-1"),
        ]
    )

    drain()

    assert notes(process, "T-1") == ["opened", "a", "b", "c", "closed"]


def test_a_waiting_event_starts_nothing_for_another_key() -> None:
    """Conformance 14."""
    process = declare_ticket(unmatched=Wait("1h"))
    event_id = publish(CommentWritten("T-1", "early"))
    drain()

    publish(TicketOpened("T-2"))
    drain()

    assert fate(event_id)[0] == "waiting"
    assert notes(process, "T-2") == ["opened"]


def test_a_waiting_event_is_given_up_when_its_time_is_over(time: Time) -> None:
    """Conformance 14."""
    process = declare_ticket(unmatched=Wait("1h"))
    event_id = publish(CommentWritten("T-1", "early"))
    drain()
    time.elapse("59m")
    assert fate(event_id)[0] == "waiting"

    time.elapse("2m")
    publish(TicketOpened("T-1"))
    drain()

    assert fate(event_id) == ("unmatched", "no start event came in time")
    assert notes(process, "T-1") == ["opened"]


def test_what_waits_outlives_what_is_given_up_before_it(time: Time) -> None:
    """Conformance 14."""
    process = declare_ticket(unmatched=Wait("1h"))
    gone = publish(CommentWritten("T-1", "gone"))
    drain()
    time.elapse("40m")
    publish(CommentWritten("T-1", "kept"))
    drain()
    time.elapse("40m")

    publish(TicketOpened("T-1"))
    drain()

    assert fate(gone)[0] == "unmatched"
    assert notes(process, "T-1") == ["opened", "kept"]


def test_a_start_event_that_came_in_time_is_in_time_also_after_an_outage(time: Time) -> None:
    """Conformance 14. No worker runs for two hours: the start event lies behind the early one, and both
    have been there all the time.
    """
    process = declare_ticket(unmatched=Wait("1h"))
    publish(CommentWritten("T-1", "early"))
    publish(TicketOpened("T-1"))

    time.elapse("2h")

    assert notes(process, "T-1") == ["opened", "early"]


def test_what_waits_goes_on_waiting_when_a_start_event_is_declined() -> None:
    """Conformance 14."""
    process = declare_ticket(
        unmatched=Wait("1h"),
        opening=lambda process, event: process.ignore("a test") if event.note == "test" else None,
    )
    event_id = publish(CommentWritten("T-1", "early"))
    drain()

    publish(TicketOpened("T-1", "test"))
    drain()
    assert fate(event_id)[0] == "waiting"
    publish(TicketOpened("T-1"))
    drain()

    assert notes(process, "T-1") == ["opened", "early"]


def test_what_waited_is_skipped_when_the_start_event_ends_the_instance() -> None:
    """Conformance 14."""
    declare_ticket(unmatched=Wait("1h"), opening=lambda process, event: process.complete())
    event_id = publish(CommentWritten("T-1", "early"))
    drain()

    publish(TicketOpened("T-1"))
    drain()

    assert fate(event_id) == ("skipped", "the instance is completed")
    assert ticket("T-1").number == 1


def test_what_waits_is_handled_after_a_start_event_that_succeeds_in_its_second_run(
    time: Time,
) -> None:
    """Conformance 14."""
    broken = [True]

    def opening(process: Any, event: TicketOpened) -> None:
        if broken and broken.pop():
            raise RuntimeError("once")

    process = declare_ticket(unmatched=Wait("1h"), opening=opening)
    publish(CommentWritten("T-1", "early"))
    drain()
    publish(TicketOpened("T-1"))
    publish(CommentWritten("T-1", "late"))
    drain()
    assert not Instance.objects.exists()

    time.elapse("1m")

    assert notes(process, "T-1") == ["opened", "early", "late"]


def test_what_waits_is_handled_after_a_start_event_that_was_a_dead_letter(time: Time) -> None:
    """Conformance 14. The letter is retried: the start event must run before what waited for it."""
    broken = [True]

    def opening(process: Any, event: TicketOpened) -> None:
        if broken:
            raise RuntimeError("until it is mended")

    process = declare_ticket(unmatched=Wait("1d"), opening=opening)
    publish(CommentWritten("T-1", "early"))
    drain()
    publish(TicketOpened("T-1"))
    drain()
    time.elapse("1m")
    assert ticket("T-1").status == "failed"
    publish(CommentWritten("T-1", "late"))
    drain()

    broken.clear()
    dead_letters.retry(DeadLetter.objects.get().pk)
    drain()

    assert notes(process, "T-1") == ["opened", "early", "late"]


def test_a_start_event_is_found_behind_more_waiting_events_than_a_batch_holds(
    settings: Any,
) -> None:
    """Conformance 14."""
    settings.PM_CELERY = {"BATCH_SIZE": 3, "ADVANCE_SECONDS": 0.5}
    process = declare_ticket(unmatched=Wait("1h"))
    for number in range(5):
        publish(CommentWritten("T-1", f"early {number}"))
    drain()
    publish(TicketOpened("T-1"))
    publish(CommentWritten("T-1", "late"))

    for _ in range(3):
        advance_all()

    assert notes(process, "T-1") == ["opened", *(f"early {n}" for n in range(5)), "late"]


def test_waiting_events_of_one_key_hold_up_no_other_key(settings: Any) -> None:
    """Conformance 14."""
    settings.PM_CELERY = {"BATCH_SIZE": 3, "ADVANCE_SECONDS": 0.5}
    process = declare_ticket(unmatched=Wait("1h"))
    partition = partition_of("routing.ticket", "T-1")
    neighbour = next(
        f"N-{n}" for n in range(1000) if partition_of("routing.ticket", f"N-{n}") == partition
    )
    for number in range(5):
        publish(CommentWritten("T-1", f"early {number}"))
    drain()
    publish(CommentWritten("T-1", "early 6"))
    publish(TicketOpened(neighbour))

    advance_all()

    assert notes(process, neighbour) == ["opened"]


def test_each_handler_has_its_own_rule_for_unmatched_events_and_meta_has_one_for_all() -> None:
    """Conformance 14."""

    class TicketOfRules(ProcessManager):
        class Meta:
            unmatched = Wait("1h")
            correlate = "ticket"

        @handle(TicketOpened, start=True)
        def opened(self, event: TicketOpened) -> None: ...

        @handle(CommentWritten)
        def commented(self, event: CommentWritten) -> None: ...

        @handle(TicketClosed, end=True, unmatched="ignore")
        def closed(self, event: TicketClosed) -> None: ...

    comment = publish(CommentWritten("T-1"))
    closing = publish(TicketClosed("T-1"))
    drain()

    assert fate(comment, "tests.TicketOfRules")[0] == "waiting"
    assert fate(closing, "tests.TicketOfRules")[0] == "unmatched"


def test_what_became_of_every_event_can_be_looked_up() -> None:
    """Conformance 14."""
    declare_ticket(unmatched=Wait("1h"))
    ids = {
        "handled": publish(TicketOpened("T-1")),
        "waiting": publish(CommentWritten("T-2")),
        "unmatched": publish(TicketClosed("T-3")),
        "dead": publish(TicketOpened(None)),
    }
    publish(TicketClosed("T-1"))
    ids["skipped"] = publish(TicketReopened("T-1"))

    drain()

    assert {status: fate(event_id)[0] for status, event_id in ids.items()} == {
        status: status for status in ids
    }


# -- nobody hears it ---------------------------------------------------------------------------------


def test_an_event_that_nobody_handles_costs_nothing_and_raises_nothing(
    django_assert_num_queries: Any,
) -> None:
    """Conformance 15."""

    @event(name="routing.CoffeeBrewed")
    class CoffeeBrewed:
        cup: int

    with django_assert_num_queries(0):
        event_id = publish(CoffeeBrewed(cup=1))  # type: ignore[call-arg]

    assert UUID(event_id)
    assert not InboxMessage.objects.exists()
    assert not OutboxCommand.objects.exists()


def test_an_event_that_nobody_handles_must_be_valid_all_the_same() -> None:
    """Conformance 15. Or its first listener would reveal the publisher's old mistake."""

    @event(name="routing.TeaBrewed")
    class TeaBrewed:
        cup: int

    with pytest.raises(ValueError, match="cup"):
        publish(TeaBrewed(cup="many"))  # type: ignore[call-arg]


def test_a_name_that_comes_from_elsewhere_and_that_nobody_handles_is_settled() -> None:
    """Conformance 15."""
    from pm_celery.publishing import publish_named

    @event(name="routing.SoupCooked")
    class SoupCooked:
        pot: int

    assert publish_named("routing.SoupCooked", {"pot": 1}, "soup-1") == "soup-1"
    drain()

    assert not InboxMessage.objects.exclude(status__in=["handled", "unmatched"]).exists()
