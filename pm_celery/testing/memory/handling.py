"""What is due is handled, one message after the other, as the engine does it."""

from __future__ import annotations

from dataclasses import replace

from pm_celery import outcomes
from pm_celery.cases import Case, HandlerFailed, decide_case
from pm_celery.deciding import handler_of
from pm_celery.exceptions import Misuse
from pm_celery.handlers import EventHandler
from pm_celery.process import ProcessManager
from pm_celery.rows import InboxRow
from pm_celery.testing.memory import commands
from pm_celery.testing.memory.failing import note_failure
from pm_celery.testing.memory.incoming import fire
from pm_celery.testing.memory.instance import Memory
from pm_celery.testing.memory.letters import note_error, open_letter
from pm_celery.testing.memory.rows import SentCommand, StandingTimer

__all__ = ["drain"]


def drain(memory: Memory) -> None:
    """Fire, dispatch, handle and run what is due, until nothing is. (That there is an end of it, the depth
    of chains sees to.)"""
    while True:
        fire(memory)
        commands.dispatch_due(memory)
        handled = _advance(memory)
        ran = commands.run_dispatched(memory)
        due = memory.next_due()
        if not handled and not ran and (due is None or due > memory.now):
            return


def _advance(memory: Memory) -> bool:
    handled = False
    while True:
        rows = memory.to_handle()
        if not any(row.due_at <= memory.now for row in rows):
            return handled
        handled = True
        _run(memory, rows)


def _run(memory: Memory, rows: list[InboxRow]) -> None:
    """Run the first message; those behind it are there to be looked at."""
    tried = rows[0].attempts > 0 and rows[0].due_at <= memory.now
    if tried:
        # Its run is counted before it begins.
        rows[0] = replace(rows[0], attempts=rows[0].attempts + 1)
    row = rows[0]
    # It is changed only by what is decided: there is nothing to roll back.
    instance = memory.instance or memory.placeholder()
    standing = {timer.name: timer.message_id for timer in memory.timers.values()}
    case = Case(memory.definition, instance, rows, timers=standing)
    method = _method_of(memory, row)
    case.process = process = _process(memory, method)
    try:
        decide_case(case, memory.now, out_of_time=lambda: True)
    except HandlerFailed as failed:
        memory.reached.add(failed.handler)
        where = f"{memory.definition.where}.{failed.handler}() was handling {row.name}"
        note_error(memory, failed.error, where)
        attempts = row.attempts if tried else row.attempts + 1
        note_failure(memory, row, failed.handler, failed.error, attempts)
        return
    if case.process is not process:
        # It was taken for the handler.
        memory.reached.add(method)
    if case.unknown:
        raise Misuse(f"{memory.definition.where}: {case.unknown_because}.")
    _record(memory, case)


def _method_of(memory: Memory, row: InboxRow) -> str:
    handler = handler_of(memory.definition, row)
    return handler.method if isinstance(handler, EventHandler) else handler


def _process(memory: Memory, method: str) -> ProcessManager:
    """The process as it stands; with a method that fails in place of its own, if that is planned."""
    process = memory.process()
    if method in memory.plan:
        # It is never stored: the run that finds it raises.
        setattr(process, method, lambda *_: memory.plan.run(method))
    return process


def _record(memory: Memory, case: Case) -> None:
    """What ``recording.record`` writes, in its order."""
    for mark in case.marks.values():
        row = replace(
            memory.inbox[mark.id].row,
            status=mark.status,
            due_at=mark.due_at,
            attempts=mark.attempts,
        )
        memory.write(row, mark.reason)
    commands.cancel(memory, outcomes.cancelled_commands(case), outcomes.CANCELLED_BY_PROCESS)
    for command in outcomes.command_rows(case, memory.now):
        memory.write_command(SentCommand(command))
    if case.steps and case.instance is not None:
        memory.instance = case.instance
        for step in case.steps:
            memory.transitions.append(outcomes.transition_row(case.instance, step))
            memory.moments.append(memory.now)
    _write_timers(memory, case)
    if case.held_until is not None:
        for row in memory.to_handle():
            if row.due_at <= memory.now:
                memory.write(replace(row, due_at=case.held_until))
    if case.releases_waiting:
        memory.write_each(("waiting",), "pending", "")
    for row, error in case.unmatched:
        open_letter(memory, "unmatched", row, error, attempts=row.attempts)
    if case.ended_here and case.steps[-1].row.kind == "failure":
        memory.skip_parked()


def _write_timers(memory: Memory, case: Case) -> None:
    if case.ended_here:
        memory.timers.clear()
        return
    for name, left in outcomes.timers_left(case).items():
        memory.timers.pop(name, None)
        if left is not None:
            step, timer = left
            memory.timers[name] = StandingTimer(
                name=name,
                due_at=timer.due_at,
                payload=timer.payload,
                # As each setting has a token of its own in the table.
                message_id=f"timer:{name}:{step.number}",
                correlation_id=step.row.correlation_id,
                causation_id=step.row.message_id,
            )
