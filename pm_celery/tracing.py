"""Spans of OpenTelemetry: one trace shows what an event has led to, days later and in other processes.

A row carries the traceparent of the span that it descends from: that of publishing, or that of the handler
that sent a command. Without the extra ``opentelemetry``, and where no provider is configured, nothing is made
and nothing stored. ``docs/how-to/tracing.md`` tells what the spans are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol, Self

from pm_celery.conf import get_settings
from pm_celery.spans import (
    NOTHING,
    SYSTEM,
    Batch,
    Command,
    HandlerRun,
    Message,
    Publication,
    Run,
    Spanned,
    Traceable,
    Traced,
    current_batch,
    describe,
    messaging,
    operation,
    read,
)

try:
    from opentelemetry import context as contexts
    from opentelemetry import trace as otel
except ImportError:
    otel = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanKind, Tracer, TracerProvider

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


# -- what is traced ---------------------------------------------------------------------------------


def publishing() -> Traced:
    """Events that are published with one call."""
    tracer = _tracer()
    return NOTHING if tracer is None else Publication(tracer)


def handling(row: Message, *, instance_id: int | None = None) -> Traced:
    """A handler that runs in a batch, in the trace of what it handles; it is linked with its batch."""
    # Asked once for each message, and so not OpenTelemetry, which looks into the environment each time.
    within = current_batch.get()
    if within is None:
        return NOTHING
    attributes = messaging("handle", "process", row.process, row.message_id, row.correlation_id)
    attributes |= _of_process(row.process, row.key, instance_id)
    attributes |= {
        f"{SYSTEM}.message.kind": row.kind,
        f"{SYSTEM}.message.name": row.name,
        f"{SYSTEM}.attempt": max(row.attempts, 1),
    }
    title = f"handle {row.process} {row.name}"
    return HandlerRun(_consumer(within.tracer, title, row.trace, attributes), row, within)


def running(command: Command, attempt: int) -> Traced:
    """A command handler that runs, in the trace of the handler that sent the command."""
    tracer = _tracer()
    if tracer is None:
        return NOTHING
    command_id = str(command.command_id)
    attributes = messaging("run", "process", command.name, command_id, command.correlation_id)
    attributes |= _of_process(command.process, command.key, command.instance_id)
    attributes[f"{SYSTEM}.attempt"] = attempt
    return Run(_consumer(tracer, f"run {command.name}", command.trace, attributes), command)


def batch() -> Traced:
    """A transaction of the engine, which messages of many traces join."""
    tracer = _tracer()
    if tracer is None:
        return NOTHING
    return Batch(tracer)


def dispatching(commands: Iterable[Traceable]) -> Traced:
    """Commands that go to Celery: linked with the handlers that sent them."""
    tracer = _tracer()
    if tracer is None:
        return NOTHING
    found = Spanned(tracer.start_span("dispatch", attributes=operation("dispatch", "send")))
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
        span = otel.get_current_span(read(self.trace))
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
    span = tracer.start_span(f"dead letter {letter.name}", read(trace), attributes=attributes)
    describe(span, letter.exception, letter.error, letter.traceback)
    span.end()


def note_tick(began_ns: int, **found: int) -> None:
    """A tick that found something; the others leave no span."""
    tracer = _tracer()
    if tracer is None or not any(found.values()):
        return
    attributes = {f"{SYSTEM}.{name}": number for name, number in found.items()}
    tracer.start_span("tick", start_time=began_ns, attributes=attributes).end()


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
    return tracer.start_span(title, read(trace), kind=kind, attributes=attributes, links=links)
