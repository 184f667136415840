"""The process under fuzz: its state tells what it handled, its events tell it what to do, and what the
plan names fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import connection

from pm_celery import (
    Failure,
    ProcessManager,
    Reaction,
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
    policy,
    publish,
)
from pm_celery.decisions import Message
from pm_celery.keys import partition_of
from tests.testapp.models import Effect

PROCESS, POLICY = "fuzz.process", "fuzz.policy"
MOST_RUNS = 2
_ONE_RETRY = Retry("fixed", delay="1s", max_retries=MOST_RUNS - 1, jitter=False)


def _keys_of(partition: int, how_many: int) -> list[str]:
    names = (f"k{n}" for n in range(4000))
    return [key for key in names if partition_of(PROCESS, key) == partition][:how_many]


#: Some share a partition, and some do not.
KEYS = [*_keys_of(3, 3), *_keys_of(7, 2), *_keys_of(12, 1)]
LANES = [3, 7, 12]
_EFFECT = f"INSERT INTO {Effect._meta.db_table} (name, at) VALUES (%s, %s)"


class Broken(Exception):
    """What the plan lets handlers raise."""


@dataclass
class Plan:
    """What is to fail, how many times more, by handler and key; and when each message ran last."""

    fails: dict[str, int] = field(default_factory=dict)
    ran: dict[str, int] = field(default_factory=dict)
    moment: int = 0

    def forget(self) -> None:
        self.fails.clear()
        self.ran.clear()
        self.moment = 0

    def next_moment(self) -> int:
        self.moment += 1
        return self.moment

    def visit(self, what: str, owner: str, message: Message) -> None:
        # Not by the ORM, for that takes longer than all the rest of a handler.
        with connection.cursor() as cursor:
            cursor.execute(_EFFECT, [f"{owner} {message.id}", message.published_at])
        self.ran[f"{owner} {message.id}"] = self.next_moment()
        left = self.fails.get(what, 0)
        if left:
            self.fails[what] = left - 1
            raise Broken(what)


plan = Plan()


def declare() -> dict[str, Callable[..., Any]]:
    """Declare the process, its policy and its command; the events' classes by their word."""

    @event(name="fuzz.Opened")
    class Opened:
        key: str
        do: list[str]

    @event(name="fuzz.Poked")
    class Poked:
        key: str
        do: list[str]

    @event(name="fuzz.Early")
    class Early:
        key: str
        do: list[str]

    @event(name="fuzz.Strict")
    class Strict:
        key: str
        do: list[str]

    @event(name="fuzz.Closed")
    class Closed:
        key: str
        do: list[str]

    @event(name="fuzz.Done")
    class Done:
        key: str

    @command(name="fuzz.Do")
    class Do:
        key: str

    class Fuzzed(ProcessManager):
        handled: list[str] = field(default_factory=list)

        class Meta:
            name = PROCESS
            timeout = "1h"
            retry = _ONE_RETRY

        def turn(self, what: str, do: list[str] | None = None) -> object:
            self.handled.append(self.message.id)
            plan.visit(f"{what} {self.key}", "process", self.message)
            for wish in do or []:
                word, *rest = wish.split()
                if word == "ignore":
                    return self.ignore("it said so")
                if word == "set":
                    self.set_timer(rest[0], timedelta(seconds=int(rest[1])))
                elif word == "unset":
                    self.cancel_timer(rest[0])
                elif word == "send":
                    self.send(Do(key=self.key))
                elif word == "delay":
                    self.send(Do(key=self.key), delay=timedelta(seconds=int(rest[0])))
                elif word == "unsend":
                    self.cancel_command(Do)
                elif word == "complete":
                    self.complete()
            return None

        @handle(Opened, start=True, correlate="key")
        def opened(self, event: Opened) -> object:
            return self.turn("opened", event.do)

        @handle(Poked, correlate="key")
        def poked(self, event: Poked) -> object:
            return self.turn("poked", event.do)

        @handle(Early, correlate="key", unmatched=Wait("10m"))
        def early(self, event: Early) -> object:
            return self.turn("early", event.do)

        @handle(Strict, correlate="key", unmatched="dead_letter")
        def strict(self, event: Strict) -> object:
            return self.turn("strict", event.do)

        @handle(Closed, correlate="key", end=True)
        def closed(self, event: Closed) -> object:
            return self.turn("closed", event.do)

        @handle(Done, correlate="key")
        def done(self, event: Done) -> object:
            return self.turn("done")

        @on_timer("a")
        def timer_a(self) -> object:
            return self.turn("timer")

        @on_timer("b")
        def timer_b(self) -> object:
            return self.turn("timer")

        @on_timeout
        def timed_out(self) -> object:
            return self.turn("timed_out")

        @on_command_failed(Do)
        def not_done(self, failure: Failure) -> object:
            return self.turn("not_done")

        @on_failure
        def failed(self, failure: Failure) -> object:
            return self.turn("failed")

    @policy(Early, name=POLICY, retry=_ONE_RETRY)
    def react(event: Early, reaction: Reaction) -> None:
        plan.visit(f"policy {event.key}", "policy", reaction.message)

    @command_handler(Do, retry=_ONE_RETRY)
    def do(command: Do, message: Message) -> None:
        publish(Done(key=command.key))
        plan.visit(f"command {command.key}", "command", message)

    classes = [Opened, Poked, Early, Strict, Closed]
    return {cls.__name__.lower(): cls for cls in classes}


#: What the plan may name, before the key.
MAY_FAIL = [
    "opened",
    "poked",
    "early",
    "strict",
    "closed",
    "done",
    "timer",
    "timed_out",
    "not_done",
    "failed",
    "policy",
    "command",
]
