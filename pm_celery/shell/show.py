"""``pm show``: an instance, its state, and what happened to it, as its page tells it."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any

from pm_celery import clock
from pm_celery.export import data_of, plain
from pm_celery.models import Instance, Transition
from pm_celery.operations.awaiting import Awaited, awaited
from pm_celery.operations.entries import (
    MOST_SHOWN,
    Act,
    Entry,
    FailedRun,
    Letter,
    Step,
    Timeline,
)
from pm_celery.operations.states import Change, State, lines
from pm_celery.operations.timeline import state_as_of, timeline
from pm_celery.shell.asking import DONE, Family, Shell, Usage
from pm_celery.shell.printing import ago, moment
from pm_celery.shell.selecting import add_instances, one_instance

__all__ = ["add"]

# Of each transition so many changes are printed, and of a text so many characters; JSON has all of them.
_MOST_CHANGES = 8
_LONGEST = 300
_STYLES = {"failed": "ERROR", "completed": "SUCCESS"}


def add(family: Family) -> None:
    parser = family.add("show", show, "An instance: its state, and what happened to it.")
    add_instances(parser, several=False)
    parser.add_argument(
        "--at", type=int, metavar="N", help="as it was after transition N, and what led to it"
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=20,
        metavar="N",
        help=f"the last N transitions and what happened between them (20; {MOST_SHOWN} at most)",
    )


def show(shell: Shell) -> int:
    instance, at = one_instance(shell), shell.options["at"]
    if at is not None and not 1 <= at <= instance.number:
        raise Usage(f"It has the transitions 1 to {instance.number}.")
    step, state = state_as_of(instance, instance.number if at is None else at)
    status = instance.status if at is None or step is None else step.status
    found = _last(timeline(instance, until=at), min(max(1, shell.options["limit"]), MOST_SHOWN))
    shell.out.document(_document(instance, at, step, state, found))
    if shell.out.as_json:
        return DONE
    _header(shell, instance, at, status)
    shell.out.title("state")
    _state(shell, state)
    shell.out.title("timeline")
    if found.earlier:
        shell.out.line(f"  … {found.earlier} earlier transitions: --at {found.earlier}")
    for entry in found.entries:
        _entry(shell, entry)
    if found.later:
        shell.out.line(f"  … later transitions: --at {found.later}")
    if at is None:
        _open(shell, found)
    return DONE


def _last(found: Timeline, limit: int) -> Timeline:
    """The last transitions, and what happened since the first of them."""
    steps = found.steps[-limit:]
    if len(steps) == len(found.steps):
        return found
    found.entries = found.entries[found.entries.index(steps[0]) :]
    found.first = steps[0].number
    return found


def _document(
    instance: Instance, at: int | None, step: Transition | None, state: State, found: Timeline
) -> dict[str, Any]:
    shown = instance if at is None or step is None else step
    return {
        "process": instance.process,
        "key": instance.key,
        "id": instance.pk,
        "at": at,
        "status": shown.status,
        "state": state.data,
        "state_version": shown.state_version,
        "number": instance.number,
        "correlation_id": instance.correlation_id,
        "started_at": plain(instance.started_at),
        "changed_at": plain(instance.changed_at),
        "ended_at": plain(instance.ended_at),
        "timeout_at": plain(instance.timeout_at),
        "awaited": [] if at is not None else [_plain(event) for event in awaited(instance)],
        "timeline": [{"sort": entry.sort, **_plain(entry)} for entry in found.entries],
        "messages": [_plain(row) for row in found.messages],
        "timers": [_plain(row) for row in found.timers],
    }


def _plain(value: Any) -> Any:
    """A row of the timeline as JSON knows it."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {
            name: data_of(member) if name == "payload" and member is not None else _plain(member)
            for name, member in value.items()
            # Names for people, in their language.
            if not name.endswith("_name")
        }
    if isinstance(value, list):
        return [_plain(member) for member in value]
    return plain(value) if isinstance(value, datetime) else value


# -- for people -------------------------------------------------------------------------------------


def _header(shell: Shell, instance: Instance, at: int | None, status: str) -> None:
    now = clock.now()
    shell.out.line(f"{instance.process} {instance.key}", "MIGRATE_HEADING")
    if at is not None:
        shell.out.line(f"  as it was after transition {at} of {instance.number}", "WARNING")
    shell.out.line(f"  {'status':<14} {status}", _STYLES.get(status, "WARNING"))
    rows: list[tuple[str, object]] = [
        ("id", instance.pk),
        ("started", f"{moment(instance.started_at)}, {ago(now - instance.started_at)} ago"),
        ("changed", f"{moment(instance.changed_at)}, {ago(now - instance.changed_at)} ago"),
        ("ended", moment(instance.ended_at)),
        ("times out", moment(instance.timeout_at)),
        ("correlation id", instance.correlation_id),
    ]
    if at is None:
        rows.append(("waits for", ", ".join(map(_awaits, awaited(instance)))))
    for name, value in rows:
        if value != "":
            shell.out.line(f"  {name:<14} {value}")


def _awaits(event: Awaited) -> str:
    return f"{event.name} (again)" if event.handled else event.name


def _state(shell: Shell, state: State) -> None:
    if state.problem:
        shell.out.line(f"  as it is stored: {state.problem}", "WARNING")
    for line in lines(state):
        name = f"{line.name}: " if line.name else ""
        value = f"{line.value.text} " if line.value.text else ""
        shell.out.line(f"  {'  ' * line.depth}{name}{value}{line.value.type}".rstrip())


def _entry(shell: Shell, entry: Entry) -> None:
    text, style = _HEADS[type(entry)](entry)
    shell.out.line(f"  {moment(entry.at)}  {_cut(text)}", style)
    if isinstance(entry, Step):
        for below in _below(entry):
            shell.out.line(f"{'':<27}{_cut(below)}")


def _step(step: Step) -> tuple[str, str]:
    took = f"{1000 * step.duration:.0f} ms" if step.duration is not None else ""
    attempt = f"attempt {step.attempt}" if step.attempt > 1 else ""
    cause = f"because of #{step.caused_by}" if step.caused_by else ""
    what = " ".join(filter(None, (step.kind, step.name)))
    rest = ", ".join(filter(None, (step.handler and f"{step.handler}()", took, attempt, cause)))
    text = f"#{step.number} {what}" + (f" ({rest})" if rest else "") + f": {step.status}"
    return text, _STYLES.get(step.status, "")


def _act(act: Act) -> tuple[str, str]:
    return f"{act.by}: {act.verb}" + (f", because {act.reason}" if act.reason else ""), "WARNING"


def _failed_run(run: FailedRun) -> tuple[str, str]:
    what = f"run {run.number} of {run.name} failed"
    return f"{what}: {run.exception}: {run.error}", "ERROR"


def _letter(letter: Letter) -> tuple[str, str]:
    settled = f" by {letter.settled_by}" if letter.settled_by else ""
    note = f"; {letter.note}" if letter.note else ""
    what = f"dead letter {letter.pk}, {letter.name}, {letter.status}{settled}{note}"
    return f"{what}: {letter.exception}: {letter.error}", "ERROR"


_HEADS: dict[type, Any] = {Step: _step, Act: _act, FailedRun: _failed_run, Letter: _letter}


def _below(step: Step) -> list[str]:
    """What a transition did."""
    found = [_changed(change) for change in step.changes[:_MOST_CHANGES]]
    further = (step.total_changes or 0) - len(found)
    if further > 0:
        found.append(f"… {further} further changes")
    for command in step.commands:
        row = f" (command {command.pk})" if command.pk is not None else ""
        reason = f", {command.reason}" if command.reason else ""
        found.append(f"sent {command.name}{row}: {command.status or 'pruned'}{reason}")
    found += [
        f"set timer {timer.name} to {moment(timer.due_at)}"
        if timer.due_at
        else f"cancelled timer {timer.name}"
        for timer in step.timers
    ]
    return found


def _changed(change: Change) -> str:
    match change.before, change.after:
        case None, after:
            return f"{change.path} = {after}"
        case before, None:
            return f"{change.path} removed, was {before}"
        case before, after:
            return f"{change.path} = {after}, was {before}"


def _open(shell: Shell, found: Timeline) -> None:
    """What has no transition yet."""
    if found.messages:
        shell.out.title("messages without a transition")
        shell.out.table(
            ["id", "name", "status", "due", "attempts", "reason"],
            [
                [row.pk, row.name, row.status, moment(row.due_at), row.attempts, _cut(row.reason)]
                for row in found.messages
            ],
        )
    if found.timers:
        shell.out.title("timers")
        shell.out.table(
            ["id", "name", "due", "fired"],
            [[row.pk, row.name, moment(row.due_at), moment(row.fired_at)] for row in found.timers],
        )


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
