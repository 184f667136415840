"""Tracing: what OpenTelemetry's in-memory exporter is given, from publishing to the end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated, Any
from uuid import uuid4

import pytest
from django.db import transaction
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from pm_celery import (
    ProcessManager,
    Retry,
    Sensitive,
    command,
    command_handler,
    engine,
    event,
    handle,
    on_timeout,
    policy,
    publish,
    publish_many,
    tracing,
)
from pm_celery.keys import PARTITIONS
from pm_celery.models import InboxMessage, OutboxCommand, Timer
from pm_celery.operations import timers
from tests.driving import Time, drain
from tests.orders import Broken, Paid, Placed, Plan, Reserved

pytestmark = pytest.mark.django_db(transaction=True)


class Spans:
    """What was exported, and questions about it."""

    def __init__(self, provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
        self.tracer = provider.get_tracer("a project")
        self._exporter = exporter

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        found = self.named(name)
        assert len(found) == 1, f"{len(found)} spans {name!r} of {[span.name for span in self.all]}"
        return found[0]

    def above(self, span: ReadableSpan) -> list[str]:
        """The names from a span up to the root of its trace; every one of them was exported."""
        by_id = {found.context.span_id: found for found in self.all}
        names = []
        while span.parent is not None:
            span = by_id[span.parent.span_id]
            names.append(span.name)
        return names


def use(provider: Any) -> None:
    otel._TRACER_PROVIDER = provider


@pytest.fixture
def spans() -> Iterator[Spans]:
    """A provider as a project configures one; there is none again afterwards."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    before = otel._TRACER_PROVIDER
    use(provider)
    yield Spans(provider, exporter)
    use(before)


def linked(span: ReadableSpan) -> set[str]:
    return {format_span_id(link.context.span_id) for link in span.links}


def id_of(span: ReadableSpan) -> str:
    return format_span_id(span.context.span_id)


def exception_of(span: ReadableSpan) -> dict[str, Any]:
    (found,) = [event for event in span.events if event.name == "exception"]
    return dict(found.attributes or {})


def test_one_trace_goes_from_the_web_request_through_commands_and_their_events_to_the_end(
    spans: Spans,
) -> None:
    """Two commands of one order, of which the first publishes an event that is handled in turn."""
    order = uuid4()
    with spans.tracer.start_as_current_span("POST /orders") as request, transaction.atomic():
        publish(Placed(order_id=order))
    drain()
    with otel.use_span(request), transaction.atomic():
        publish(Paid(order_id=order))
    drain()

    placed = ["publish tests.Placed", "POST /orders"]
    reserved = ["run tests.Reserve", "handle tests.Order tests.Placed", *placed]
    road = {
        "handle tests.Order tests.Placed": placed,
        "run tests.Reserve": reserved[1:],
        "publish tests.Reserved": reserved,
        "handle tests.Order tests.Reserved": ["publish tests.Reserved", *reserved],
        "run tests.Ship": [
            "handle tests.Order tests.Paid",
            "publish tests.Paid",
            "POST /orders",
        ],
    }
    for name, above in road.items():
        assert spans.above(spans.one(name)) == above
        assert spans.one(name).context.trace_id == request.get_span_context().trace_id
    row = InboxMessage.objects.get(name="tests.Reserved")
    assert row.trace.split("-")[1:3] == [
        format_trace_id(request.get_span_context().trace_id),
        id_of(spans.one("publish tests.Reserved")),
    ]


def test_a_span_says_what_ran_and_never_the_key(spans: Spans) -> None:
    order = uuid4()
    event_id = publish(Placed(order_id=order), correlation_id="conversation")
    drain()

    handled = spans.one("handle tests.Order tests.Placed")
    told = dict(handled.attributes or {})
    instance = OutboxCommand.objects.get(name="tests.Reserve").instance_id
    assert told == {
        "messaging.system": "pm_celery",
        "messaging.operation.name": "handle",
        "messaging.operation.type": "process",
        "messaging.destination.name": "tests.Order",
        "messaging.message.id": event_id,
        "messaging.message.conversation_id": "conversation",
        "pm_celery.process": "tests.Order",
        "pm_celery.instance.id": instance,
        "pm_celery.message.kind": "event",
        "pm_celery.message.name": "tests.Placed",
        "pm_celery.attempt": 1,
        "pm_celery.transition.number": 1,
    }
    kinds = {span.name: span.kind for span in spans.all}
    assert kinds["publish tests.Placed"] == SpanKind.PRODUCER
    assert kinds["handle tests.Order tests.Placed"] == SpanKind.CONSUMER
    assert kinds["run tests.Reserve"] == SpanKind.CONSUMER
    assert all(
        str(order) not in str(value) for s in spans.all for value in (s.attributes or {}).values()
    )


def test_keys_are_told_where_a_setting_wants_them(spans: Spans, settings: Any) -> None:
    settings.PM_CELERY = {"TRACE_KEYS": True}
    order = uuid4()
    publish(Placed(order_id=order))
    drain()

    for name in ("handle tests.Order tests.Placed", "run tests.Reserve"):
        assert (spans.one(name).attributes or {})["pm_celery.key"] == str(order)


def test_a_batch_of_several_publishers_events_is_linked_with_each_of_them(spans: Spans) -> None:
    """So is one call that publishes several: their spans are siblings, and each has its own rows."""
    for name in ("first", "second"):
        with spans.tracer.start_as_current_span(name):
            publish_many([Declared(case_id=7), Declared(case_id=7)])
    # The lane of whoever is woken first: it looks at all partitions.
    engine.advance(PARTITIONS)

    published = spans.named("publish tests.Declared")
    assert [spans.above(span) for span in published] == [["first"]] * 2 + [["second"]] * 2
    batch = spans.one("advance")
    assert linked(batch) == {id_of(span) for span in published}
    assert (batch.attributes or {})["messaging.batch.message_count"] == 4
    assert batch.parent is None
    handled = spans.named("handle tests.declare tests.Declared")
    assert {span.parent.span_id for span in handled if span.parent} == {
        span.context.span_id for span in published
    }
    assert all(linked(span) == {id_of(batch)} for span in handled)


def test_commands_that_go_to_celery_together_are_linked_with_their_handlers(spans: Spans) -> None:
    publish_many([Placed(order_id=uuid4()) for _ in range(40)])
    drain()

    sent = spans.named("dispatch")
    assert any(len(span.links) > 1 for span in sent)
    handled = {id_of(span) for span in spans.named("handle tests.Order tests.Placed")}
    assert {link for span in sent for link in linked(span)} == handled


def test_a_retry_is_a_further_span_with_its_attempt(spans: Spans, time: Time) -> None:
    Plan.raise_in["placed"] = Broken("not now")
    publish(Placed(order_id=uuid4()))
    drain()
    Plan.raise_in.clear()
    time.elapse("1s")

    first, second = spans.named("handle tests.Order tests.Placed")
    attempts = [(span.attributes or {})["pm_celery.attempt"] for span in (first, second)]
    assert attempts == [1, 2]
    assert [span.status.status_code for span in (first, second)] == [
        StatusCode.ERROR,
        StatusCode.UNSET,
    ]
    assert first.status.description == "Broken: not now"
    assert first.parent == second.parent
    assert first.context.trace_id == second.context.trace_id
    assert "placed" in exception_of(first)["exception.stacktrace"]


def test_who_hears_of_a_failed_command_goes_on_in_its_trace(spans: Spans, time: Time) -> None:
    order_id = uuid4()
    publish_many([Placed(order_id=order_id), Paid(order_id=order_id)])
    Plan.raise_in["ship"] = Broken("no lorry")
    drain()
    time.elapse("5s")

    told = InboxMessage.objects.get(message_id__startswith="command-failed:")
    assert told.trace == OutboxCommand.objects.get(name="tests.Ship").trace != ""


def test_a_run_that_was_undone_because_of_another_ones_failure_says_so(
    spans: Spans, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    """Schedule: one batch; five orders are handled, then the sixth raises; the five run once more."""
    settings.PM_CELERY = {"ADVANCE_SECONDS": 60, "BATCH_SECONDS": 60}
    orders = [uuid4() for _ in range(6)]
    publish_many([Placed(order_id=order) for order in orders])
    drain()
    monkeypatch.setattr(
        engine.random,
        "sample",
        lambda cases, _: sorted(cases, key=lambda case: case.rows[-1].name == "tests.Paid"),
    )
    Plan.raise_in["paid"] = Broken("this one")
    publish_many([*(Reserved(order_id=order) for order in orders[1:]), Paid(order_id=orders[0])])
    before = len(spans.all)
    engine.advance(PARTITIONS)

    runs = [span for span in spans.all[before:] if span.name.endswith("tests.Reserved")]
    undone = ["pm_celery.rolled_back" in (span.attributes or {}) for span in runs]
    assert undone == [True] * 5 + [False] * 5
    failed = [span for span in spans.named("advance") if not span.status.is_ok]
    assert [span.status.description for span in failed] == ["rolled back"]


def test_a_timer_goes_on_in_the_trace_of_who_set_it_and_so_does_a_timeout(
    spans: Spans, time: Time
) -> None:
    with spans.tracer.start_as_current_span("POST /orders") as request:
        publish(Placed(order_id=uuid4()))
        publish(Placed(order_id=uuid4()))
    drain()
    timers.fire(Timer.objects.latest("pk").pk)
    time.elapse("8d")

    reminded = spans.named("handle tests.Order reminder")
    timed_out = spans.named("handle tests.Order timeout")
    assert len(reminded) == len(timed_out) == 2
    for span in (*reminded, *timed_out, *spans.named("run tests.Cancel")):
        assert span.context.trace_id == request.get_span_context().trace_id
        assert spans.above(span)[-2:] == ["publish tests.Placed", "POST /orders"]
    ticks = [dict(span.attributes or {}) for span in spans.named("tick")]
    assert any(tick["pm_celery.fired"] for tick in ticks)
    assert all(any(tick.values()) for tick in ticks)


@event
class Declared:
    case_id: int
    pin: Annotated[str, Sensitive] = ""


@command
class Check:
    case_id: int
    pin: Annotated[str, Sensitive] = ""


@pytest.fixture(autouse=True)
def _declared() -> None:
    """Declared anew for each test, which forgets what it declares."""

    @policy(Declared, name="tests.declare")
    def declare(event: Declared, reaction: Any) -> None:
        if event.pin:
            reaction.send(Check(event.case_id, event.pin))

    @command_handler(Check, retry=Retry("none"))
    def check(command: Check) -> None:
        raise Broken(f"the pin {command.pin} is wrong")


def test_a_dead_letter_records_the_error_without_values_that_are_not_to_be_shown(
    spans: Spans,
) -> None:
    with spans.tracer.start_as_current_span("POST /cases") as request:
        publish(Declared(case_id=1, pin="4711-0815"))
    drain()

    ran, died = spans.one("run tests.Check"), spans.one("dead letter tests.Check")
    for span in (ran, died):
        assert span.status.status_code == StatusCode.ERROR
        assert span.status.description == "Broken: the pin ••• is wrong"
        assert exception_of(span)["exception.type"] == "Broken"
        assert exception_of(span)["exception.message"] == "the pin ••• is wrong"
        assert "•••" in exception_of(span)["exception.stacktrace"]
        assert span.context.trace_id == request.get_span_context().trace_id
    assert (died.attributes or {})["pm_celery.letter.place"] == "command"
    assert all("4711-0815" not in span.to_json() for span in spans.all)


def test_what_a_state_holds_and_is_not_to_be_shown_is_in_no_span(spans: Spans, time: Time) -> None:
    class Case(ProcessManager):
        pin: Annotated[str, Sensitive] = ""

        class Meta:
            timeout = "1d"
            retry = Retry("none")

        @handle(Declared, start=True, correlate="case_id")
        def declared(self, event: Declared) -> None:
            self.pin = event.pin

        @on_timeout
        def timed_out(self) -> None:
            raise Broken(f"nobody asked for {self.pin}")

    publish(Declared(case_id=2, pin="4711-0815"))
    drain()
    time.elapse("2d")

    failed = spans.one("handle tests.Case timeout")
    assert failed.status.description == "Broken: nobody asked for •••"
    assert all("4711-0815" not in span.to_json() for span in spans.all)


def test_publishing_that_is_refused_says_so_without_its_words(spans: Spans) -> None:
    with pytest.raises(Exception, match="does not validate"):
        publish_many([Placed(order_id=uuid4()), Placed(order_id="4711-0815")])  # type: ignore[arg-type]

    (refused,) = spans.named("publish tests.Placed")
    assert refused.status.description == "InvalidMessage"
    assert "4711-0815" not in refused.to_json()


def test_what_a_publisher_does_not_sample_nobody_samples(spans: Spans) -> None:
    provider = otel.get_tracer_provider()
    use(TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False))
    publish(Placed(order_id=uuid4()))
    use(provider)
    drain()

    assert not int(InboxMessage.objects.get(name="tests.Placed").trace[-2:], 16) & 1
    assert not [span for span in spans.all if span.name.startswith(("handle", "run"))]


def test_without_a_provider_nothing_is_made_and_nothing_stored() -> None:
    publish(Placed(order_id=uuid4()))
    drain()

    assert not tracing.is_on()
    assert tracing.batch() is tracing.publishing() is tracing.NOTHING
    assert {row.trace for row in InboxMessage.objects.all()} == {""}
    assert {row.trace for row in OutboxCommand.objects.all()} == {""}


def test_workers_without_a_provider_hand_on_to_commands_what_the_publisher_traced(
    spans: Spans,
) -> None:
    provider = otel.get_tracer_provider()
    publish(Placed(order_id=uuid4()))
    use(None)
    drain()
    use(provider)

    assert OutboxCommand.objects.get(name="tests.Reserve").trace == (
        InboxMessage.objects.get(name="tests.Placed").trace
    )


@pytest.mark.any_database
def test_without_opentelemetry_the_package_works_as_ever() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import django; django.setup()\n"
        "from pm_celery import tracing\n"
        "assert not tracing.is_on()\n"
        "with tracing.batch() as traced: traced.join([]); traced.commit()\n"
        "with tracing.publishing() as traced: assert traced.publish('a', 'b', 'c') == ''\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
