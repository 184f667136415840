"""``explore(Process, events)``: every way that a process may take, and what must not be.

From TLA+ and stateright come the two sorts of claims, what always holds and what comes in the end;
from hypothesis that what was found is told as a test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TypeVar

from pm_celery.exceptions import Misuse
from pm_celery.messages import message_type
from pm_celery.process import ProcessManager
from pm_celery.testing.exploration.checks import Checks, Found
from pm_celery.testing.exploration.model import Causes, Faults, Model
from pm_celery.testing.exploration.reporting import Report, Violation
from pm_celery.testing.exploration.search import Search
from pm_celery.testing.exploration.source import Source, snake
from pm_celery.testing.memory.incoming import declared_event
from pm_celery.testing.memory.instance import BEGINNING, Memory
from pm_celery.testing.scenario import Scenario, given

__all__ = ["explore"]

P = TypeVar("P", bound=ProcessManager)


def explore(
    process: type[P],
    events: Sequence[object],
    *,
    causes: Causes = (),
    alternatives: Iterable[Iterable[object]] = (),
    missing: bool | Iterable[object] = True,
    duplicates: int = 1,
    command_failures: int = 1,
    handler_failures: int = 0,
    once: Iterable[type] = (),
    invariants: Iterable[Callable[[Scenario[P]], object]] = (),
    ends: bool = True,
    raises: type[Exception] | tuple[type[Exception], ...] = (),
    now: datetime = BEGINNING,
    most_states: int = 50_000,
) -> Report:
    """Let a process run in memory in every way that its events, time and failures allow.

    Returns what was seen, or raises ``Broken`` with the shortest way to what must not be.

    Each event happens at most once, in every order, before and after every timer, timeout and delayed
    command, and after the end; and it may stay away. What a handler decides must depend on its state, its
    event and ``self.now`` alone. From equal states it goes on once: equal are those with the same state,
    status, timers, outbox, dead letters and events, where a moment counts as the time until then.

    causes:
        what must have happened before an event can: ``{StockReserved: ReserveStock}``. An event or a
        command, or its class for any of it; or a function of the :class:`Scenario`; a list means all of
        them. A command is a cause once it is dispatched, and no more when it has failed.
    alternatives:
        groups of events of which only one happens: ``[(PaymentTaken, PaymentDeclined)]``.
    missing:
        which events may stay away for ever; True for all, False for none.
    duplicates:
        how many events in all are published a second time, with an id of their own. (One that comes
        again with its id is never handled, so there is nothing to explore.)
    command_failures, handler_failures:
        how many commands and handlers fail for good. An operator then retries a failed instance.
    once:
        command classes of which no two equal commands may be sent.
    invariants:
        functions of the :class:`Scenario`, called after every step; ``commands`` are those of that step.
        One that returns False or raises ``AssertionError`` is broken.
    ends:
        whether the process must end: from every state that it gets into, also when something went wrong, it
        must be able to get, by steps that are sure to come, into one where it has ended, or has failed and
        waits for an operator. Sure to come are moments, and events that cannot be missing.
    raises:
        exceptions of handlers that are meant. Any other is found as what must not be.
    most_states:
        where it stops. Then ``report.is_complete`` is False, and nothing is said of what lies behind.
    """
    __tracebackhide__ = True
    began = time.perf_counter()
    beginning = given(process, raises=raises, now=now)
    memory = beginning.memory
    _guard(memory, events)
    model = Model(events, causes, alternatives, missing)
    checks = Checks(frozenset(message_type(cls, "command").name for cls in once), list(invariants))
    search = Search(model, checks, most_states)
    search.run(memory, Faults(duplicates, command_failures, handler_failures))
    found = search.found(ends=ends)
    report = Report(
        process=process.definition.name,
        states=len(search.nodes),
        transitions=search.steps,
        longest=search.nodes[-1].depth,
        is_complete=search.is_complete,
        reached=sorted(memory.handler_names & memory.reached),
        unreached=sorted(memory.handler_names - memory.reached),
        violations=[_told(process, memory.raises, one) for one in found],
        seconds=time.perf_counter() - began,
    )
    report.assert_ok()
    return report


def _guard(memory: Memory, events: Sequence[object]) -> None:
    """Raise for events that the process does not hear, or that are not all of one instance."""
    definition = memory.definition
    keys = set()
    for event in events:
        declared = message_type(event, "event")
        declared_event(memory, declared)
        with suppress(Exception):  # what a correlate raises is found by exploring
            keys.add(definition.key_of(declared, event))
    if len(keys - {None}) > 1:
        raise Misuse(
            f"explore(…): the events are of several instances: {', '.join(sorted(map(str, keys)))}."
        )


def _told(process: type, raises: tuple[type[Exception], ...], found: Found) -> Violation:
    source = Source()
    names = "".join(f"{source.name(error)}, " for error in raises)
    summary = found.what.replace("\\", "\\\\").replace('"', "'").splitlines()[0]
    test = source.test(
        f"{snake(process.__name__)}_{found.kind}",
        f"{summary}.",
        process,
        f", raises=({names.strip()})" if raises else "",
        found.steps,
        found.after,
    )
    return Violation(found.kind, found.what, len(found.steps), test)
