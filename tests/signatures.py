"""Errands: what can be had only of real workers. Signatures, task options, and handlers that kill."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Literal

from celery import current_task, shared_task

from pm_celery import (
    Failure,
    ProcessManager,
    Retry,
    command,
    command_handler,
    event,
    handle,
    on_failure,
)
from tests.testapp.models import Effect

Kind = Literal["signature", "failing signature", "later", "slow", "look", "wait"]


@event
class ErrandGiven:
    errand: str
    kind: Kind


@event
class ErrandDone:
    errand: str


@event
class ErrandKills:
    errand: str


@command
class Note:
    errand: str


@command
class Look:
    errand: str


@command
class Dawdle:
    errand: str


class ErrandFailed(Exception):
    """What the failing task raises."""


@shared_task(name="tests.note_errand")
def note_errand(errand: str) -> None:
    Effect.objects.create(name=f"task {errand}")


@shared_task(name="tests.fail_errand")
def fail_errand(errand: str) -> None:
    Effect.objects.create(name=f"tried {errand}")
    raise ErrandFailed(f"{errand} cannot be done")


class Errand(ProcessManager):
    """Sends what its errand asks for, and remembers what failed."""

    kind: Kind = "wait"
    problem: str = ""

    class Meta:
        timeout = "7d"
        retry = Retry("none")

    @handle(ErrandGiven, start=True, correlate="errand")
    def given(self, event: ErrandGiven) -> None:
        self.kind = event.kind
        if event.kind == "signature":
            self.send(note_errand.s(event.errand))
        elif event.kind == "failing signature":
            self.send(fail_errand.s(event.errand))
        elif event.kind == "later":
            self.send(Note(errand=event.errand), queue="later")
        elif event.kind == "slow":
            self.send(Dawdle(errand=event.errand))
        elif event.kind == "look":
            self.send(Look(errand=event.errand))
        else:
            self.send(Note(errand=event.errand), delay="1s")

    @handle(ErrandDone, correlate="errand", end=True)
    def done(self, event: ErrandDone) -> None:
        pass

    @handle(ErrandKills, correlate="errand")
    def kills(self, event: ErrandKills) -> None:
        # Nothing but a worker that a test started may be killed.
        assert "PM_TEST_WORKER" in os.environ
        os.kill(os.getpid(), signal.SIGKILL)

    @on_failure
    def failed(self, failure: Failure) -> None:
        self.problem = f"{failure.name}: {failure.exception}: {failure.error}"


@command_handler(Note)
def note(command: Note) -> None:
    Effect.objects.create(name=f"command {command.errand}")


@command_handler(
    Look, queue="special", priority=3, rate_limit="50/s", time_limit=30, soft_time_limit=20
)
def look(command: Look) -> None:
    """Note how Celery runs it."""
    request = current_task.request
    found = {
        "queue": request.delivery_info["routing_key"],
        "priority": request.delivery_info["priority"],
        "rate_limit": current_task.rate_limit,
        "time_limits": [current_task.time_limit, current_task.soft_time_limit],
        "id": request.id,
    }
    Effect.objects.create(name=json.dumps(found))


@command_handler(Dawdle, retry=Retry("none"), time_limit=0.5)
def dawdle(command: Dawdle) -> None:
    Effect.objects.create(name=f"dawdled {command.errand}")
    time.sleep(60)
