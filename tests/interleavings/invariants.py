"""What must be true once everything has come to rest, whatever happened before.

Each of them reads the rows as a person would who looks into the tables, and says what is wrong.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from pm_celery import tallies
from pm_celery.models import (
    DeadLetter,
    InboxMessage,
    Instance,
    OutboxCommand,
    Timer,
    Transition,
)
from pm_celery.models.instances import InstanceStatus
from tests.interleavings.subject import MOST_RUNS, POLICY, PROCESS, plan
from tests.interleavings.world import World
from tests.testapp.models import Effect

_HANDLED = ("event", "timer", "timeout", "command_failed", "failure")
_SETTLED = ("handled", "skipped", "unmatched", "discarded")


class Rows:
    """All rows, read once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.messages: list[Any] = list(InboxMessage.objects.order_by("id"))
        self.by_id = {row.pk: row for row in self.messages}
        self.instances: list[Any] = list(Instance.objects.all())
        self.steps: dict[int, list[Any]] = defaultdict(list)
        for step in Transition.objects.order_by("instance_id", "number"):
            self.steps[step.instance_id].append(step)
        self.letters: list[Any] = list(DeadLetter.objects.order_by("id"))
        self.commands: list[Any] = list(OutboxCommand.objects.all())
        self.timers: list[Any] = list(Timer.objects.all())
        self.effects = Counter(Effect.objects.values_list("name", flat=True))
        self.instance_of = {(row.process, row.key): row for row in self.instances}


def broken(world: World, *, after_timeouts: bool) -> list[str]:
    """What is not as it must be, in words."""
    rows = Rows(world)
    found = [
        f"{check.__name__}: {problem}"
        for check in (
            every_event_is_accounted_for,
            nothing_is_due,
            each_is_handled_once,
            numbers_have_no_gaps,
            the_state_is_what_its_transitions_rebuild,
            the_order_is_kept,
            nothing_overtakes_what_is_parked,
            each_failure_has_one_letter,
            each_command_took_effect_once,
            timers_fire_as_they_stand,
            tallies_are_exact,
            no_constraint_had_to_be_the_referee,
        )
        for problem in check(rows)
    ]
    if after_timeouts:
        found += [f"every_instance_ends: {row}" for row in _still_running(rows)]
    return found


def every_event_is_accounted_for(rows: Rows) -> Iterator[str]:
    inboxes = Counter((row.message_id, row.process) for row in rows.messages)
    wanted = {(id_, PROCESS) for id_ in rows.world.published}
    wanted |= {(id_, POLICY) for id_, (word, _) in rows.world.published.items() if word == "early"}
    for id_, process in sorted(wanted):
        if inboxes[id_, process] != 1:
            yield f"{id_} is {inboxes[id_, process]} times in the inbox of {process}"
    done = {f"command {row.command_id}" for row in rows.commands if row.status == "done"}
    causes = []
    for row in rows.messages:
        if row.kind == "event" and row.name == "fuzz.Done":
            causes.append(f"command {row.causation_id}")
        elif row.kind == "event" and (row.message_id, row.process) not in wanted:
            yield f"{row.message_id} is in the inbox, and nobody published it"
    if sorted(causes) != sorted(done):
        yield f"what commands published is not of those that are done: {sorted(causes)} {sorted(done)}"
    for row in rows.messages:
        yield from _has_ended_as_it_may(rows, row)


def _has_ended_as_it_may(rows: Rows, row: Any) -> Iterator[str]:
    instance = rows.instance_of.get((row.process, row.key))
    what = f"{row.kind} {row.message_id} of {row.process} {row.key}, {row.status} ({row.reason})"
    failed = instance is not None and instance.status == "failed" and instance.ended_at is None
    if row.status in _SETTLED:
        if row.handled_at is None:
            yield f"{what}: when it was settled is not said"
    elif row.status == "parked":
        if not failed:
            yield f"{what}: its instance is not failed"
    elif row.status == "waiting":
        if instance is not None and not failed:
            yield f"{what}: there is an instance"
    elif row.status != "dead":
        yield f"{what}: it is not settled"
    if row.status in ("skipped", "unmatched", "parked", "waiting", "dead") and not row.reason:
        yield f"{what}: why is not said"


def nothing_is_due(rows: Rows) -> Iterator[str]:
    now = rows.world.now
    for row in rows.messages:
        if row.status in ("pending", "waiting") and row.due_at <= now:
            yield f"{row.kind} {row.message_id} of {row.process} {row.key} since {now - row.due_at}"
    for timer in rows.timers:
        if timer.due_at <= now and timer.fired_at is None:
            yield f"timer {timer.name}"
    for command in rows.commands:
        if command.status in ("pending", "dispatched"):
            yield f"command {command.command_id} is {command.status}"


def each_is_handled_once(rows: Rows) -> Iterator[str]:
    steps = Counter(
        step.inbox_id
        for steps in rows.steps.values()
        for step in steps
        if step.kind in _HANDLED and step.inbox_id
    )
    for row in rows.messages:
        owner = "policy" if row.process == POLICY else "process"
        handled = row.status == "handled"
        if owner == "process" and steps[row.pk] != handled:
            yield f"{row.kind} {row.message_id} is {row.status}, with {steps[row.pk]} transitions"
        # Who declines has written all the same.
        wanted = handled or row.reason == "it said so"
        found = rows.effects[f"{owner} {row.message_id}"]
        if found != wanted:
            yield f"{row.kind} {row.message_id} of {row.process} is {row.status}, {found} effects"


def numbers_have_no_gaps(rows: Rows) -> Iterator[str]:
    known = {instance.pk for instance in rows.instances}
    for instance in rows.instances:
        numbers = [step.number for step in rows.steps[instance.pk]]
        if numbers != list(range(1, instance.number + 1)) or not numbers:
            yield f"{instance.key} at {instance.number}: {numbers}"
    for instance_id in rows.steps.keys() - known:
        if rows.steps[instance_id]:
            yield f"transitions of an instance that is not there: {instance_id}"


def the_state_is_what_its_transitions_rebuild(rows: Rows) -> Iterator[str]:
    for instance in rows.instances:
        steps = rows.steps[instance.pk]
        rebuilt: list[str] = []
        for step in steps:
            if step.kind in _HANDLED:
                rebuilt = [*rebuilt, step.message_id]
            if json.loads(step.state) != {"handled": rebuilt}:
                yield f"{instance.key} after {step.number}: {step.state}, rebuilt {rebuilt}"
        if steps and (instance.state, instance.status) != (steps[-1].state, steps[-1].status):
            last = steps[-1]
            yield (
                f"{instance.key} is {instance.status} {instance.state}, its last transition "
                f"{last.status} {last.state}"
            )


def the_order_is_kept(rows: Rows) -> Iterator[str]:
    for instance in rows.instances:
        steps = [
            step
            for step in rows.steps[instance.pk]
            if step.inbox_id and step.kind in _HANDLED and step.kind != "failure"
        ]
        for at, later in enumerate(steps):
            for earlier in steps[:at]:
                if earlier.inbox_id > later.inbox_id and not _may_come_first(rows, earlier, later):
                    yield (
                        f"{instance.key}: {earlier.message_id} (row {earlier.inbox_id}) before "
                        f"{later.message_id} (row {later.inbox_id})"
                    )


def _may_come_first(rows: Rows, earlier: Any, later: Any) -> bool:
    """Whether a younger message may have been handled before an older one."""
    if earlier.name == "fuzz.Opened" and later.name == "fuzz.Early":
        return True  # it waited for this one
    if any(
        letter.message_id == later.inbox_id and letter.place == "unmatched"
        for letter in rows.letters
    ):
        return True  # an operator had it handled after all
    handled_at = plan.ran[f"process {earlier.message_id}"]
    if later.message_id in rows.world.committed:
        return rows.world.committed[later.message_id] > handled_at
    return any(
        began <= handled_at <= ended and later.inbox_id > youngest
        for began, ended, youngest in rows.world.spans
    )


def nothing_overtakes_what_is_parked(rows: Rows) -> Iterator[str]:
    for instance in rows.instances:
        failed = ended = False
        for step in rows.steps[instance.pk]:
            what = f"{instance.key}: {step.number} {step.kind} {step.message_id}"
            if ended:
                yield f"{what} after the end"
            if failed and step.kind not in (
                *("failure", "resumed", "given_up"),
                *("cancelled", "completed"),
            ):
                yield f"{what} behind a failure"
            failed = step.status == "failed"
            ended = (
                step.status in ("completed", "timed_out", "cancelled") or step.kind == "given_up"
            )
        if ended != (instance.ended_at is not None):
            yield f"{instance.key}: {instance.status}, ended at {instance.ended_at}"


def each_failure_has_one_letter(rows: Rows) -> Iterator[str]:
    deaths = Counter(
        step.inbox_id for steps in rows.steps.values() for step in steps if step.kind == "failed"
    )
    of_message: dict[Any, list[Any]] = defaultdict(list)
    of_command: dict[Any, list[Any]] = defaultdict(list)
    for letter in rows.letters:
        of_message[letter.message_id].append(letter)
        of_command[letter.command_id].append(letter)
        if letter.attempts > MOST_RUNS:
            yield f"{letter.message_ref}: {letter.attempts} attempts"
    for row in rows.messages:
        letters = of_message[row.pk]
        yield from _letters_agree(f"{row.kind} {row.message_id} of {row.process}", row, letters)
        if row.process == PROCESS:
            died = [letter for letter in letters if letter.place == "handler"]
            if len(died) != deaths[row.pk]:
                yield f"{row.kind} {row.message_id}: {deaths[row.pk]} deaths, {len(died)} letters"
    for command in rows.commands:
        yield from _letters_agree(f"command {command.command_id}", command, of_command[command.pk])


def _letters_agree(what: str, row: Any, letters: list[Any]) -> Iterator[str]:
    statuses = [letter.status for letter in letters]
    if getattr(row, "kind", "") == "failure":
        # A failure handler that fails is noted on the letter of the first failure.
        if statuses:
            yield f"{what}: letters of its own {statuses}"
        return
    if row.status == "dead" and (statuses[-1:] != ["open"] or set(statuses[:-1]) - {"retried"}):
        yield f"{what} is dead: letters {statuses}"
    if row.status != "dead" and "open" in statuses:
        yield f"{what} is {row.status}: letters {statuses}"
    if row.status == "discarded" and statuses[-1:] != ["discarded"]:
        yield f"{what} is discarded: letters {statuses}"


def each_command_took_effect_once(rows: Rows) -> Iterator[str]:
    notices = Counter(row.causation_id for row in rows.messages if row.kind == "command_failed")
    letters = Counter(letter.command_id for letter in rows.letters)
    for command in rows.commands:
        id_ = str(command.command_id)
        found = rows.effects[f"command {id_}"]
        if found != (command.status == "done"):
            yield f"{id_} is {command.status}, with {found} effects"
        if notices[id_] != letters[command.pk]:
            yield f"{id_} died {letters[command.pk]} times, with {notices[id_]} notices"
    issued = Counter(
        id_
        for steps in rows.steps.values()
        for step in steps
        for id_, _ in json.loads(step.commands)
    )
    stored = Counter(str(command.command_id) for command in rows.commands)
    if issued != stored:
        yield f"issued and not stored {issued - stored}, stored and not issued {stored - issued}"


def timers_fire_as_they_stand(rows: Rows) -> Iterator[str]:
    for instance in rows.instances:
        standing: dict[str, str] = {}
        timeouts = 0
        for step in rows.steps[instance.pk]:
            what = f"{instance.key}: {step.number} {step.kind} {step.name} {step.message_id}"
            timeouts += step.kind == "timeout"
            if step.kind == "timer":
                due = standing.pop(step.name, None)
                moved = step.message_id in rows.world.moved_timers
                if due is None or (due > step.recorded_at.isoformat() and not moved):
                    yield f"{what}: it stood for {due}"
                if step.message_id in rows.world.cancelled_timers:
                    yield f"{what}: an operator had cancelled it"
            for name, due in json.loads(step.timers).items():
                standing.pop(name, None)
                if due is not None:
                    standing[name] = due
        if timeouts > 1:
            yield f"{instance.key}: {timeouts} timeouts"
        left = [timer.name for timer in rows.timers if timer.instance_id == instance.pk]
        if left and instance.ended_at is not None:
            yield f"{instance.key} has ended, and there are timers {left}"


def tallies_are_exact(rows: Rows) -> Iterator[str]:
    """What was counted where it happened is what there is to count."""
    counted = Counter[tuple[str, str]]()
    for sum_ in tallies.ever({*InstanceStatus.values, tallies.HANDLED, tallies.OPEN}):
        counted[sum_.process, sum_.what] += sum_.count
    there = Counter((row.process, row.status) for row in rows.instances)
    there += Counter((row.process, "handled") for row in rows.messages if row.status == "handled")
    there += Counter((row.process, "open") for row in rows.letters if row.status == "open")
    for key in sorted({*counted, *there}):
        if counted[key] != there[key]:
            yield f"{key} was counted {counted[key]} times and is there {there[key]} times"


def no_constraint_had_to_be_the_referee(rows: Rows) -> Iterator[str]:
    """Where two meet, locks and ON CONFLICT settle it; a refused statement costs the whole batch."""
    yield from rows.world.pair.refused


def _still_running(rows: Rows) -> Iterator[str]:
    for instance in rows.instances:
        if instance.status == "started":
            yield f"{instance.key} since {instance.started_at}"
