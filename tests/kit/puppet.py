"""A process that does what its events tell it, in memory and in the engine alike; what both keep."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import field
from datetime import datetime
from typing import Any

from pm_celery import (
    Failure,
    ProcessManager,
    Retry,
    Wait,
    command,
    command_handler,
    event,
    handle,
    on_command_failed,
    on_failure,
    on_timeout,
    on_timer,
    publish,
)
from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand, Timer, Transition
from pm_celery.testing.memory.instance import Memory

_RETRY = Retry("exponential", delay="10s", max_retries=2, jitter=False)


class Broken(Exception):
    """What handlers raise where the plan says so."""


class Plan:
    """How many times more what bears a name fails."""

    fails: dict[str, int] = {}

    @classmethod
    def visit(cls, name: str) -> None:
        if cls.fails.get(name, 0) > 0:
            cls.fails[name] -= 1
            raise Broken(name)


@event(name="puppet.Began")
class Began:
    key: str
    do: list[str] = field(default_factory=list)


@event(name="puppet.Told")
class Told:
    key: str
    do: list[str] = field(default_factory=list)


@event(name="puppet.Hinted")
class Hinted:
    key: str
    do: list[str] = field(default_factory=list)


@event(name="puppet.Insisted")
class Insisted:
    key: str
    do: list[str] = field(default_factory=list)


@event(name="puppet.Ended")
class Ended:
    key: str
    do: list[str] = field(default_factory=list)


@command(name="puppet.Act")
class Act:
    key: str
    then: list[str] = field(default_factory=list)


@command(name="puppet.Rest")
class Rest:
    key: str


@command(name="puppet.Clean")
class Clean:
    key: str


EVENTS: dict[str, type] = {
    "began": Began,
    "told": Told,
    "hinted": Hinted,
    "insisted": Insisted,
    "ended": Ended,
}


class Puppet(ProcessManager):
    log: list[str] = field(default_factory=list)

    class Meta:
        name = "puppet.Puppet"
        correlate = "key"
        timeout = "80m"
        retry = _RETRY

    def obey(self, name: str, do: Iterable[str] = ()) -> object:
        self.log.append(name)
        for wish in do:
            verb, _, rest = wish.partition(" ")
            if verb == "set":
                self.set_timer(rest[0], rest[2:])
            elif verb == "cancel":
                self.cancel_timer(rest)
            elif verb == "act":
                self.send(Act(key=self.key, then=rest.split()))
            elif verb == "rest":
                self.send(Rest(key=self.key), delay=rest, expires="2m")
            elif verb == "unrest":
                self.cancel_command(Rest)
            elif verb == "complete":
                self.complete()
            elif verb == "ignore":
                return self.ignore("told to")
        Plan.visit(name)
        return None

    @handle(Began, start=True)
    def began(self, event: Began) -> object:
        return self.obey("began", event.do)

    @handle(Told)
    def told(self, event: Told) -> object:
        return self.obey("told", event.do)

    @handle(
        Hinted, unmatched=Wait("50s"), retry=Retry("fixed", delay="5s", max_retries=1, jitter=False)
    )
    def hinted(self, event: Hinted) -> object:
        return self.obey("hinted", event.do)

    @handle(Insisted, unmatched="dead_letter", retry=Retry("none"))
    def insisted(self, event: Insisted) -> object:
        return self.obey("insisted", event.do)

    @handle(Ended, end=True)
    def ended(self, event: Ended) -> object:
        return self.obey("ended", event.do)

    @on_timer("a")
    def ring_a(self) -> None:
        self.obey("ring_a", ["act", "set b 25s"])

    @on_timer("b")
    def ring_b(self) -> None:
        self.obey("ring_b")

    @on_timeout
    def timed_out(self) -> None:
        self.obey("timed_out", ["act", "unrest"])

    @on_command_failed(Act)
    def act_failed(self, failure: Failure) -> None:
        self.obey(f"act_failed {failure.error} {failure.attempts}", ["rest 20s"])
        Plan.visit("act_failed")

    @on_failure
    def failed(self, failure: Failure) -> None:
        self.obey(f"failed {failure.name} {failure.error} {failure.attempts}")
        self.send(Clean(key=self.key))
        if failure.name == "puppet.Insisted":
            self.complete()
        Plan.visit("failed")


# By hand, and not all handlers alike: what fails is to come about.
_FAILING = ["told", "told", "hinted", "insisted", "ring_a", "act", "act", "act", "failed", "clean"]


def act(command: Act) -> list[object]:
    Plan.visit("act")
    return [EVENTS[word](key=command.key) for word in command.then]


def clean(command: Clean) -> None:
    Plan.visit("clean")


def rest(command: Rest) -> None: ...


@command_handler(Act, retry=Retry("linear", delay="7s", max_retries=1, jitter=False))
def _act(command: Act) -> None:
    for found in act(command):
        publish(found)


command_handler(Clean, retry=Retry("none"))(clean)
command_handler(Rest)(rest)

IN_MEMORY = {Act: act, Clean: clean, Rest: rest}


# -- what happens to it -----------------------------------------------------------------------------

Operation = tuple[str, Any]
_WISHES = [
    "set a 30s", "set a 3m", "set b 40s", "cancel a", "act", "act", "act", "act told", "act told",
    "act began told", "act insisted ended", "rest 30s", "rest 3m", "unrest",
    "ignore", "complete",
]  # fmt: skip


def operations(chance: random.Random, how_many: int) -> list[Operation]:
    """What happens to one puppet. Often it begins at once, for there is little to see before."""
    found: list[Operation] = []
    if chance.random() < 0.8:
        found.append(("publish", ("began", _do(chance), "e0")))
    for number in range(1, how_many):
        what = chance.random()
        if what < 0.4:
            word = chance.choices(list(EVENTS), [1, 8, 2, 2, 0.4])[0]
            id_ = f"e{number}" if chance.random() < 0.9 else f"e{chance.randrange(number)}"
            found.append(("publish", (word, _do(chance), id_)))
        elif what < 0.65:
            seconds = chance.choice([3, 10, 20, 30, 60, 90, 200, 300, 5000])
            found.append(("elapse", seconds))
        elif what < 0.8:
            found.append(("fail", (chance.choice(_FAILING), chance.choice([1, 2, 9, 9]))))
        elif what < 0.995:
            found.append((chance.choice(["retry", "discard", "give up"]), None))
        else:
            found.append(("cancel", None))
    return found


def _do(chance: random.Random) -> list[str]:
    return [chance.choice(_WISHES[:-2]) for _ in range(chance.choice([0, 0, 1, 1, 2]))] + (
        [chance.choice(_WISHES[-2:])] if chance.random() < 0.05 else []
    )


# -- what both keep of it ---------------------------------------------------------------------------

_SHOWN = ("event", "timer", "timeout")


def kept_in_memory(memory: Memory) -> dict[str, Any]:
    """What there is in memory, without ids."""
    instance = memory.instance
    names = {command_id: sent.row.name for command_id, sent in memory.outbox.items()}
    return {
        "instance": instance
        and (
            instance.status,
            instance.state,
            instance.number,
            instance.ended_at,
            instance.timeout_at,
        ),
        "transitions": [_step(row, names) for row in memory.transitions],
        "inbox": [_message(found.row, found.reason, memory.now) for found in memory.inbox.values()],
        "timers": sorted(
            (timer.name, timer.due_at, timer.payload, timer.is_fired)
            for timer in memory.timers.values()
        ),
        "outbox": [_command(sent.row, sent.attempts) for sent in memory.outbox.values()],
        "letters": [_letter(letter) for letter in memory.letters],
    }


def kept_in_database(key: str, now: datetime) -> dict[str, Any]:
    """What there is in the database, without ids."""
    instance = Instance.objects.filter(process="puppet.Puppet", key=key).first()
    rows = InboxMessage.objects.filter(process="puppet.Puppet", key=key).order_by("id")
    commands = OutboxCommand.objects.filter(process="puppet.Puppet", key=key).order_by("id")
    letters = DeadLetter.objects.filter(process="puppet.Puppet", key=key).order_by("id")
    steps = Transition.objects.filter(instance=instance).order_by("number") if instance else []
    timers = Timer.objects.filter(instance=instance).order_by("name") if instance else []
    names = {str(command.command_id): command.name for command in commands}
    return {
        "instance": instance
        and (
            instance.status,
            instance.state,
            instance.number,
            instance.ended_at,
            instance.timeout_at,
        ),
        "transitions": [_step(row, names) for row in steps],
        "inbox": [_message(row, row.reason, now) for row in rows],
        "timers": [
            (timer.name, timer.due_at, timer.payload, timer.fired_at is not None)
            for timer in timers
        ],
        "outbox": [_command(row, row.attempts) for row in commands],
        "letters": [_letter(letter) for letter in letters],
    }


def _step(row: Any, names: dict[str, str]) -> tuple[Any, ...]:
    commands = [names[command_id] for command_id, _ in json.loads(row.commands)]
    about = (row.number, row.kind, row.name, row.handler, row.state, row.status, row.attempt)
    return (*about, commands, json.loads(row.timers))


def _message(row: Any, reason: str, now: datetime) -> tuple[Any, ...]:
    payload = row.payload if row.kind in _SHOWN else ""
    later = row.status in ("pending", "waiting") and row.due_at > now
    due = row.due_at if later else None
    return row.kind, row.name, payload, row.status, reason, row.attempts, due, row.depth


def _command(row: Any, attempts: int) -> tuple[Any, ...]:
    due = row.due_at if row.status == "pending" else None
    about = (row.name, row.payload, row.status, row.reason, row.dispatches, row.expires_at)
    return (*about, attempts, due, row.depth)


def _letter(letter: Any) -> tuple[Any, ...]:
    about = (letter.place, letter.name, letter.exception, letter.error, letter.attempts)
    return (*about, letter.handler, letter.status, bool(letter.failure_handler_error))
