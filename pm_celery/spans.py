"""The spans themselves, and what rows hold of them. ``tracing.py`` says when there is one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, Self

from pm_celery import redaction
from pm_celery.wording import name_of, text_of, trace_of

try:
    from opentelemetry import context as contexts
    from opentelemetry import trace as otel
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    otel = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, Tracer

__all__ = [
    "NOTHING",
    "SYSTEM",
    "Batch",
    "Command",
    "HandlerRun",
    "Message",
    "Publication",
    "Run",
    "Spanned",
    "Traceable",
    "Traced",
    "current_batch",
    "describe",
    "links",
    "messaging",
    "operation",
    "read",
]

SYSTEM = "pm_celery"


class Message(Protocol):
    """A row of the inbox, as a span tells of it."""

    message_id: str
    kind: str
    name: str
    payload: str
    process: str
    key: str
    attempts: int
    correlation_id: str
    trace: str


class Traceable(Protocol):
    """A row that may descend from a span."""

    @property
    def trace(self) -> str: ...


class Command(Protocol):
    """A row of the outbox, as a span tells of it."""

    command_id: Any
    name: str
    payload: str
    process: str
    key: str
    instance_id: int | None
    correlation_id: str
    trace: str


# -- spans ------------------------------------------------------------------------------------------


class Traced:
    """What is traced; this one is not. A span is the current one between ``with`` and its end."""

    #: For a row that descends from it: a traceparent, or "".
    trace = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def decide(self, skipped: str | None, number: int) -> None:
        """What the handler decided: a transition of that number, or, with a reason, nothing."""

    def fail(self, error: BaseException, state: str = "") -> None:
        """Record a run's error: its class, words and traceback, without what is not to be shown.

        state: that of the instance, which the error may quote.
        """

    def join(self, rows: Iterable[Traceable]) -> None:
        """Link to what the rows of a batch descend from."""

    def commit(self) -> None:
        """What was run in the batch stays."""

    def publish(self, name: str, message_id: str, correlation_id: str) -> str:
        """One more event is published, in the trace of whoever publishes it; the trace of its rows."""
        return ""


NOTHING = Traced()


class Spanned(Traced):
    def __init__(self, span: Span) -> None:
        self.span = span
        self.trace = written(span)

    def __enter__(self) -> Self:
        self._token = contexts.attach(otel.set_span_in_context(self.span))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        contexts.detach(self._token)
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        self.span.end()

    def join(self, rows: Iterable[Traceable]) -> None:
        if self.span.is_recording():
            traces = [row.trace for row in rows]
            self.span.set_attribute("messaging.batch.message_count", len(traces))
            for link in links(traces):
                self.span.add_link(link.context)


class Run(Spanned):
    """A run of a handler or command handler."""

    def __init__(self, span: Span, row: Message | Command) -> None:
        super().__init__(span)
        self._row = row

    def fail(self, error: BaseException, state: str = "") -> None:
        if self.span.is_recording():
            row = self._row
            kind = getattr(row, "kind", "")
            hide = redaction.hider(row.name, row.process, row.payload, kind=kind, state=state)
            # Not the SDK's record_exception, which takes the exception's own words.
            describe(self.span, name_of(error), text_of(error, hide), trace_of(error, hide))


class HandlerRun(Run):
    """It ends with its handler; but whether it counts is known with its batch's commit."""

    def __init__(self, span: Span, row: Message, within: Batch) -> None:
        super().__init__(span, row)
        self._within = within

    def decide(self, skipped: str | None, number: int) -> None:
        if skipped is not None:
            self.span.set_attribute(f"{SYSTEM}.skipped", skipped)
        elif number:
            self.span.set_attribute(f"{SYSTEM}.transition.number", number)

    def end(self, error: BaseException | None) -> None:
        if error is not None:
            self.span.end()
        else:
            self._within.runs.append((self.span, time.time_ns()))


class Publication(Traced):
    """Events that are published together. Their spans are siblings, and none of them is the current one."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._spans: list[Span] = []

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        for span in self._spans:
            if error is not None:
                # Its words may quote a value of any of the events.
                span.set_status(otel.Status(otel.StatusCode.ERROR, name_of(error)))
            span.end()

    def publish(self, name: str, message_id: str, correlation_id: str) -> str:
        attributes = messaging("publish", "send", name, message_id, correlation_id)
        span = self._tracer.start_span(
            f"publish {name}", kind=otel.SpanKind.PRODUCER, attributes=attributes
        )
        self._spans.append(span)
        return written(span)


class Batch(Spanned):
    def __init__(self, tracer: Tracer) -> None:
        super().__init__(tracer.start_span("advance", attributes=operation("advance", "receive")))
        self.tracer = tracer
        self.runs: list[tuple[Span, int]] = []

    def __enter__(self) -> Self:
        self._before = current_batch.set(self)
        return super().__enter__()

    def end(self, error: BaseException | None) -> None:
        current_batch.reset(self._before)
        self._end_runs(is_rolled_back=True)
        if self.span.is_recording() and error is not None:
            self.span.set_status(otel.Status(otel.StatusCode.ERROR, "rolled back"))
        self.span.end()

    def commit(self) -> None:
        self._end_runs(is_rolled_back=False)

    def _end_runs(self, *, is_rolled_back: bool) -> None:
        for span, ended_at in self.runs:
            if is_rolled_back:
                span.set_attribute(f"{SYSTEM}.rolled_back", True)
            span.end(ended_at)
        self.runs.clear()


current_batch: ContextVar[Batch | None] = ContextVar("pm_celery_traced_batch", default=None)


def describe(span: Span, exception: str, error: str, traceback: str) -> None:
    span.set_status(otel.Status(otel.StatusCode.ERROR, f"{exception}: {error}"[:1000]))
    span.set_attribute("error.type", exception)
    span.add_event(
        "exception",
        {
            "exception.type": exception,
            "exception.message": error,
            "exception.stacktrace": traceback,
        },
    )


# -- traceparents -----------------------------------------------------------------------------------


def written(span: Span) -> str:
    """The traceparent of a span."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, otel.set_span_in_context(span))
    return carrier.get("traceparent", "")


def read(trace: str) -> Context:
    """A context in which the span of a traceparent is the current one; nothing is, for "" and nonsense."""
    empty = contexts.Context()
    return (
        TraceContextTextMapPropagator().extract({"traceparent": trace}, empty) if trace else empty
    )


def links(traces: Iterable[str]) -> list[Link]:
    found = (otel.get_current_span(read(trace)) for trace in dict.fromkeys(traces))
    spans = [span.get_span_context() for span in found]
    return [otel.Link(context) for context in spans if context.is_valid]


# -- attributes -------------------------------------------------------------------------------------


def operation(name: str, kind: str) -> dict[str, str | int]:
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
    }


def messaging(
    name: str, kind: str, destination: str, message_id: str, correlation_id: str
) -> dict[str, str | int]:
    """OpenTelemetry's names for what all messaging has in common."""
    return {
        **operation(name, kind),
        "messaging.destination.name": destination,
        "messaging.message.id": message_id,
        "messaging.message.conversation_id": correlation_id,
    }
