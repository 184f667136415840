"""Spans of OpenTelemetry: one trace shows what an event has led to, days later and in other processes.

A row carries the traceparent of the span that it descends from: that of publishing, or that of the handler
that sent a command. Without the extra ``opentelemetry``, and where no provider is configured, nothing is made
and nothing stored. ``docs/tracing.md`` tells what the spans are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, Self

from pm_celery import redaction
from pm_celery.conf import get_settings
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
    from opentelemetry.trace import Link, Span, SpanKind, Tracer, TracerProvider

__all__ = [
    "NOTHING",
    "Traced",
    "batch",
    "descending",
    "dispatching",
    "handling",
    "is_on",
    "note_death",
    "note_tick",
    "publishing",
    "running",
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


class Letter(Protocol):
    """A dead letter: its words are without what is not to be shown."""

    pk: int
    place: str
    process: str
    key: str
    name: str
    message_ref: str
    exception: str
    error: str
    traceback: str
    attempts: int


# -- whether there is anything to do ----------------------------------------------------------------

_known: tuple[TracerProvider, Tracer | None] | None = None


def _tracer() -> Tracer | None:
    """Ours, of the provider that is configured; None where there is none."""
    global _known
    if otel is None:
        return None
    provider = otel.get_tracer_provider()
    if _known is None or _known[0] is not provider:
        is_none = isinstance(provider, otel.ProxyTracerProvider | otel.NoOpTracerProvider)
        _known = provider, None if is_none else provider.get_tracer(SYSTEM)
    return _known[1]


def is_on() -> bool:
    """Whether spans are made."""
    return _tracer() is not None


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


class _Spanned(Traced):
    def __init__(self, span: Span) -> None:
        self.span = span
        self.trace = _written(span)

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
            for link in _links(traces):
                self.span.add_link(link.context)


class _Run(_Spanned):
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
            _describe(self.span, name_of(error), text_of(error, hide), trace_of(error, hide))


class _HandlerRun(_Run):
    """It ends with its handler; but whether it counts is known with its batch's commit."""

    def __init__(self, span: Span, row: Message, within: _Batch) -> None:
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


class _Publication(Traced):
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
        attributes = _messaging("publish", "send", name, message_id, correlation_id)
        span = self._tracer.start_span(
            f"publish {name}", kind=otel.SpanKind.PRODUCER, attributes=attributes
        )
        self._spans.append(span)
        return _written(span)


class _Batch(_Spanned):
    def __init__(self, tracer: Tracer) -> None:
        super().__init__(tracer.start_span("advance", attributes=_operation("advance", "receive")))
        self.tracer = tracer
        self.runs: list[tuple[Span, int]] = []

    def __enter__(self) -> Self:
        self._before = _batch.set(self)
        return super().__enter__()

    def end(self, error: BaseException | None) -> None:
        _batch.reset(self._before)
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


_batch: ContextVar[_Batch | None] = ContextVar("pm_celery_traced_batch", default=None)


def _describe(span: Span, exception: str, error: str, traceback: str) -> None:
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


def _written(span: Span) -> str:
    """The traceparent of a span."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, otel.set_span_in_context(span))
    return carrier.get("traceparent", "")


def _read(trace: str) -> Context:
    """A context in which the span of a traceparent is the current one; nothing is, for "" and nonsense."""
    empty = contexts.Context()
    return (
        TraceContextTextMapPropagator().extract({"traceparent": trace}, empty) if trace else empty
    )


def _links(traces: Iterable[str]) -> list[Link]:
    found = (otel.get_current_span(_read(trace)) for trace in dict.fromkeys(traces))
    spans = [span.get_span_context() for span in found]
    return [otel.Link(context) for context in spans if context.is_valid]


# -- what is traced ---------------------------------------------------------------------------------


def publishing() -> Traced:
    """Events that are published with one call."""
    tracer = _tracer()
    return NOTHING if tracer is None else _Publication(tracer)


def handling(row: Message, *, instance_id: int | None = None) -> Traced:
    """A handler that runs in a batch, in the trace of what it handles; it is linked with its batch."""
    # Asked once for each message, and so not OpenTelemetry, which looks into the environment each time.
    within = _batch.get()
    if within is None:
        return NOTHING
    attributes = _messaging("handle", "process", row.process, row.message_id, row.correlation_id)
    attributes |= _of_process(row.process, row.key, instance_id)
    attributes |= {
        f"{SYSTEM}.message.kind": row.kind,
        f"{SYSTEM}.message.name": row.name,
        f"{SYSTEM}.attempt": max(row.attempts, 1),
    }
    title = f"handle {row.process} {row.name}"
    return _HandlerRun(_consumer(within.tracer, title, row.trace, attributes), row, within)


def running(command: Command, attempt: int) -> Traced:
    """A command handler that runs, in the trace of the handler that sent the command."""
    tracer = _tracer()
    if tracer is None:
        return NOTHING
    command_id = str(command.command_id)
    attributes = _messaging("run", "process", command.name, command_id, command.correlation_id)
    attributes |= _of_process(command.process, command.key, command.instance_id)
    attributes[f"{SYSTEM}.attempt"] = attempt
    return _Run(_consumer(tracer, f"run {command.name}", command.trace, attributes), command)


def batch() -> Traced:
    """A transaction of the engine, which messages of many traces join."""
    tracer = _tracer()
    if tracer is None:
        return NOTHING
    return _Batch(tracer)


def dispatching(commands: Iterable[Traceable]) -> Traced:
    """Commands that go to Celery: linked with the handlers that sent them."""
    tracer = _tracer()
    if tracer is None:
        return NOTHING
    found = _Spanned(tracer.start_span("dispatch", attributes=_operation("dispatch", "send")))
    found.join(commands)
    return found


def descending(trace: str) -> Traced:
    """Let the span of a traceparent be the current one: what others trace inside is part of its trace."""
    if not trace or _tracer() is None:
        return NOTHING
    return _Remote(trace)


class _Remote(Traced):
    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __enter__(self) -> Self:
        span = otel.get_current_span(_read(self.trace))
        self._token = contexts.attach(otel.set_span_in_context(span))
        return self

    def __exit__(self, *_: object) -> None:
        contexts.detach(self._token)


def note_death(letter: Letter, trace: str) -> None:
    """A dead letter, in the trace of what died."""
    tracer = _tracer()
    if tracer is None:
        return
    attributes: dict[str, str | int] = {
        f"{SYSTEM}.letter.id": letter.pk,
        f"{SYSTEM}.letter.place": letter.place,
        f"{SYSTEM}.attempt": letter.attempts,
        "messaging.message.id": letter.message_ref,
        **_of_process(letter.process, letter.key, None),
    }
    span = tracer.start_span(f"dead letter {letter.name}", _read(trace), attributes=attributes)
    _describe(span, letter.exception, letter.error, letter.traceback)
    span.end()


def note_tick(began_ns: int, **found: int) -> None:
    """A tick that found something; the others leave no span."""
    tracer = _tracer()
    if tracer is None or not any(found.values()):
        return
    attributes = {f"{SYSTEM}.{name}": number for name, number in found.items()}
    tracer.start_span("tick", start_time=began_ns, attributes=attributes).end()


# -- attributes -------------------------------------------------------------------------------------


def _operation(name: str, kind: str) -> dict[str, str | int]:
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
    }


def _messaging(
    name: str, kind: str, destination: str, message_id: str, correlation_id: str
) -> dict[str, str | int]:
    """OpenTelemetry's names for what all messaging has in common."""
    return {
        **_operation(name, kind),
        "messaging.destination.name": destination,
        "messaging.message.id": message_id,
        "messaging.message.conversation_id": correlation_id,
    }


def _of_process(process: str, key: str, instance_id: int | None) -> dict[str, str | int]:
    found: dict[str, str | int] = {f"{SYSTEM}.process": process} if process else {}
    if instance_id is not None:
        found[f"{SYSTEM}.instance.id"] = instance_id
    if key and get_settings().trace_keys:
        found[f"{SYSTEM}.key"] = key
    return found


def _consumer(tracer: Tracer, title: str, trace: str, attributes: Mapping[str, str | int]) -> Span:
    """A span below what a row descends from, linked with what is going on here."""
    here = otel.get_current_span().get_span_context()
    kind: SpanKind = otel.SpanKind.CONSUMER
    links = [otel.Link(here)] if here.is_valid else []
    return tracer.start_span(title, _read(trace), kind=kind, attributes=attributes, links=links)
