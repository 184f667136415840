"""What the kit says in memory is what the engine does on the database, or nobody should believe a test."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest

from pm_celery import Envelope, clock, publish_many
from pm_celery.engine import advance
from pm_celery.exceptions import Refused
from pm_celery.keys import partition_of
from pm_celery.models import DeadLetter, InboxMessage, Instance
from pm_celery.operations import dead_letters, instances
from pm_celery.outbox import dispatch_due
from pm_celery.testing import Scenario, given
from pm_celery.testing.memory.instance import BEGINNING
from pm_celery.timers import fire_due
from tests.driving import run_commands
from tests.kit.puppet import (
    EVENTS,
    IN_MEMORY,
    Operation,
    Plan,
    Puppet,
    kept_in_database,
    kept_in_memory,
    operations,
)

# The last six were looked for: each shows a fate that the others do not.
SEEDS = [*range(13), 57, 83, 107, 131, 152, 174]
LENGTH = 18
FATES = {
    *("message pending", "message waiting", "message parked", "message handled", "message skipped"),
    *("message unmatched", "message dead", "message discarded"),
    *("command pending", "command done", "command dead", "command cancelled", "command discarded"),
    *("letter handler open", "letter handler retried", "letter handler discarded"),
    *("letter command open", "letter command retried", "letter command discarded"),
    *("letter unmatched open", "letter unmatched retried", "letter unmatched discarded"),
    *("letter publish open", "letter publish discarded", "letter of a failure handler"),
    *("instance None", "instance started", "instance failed", "instance failed for good"),
    *("instance completed for good", "instance timed_out for good", "instance cancelled for good"),
}

# On one of them: that the others do the same is what the engine's own tests show.
pytestmark = [pytest.mark.django_db, pytest.mark.any_database]


class InMemory:
    def __init__(self, key: str) -> None:
        self.key = key
        self.puppet = given(Puppet, handlers=IN_MEMORY, raises=Exception)
        self.fails: dict[str, int] = {}

    def apply(self, operation: Operation) -> list[datetime]:
        """Let it happen; the moments at which something was due meanwhile."""
        Plan.fails = self.fails
        what, how = operation
        moments: list[datetime] = []
        match what:
            case "publish":
                word, do, id_ = how
                self.puppet.when(EVENTS[word](key=self.key, do=do), event_id=f"{self.key} {id_}")
            case "fail":
                self.fails[how[0]] = how[1]
            case "elapse":
                end = self.puppet.now + timedelta(seconds=how)
                while (due := self.puppet.next_due) is not None and due <= end:
                    moments.append(due)
                    self.puppet.elapse(due - self.puppet.now)
                if end > self.puppet.now:
                    self.puppet.elapse(end - self.puppet.now)
                moments.append(end)
            case _:
                with suppress(Refused):
                    self._operate(what)
        return moments

    def _operate(self, what: str) -> None:
        letters = [one for one in self.puppet.dead_letters if one.status == "open"]
        letter = letters[-1] if letters else None
        if what == "cancel":
            self.puppet.cancel()
        elif letter is None:
            return
        elif what == "retry":
            self.puppet.retry(letter)
        else:
            self.puppet.discard(letter, resume=what == "discard")

    def kept(self) -> dict[str, Any]:
        return kept_in_memory(self.puppet.memory)


class InDatabase:
    def __init__(self, key: str, patch: pytest.MonkeyPatch) -> None:
        self.key = key
        self.partition = partition_of("puppet.Puppet", key)
        self.now = BEGINNING
        self.fails: dict[str, int] = {}
        patch.setattr(clock, "now", lambda: self.now)

    def apply(self, operation: Operation, moments: list[datetime]) -> None:
        Plan.fails = self.fails
        what, how = operation
        match what:
            case "publish":
                word, do, id_ = how
                event = EVENTS[word](key=self.key, do=do)
                publish_many([Envelope(event, event_id=f"{self.key} {id_}")])
            case "fail":
                self.fails[how[0]] = how[1]
            case "elapse":
                for moment in moments:
                    self.now = moment
                    self._drain()
            case _:
                with suppress(Refused):
                    self._operate(what)
        self._drain()

    def _operate(self, what: str) -> None:
        if what == "cancel":
            instances.cancel(getattr(Instance.objects.filter(key=self.key).first(), "pk", 0))
            return
        letter = DeadLetter.objects.open().filter(key=self.key).order_by("-id").first()
        if letter is None:
            return
        if what == "retry":
            dead_letters.retry(letter.pk)
        else:
            dead_letters.discard(letter.pk, resume=what == "discard")

    def _drain(self) -> None:
        while True:
            fire_due()
            dispatch_due()
            while advance(self.partition, counts_on_others=False):
                pass
            ran = run_commands()
            if not ran and not InboxMessage.objects.due(self.partition, self.now).exists():
                return

    def kept(self) -> dict[str, Any]:
        return kept_in_database(self.key, self.now)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_process_in_memory_is_at_every_moment_as_it_is_in_the_database(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conformance 46 and 47: events, time, failures and operators in an order that nobody chose."""
    key = f"key {seed}"
    memory, database = InMemory(key), InDatabase(key, monkeypatch)

    for operation in operations(random.Random(seed), LENGTH):
        moments = memory.apply(operation)
        database.apply(operation, moments)
        assert memory.kept() == database.kept(), operation


def test_these_seeds_show_every_handler_and_every_fate() -> None:
    """Else the comparison would compare little."""
    fates: set[str] = set()
    reached: set[str] = set()
    for seed in SEEDS:
        memory = InMemory(f"key {seed}")
        for operation in operations(random.Random(seed), LENGTH):
            memory.apply(operation)
            fates |= fates_of(memory.puppet)
        reached |= memory.puppet.memory.reached

    assert reached == memory.puppet.memory.handler_names
    assert fates == FATES


def fates_of(puppet: Scenario[Puppet]) -> set[str]:
    rows = puppet.memory
    return {
        *(f"message {found.row.status}" for found in rows.inbox.values()),
        *(f"command {sent.row.status}" for sent in rows.outbox.values()),
        *(f"letter {one.place} {one.status}" for one in rows.letters),
        *("letter of a failure handler" for one in rows.letters if one.failure_handler_error),
        f"instance {puppet.status}" + (" for good" if puppet.has_ended else ""),
    }
