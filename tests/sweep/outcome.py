"""What a journey has come to, in lines that do not depend on ids and moments."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator

from pm_celery import clock
from pm_celery.models import (
    Batch,
    DeadLetter,
    InboxMessage,
    Instance,
    OutboxCommand,
    Timer,
    Transition,
    Wakeup,
)
from tests.sweep.trips import RAN
from tests.testapp.models import Effect

__all__ = ["difference", "is_pending", "outcome"]

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def outcome() -> list[str]:
    """Everything that is in the tables, but for what a death may cost.

    That is: ids, moments, and how often a message was attempted and a command dispatched. (A run that was
    lost counts as an attempt, and whoever loses one is given one more.)
    """
    return sorted(_ID.sub("<id>", line) for line in _lines())


def difference(expected: list[str], found: list[str]) -> list[str]:
    """What is missing, and what is too much."""
    missing = Counter(expected) - Counter(found)
    surplus = Counter(found) - Counter(expected)
    return [f"- {line}" for line in missing.elements()] + [
        f"+ {line}" for line in surplus.elements()
    ]


def is_pending(line: str) -> bool:
    """Whether a line tells of something that is still to be done, or that nobody has cleared away."""
    waits = re.search(r": (pending|waiting|parked|dispatched) [^:]*$", line)
    return bool(waits) or line.startswith(("mark of", "wake-up of"))


def _lines() -> Iterator[str]:
    commands = {str(command.command_id): command for command in OutboxCommand.objects.all()}
    names = {
        instance.pk: f"{instance.process} {instance.key}" for instance in Instance.objects.all()
    }
    for name in Effect.objects.exclude(name__startswith=RAN).values_list("name", flat=True):
        yield f"effect {name}"
    # Signatures are dispatched at least once: that one ran twice is no harm.
    for ran in set(Effect.objects.filter(name__startswith=RAN).values_list("name", flat=True)):
        wanted = commands.get(ran.removeprefix(RAN))
        yield f"task {wanted.name} ran" if wanted else "a task ran that nobody had decided on"
    for instance in Instance.objects.all():
        times_out = "times out" if instance.timeout_at else "does not time out"
        ended = "ended" if instance.ended_at else "running"
        yield (
            f"instance {names[instance.pk]}: {instance.status}, {ended}, {times_out}, "
            f"{instance.number} transitions, {instance.state}"
        )
    for step in Transition.objects.all():
        issued = [
            f"{name} {commands[command_id].payload}" if command_id in commands else f"LOST {name}"
            for command_id, name in json.loads(step.commands)
        ]
        timers = sorted(json.loads(step.timers))
        yield (
            f"transition {names.get(step.instance_id, 'of nobody')} {step.number}: {step.kind} "
            f"{step.name} by {step.handler or 'nobody'}: {step.status}, {step.state}, "
            f"sends {issued}, timers {timers}"
        )
    for message in InboxMessage.objects.all():
        yield (
            f"message {message.kind} {message.name} for {message.process} {message.key}: "
            f"{message.status} {message.reason}"
        )
    for command in commands.values():
        yield (
            f"command {command.name} {command.payload} of {command.process} {command.key}: "
            f"{command.status} {command.reason}"
        )
    for letter in DeadLetter.objects.all():
        yield (
            f"letter {letter.place} {letter.name} of {letter.process} {letter.key}: {letter.status} "
            f"by {letter.settled_by or 'nobody'}, {letter.exception}: "
            f"{letter.error} {letter.failure_handler_error}"
        )
    for timer in Timer.objects.all():
        fired = "fired" if timer.fired_at else "stands"
        yield f"timer {timer.name} of {names.get(timer.instance_id, 'nobody')}: {fired}"
    for batch in Batch.objects.all():
        yield f"mark of a batch of lane {batch.lane}"
    for wakeup in Wakeup.objects.filter(outstanding_until__gt=clock.now()):
        yield f"wake-up of lane {wakeup.lane} outstanding"
