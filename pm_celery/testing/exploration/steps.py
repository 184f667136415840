"""The steps of an exploration: each is a call on a scenario, and the line of a test that makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from pm_celery.messages import message_type
from pm_celery.testing.exploration.model import Faults, Model
from pm_celery.testing.memory.instance import Memory
from pm_celery.testing.memory.views import command_of
from pm_celery.testing.scenario import Scenario

__all__ = ["MOST_PARKED", "Step", "possible"]

_A_SECOND = timedelta(seconds=1)
_NONE = Faults(0, 0, 0)
#: How many messages come while an instance has failed, before an operator retries it.
MOST_PARKED = 2


@dataclass(frozen=True, slots=True)
class Step:
    """Something that may happen next.

    what: tells steps apart.
    do: lets it happen.
    line: the same as Python, after a function that writes values has been given.
    is_sure: whether it happens by itself, sooner or later.
    faults: what may go wrong after it still; None: as before.
    happens: the bit of the event that happens.
    """

    what: tuple[object, ...]
    do: Callable[[Scenario[Any]], object]
    line: Callable[[Callable[[object], str]], str]
    is_sure: bool = False
    faults: Faults | None = None
    happens: int = 0


def possible(model: Model, memory: Memory, happened: int, faults: Faults) -> Iterator[Step]:
    """What may happen next: events, failures, and then time."""
    instance = memory.instance
    has_failed = instance is not None and instance.status == "failed"
    if has_failed:
        yield from _operator(memory)
        # Each order of what is parked is a state of its own: of ten events there would be millions.
        if sum(found.row.status == "parked" for found in memory.inbox.values()) >= MOST_PARKED:
            return
    for occurrence in model.occurrences:
        if occurrence.may_happen(memory, happened):
            yield _event(occurrence.event, occurrence.bit, not occurrence.may_be_missing)
            if faults.handler_failures and not has_failed:
                yield from _failing_handler(memory, occurrence.event, occurrence.bit, faults)
        elif happened & occurrence.bit and faults.duplicates:
            less = replace(faults, duplicates=faults.duplicates - 1)
            yield _event(occurrence.event, occurrence.bit, False, less)
    if instance is not None and instance.ended_at is not None:
        return
    if faults.command_failures:
        yield from _failing_commands(model, memory, happened, faults)
    due = memory.next_due()
    if due is not None:
        left = due - memory.now
        # Events come at any moment; what matters is whether before or after what is due.
        if left > _A_SECOND and (faults != _NONE or model.may_go_on(happened)):
            yield _time(left - _A_SECOND)
        yield _time(left)
        if faults.handler_failures and not has_failed:
            yield from _failing_timers(memory, left, faults)


def _event(event: object, bit: int, is_sure: bool, faults: Faults | None = None) -> Step:
    return Step(
        ("event", bit),
        lambda scenario: scenario.when(event),
        lambda write: f".when({write(event)})",
        is_sure=is_sure,
        faults=faults,
        happens=bit,
    )


def _time(left: timedelta) -> Step:
    return Step(
        ("time", left),
        lambda scenario: scenario.elapse(left),
        lambda write: f".elapse({write(left)})",
        is_sure=True,
    )


def _failing_commands(
    model: Model, memory: Memory, happened: int, faults: Faults
) -> Iterator[Step]:
    less = replace(faults, command_failures=faults.command_failures - 1)
    seen = set()
    for sent in memory.outbox.values():
        row = sent.row
        known = row.name, row.payload
        if row.status != "dispatched" or known in seen or model.has_caused(row, happened):
            continue
        seen.add(known)
        yield _failing_command(known, command_of(row), less)


def _failing_command(known: tuple[str, str], command: object, faults: Faults) -> Step:
    return Step(
        ("command fails", *known),
        lambda scenario: scenario.command_fails(command),
        lambda write: f".command_fails({write(command)})",
        faults=faults,
    )


def _failing_handler(memory: Memory, event: object, bit: int, faults: Faults) -> Iterator[Step]:
    method = memory.definition.event_handlers[message_type(event, "event")].method
    if method:
        less = replace(faults, handler_failures=faults.handler_failures - 1)
        yield Step(
            ("handler fails", bit),
            lambda scenario: scenario.failing(method, times=1, for_good=True).when(event),
            lambda write: f".failing({method!r}, times=1, for_good=True).when({write(event)})",
            faults=less,
            happens=bit,
        )


def _failing_timers(memory: Memory, left: timedelta, faults: Faults) -> Iterator[Step]:
    definition, due = memory.definition, memory.now + left
    less = replace(faults, handler_failures=faults.handler_failures - 1)
    methods = [
        definition.timer_handlers[timer.name]
        for timer in memory.timers.values()
        if timer.due_at == due and not timer.is_fired
    ]
    if memory.instance is not None and memory.instance.timeout_at == due:
        methods.append(definition.timeout_handler or "")
    for method in filter(None, methods):
        yield _failing_timer(method, left, less)


def _failing_timer(method: str, left: timedelta, faults: Faults) -> Step:
    return Step(
        ("handler fails", method, left),
        lambda scenario: scenario.failing(method, times=1, for_good=True).elapse(left),
        lambda write: f".failing({method!r}, times=1, for_good=True).elapse({write(left)})",
        faults=faults,
    )


def _operator(memory: Memory) -> Iterator[Step]:
    letters = [one for one in memory.letters if one.status == "open"]
    if len(letters) == 1 and letters[0].place == "handler":
        yield Step(("retry",), lambda scenario: scenario.retry(), lambda write: ".retry()")
