"""What there is to see of a process instance in memory."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeVar, cast

from pm_celery.process import ProcessManager
from pm_celery.testing.memory import views
from pm_celery.testing.memory.instance import Memory
from pm_celery.testing.memory.rows import SentCommand
from pm_celery.testing.memory.story import story
from pm_celery.testing.memory.views import DeadLetter, Noted, Sent, Transition

__all__ = ["Seen"]

P = TypeVar("P", bound=ProcessManager)


class Seen(Generic[P]):
    """``commands`` are those of the last step; everything else tells of the whole."""

    def __init__(self, memory: Memory) -> None:
        #: The rows behind it.
        self.memory = memory
        self._issued_before = 0

    @property
    def state(self) -> P:
        """The process with its fields as they are stored; their defaults where there is no instance."""
        return cast(P, self.memory.process())

    @property
    def status(self) -> str | None:
        """started, failed, completed, timed_out or cancelled; None where there is no instance."""
        return self.memory.instance.status if self.memory.instance else None

    @property
    def has_ended(self) -> bool:
        """Whether nothing that comes will be handled any more."""
        return self.memory.instance is not None and self.memory.instance.ended_at is not None

    @property
    def key(self) -> str | None:
        """The correlation key; None before there was an event."""
        return self.memory.key

    @property
    def now(self) -> datetime:
        """The virtual moment, in UTC."""
        return self.memory.now

    @property
    def commands(self) -> list[Any]:
        """What was issued in the last step: the commands, and Celery signatures."""
        return [views.command_of(sent.row) for sent in self.issued]

    @property
    def sent(self) -> list[Any]:
        """Everything that was issued so far, in order."""
        return [views.command_of(sent.row) for sent in self.memory.outbox.values()]

    @property
    def outbox(self) -> list[Sent]:
        """The same, with what became of it."""
        return [views.sent_of(sent) for sent in self.memory.outbox.values()]

    @property
    def timers(self) -> dict[str, datetime]:
        """The timers that stand, and when they are due."""
        return {timer.name: timer.due_at for timer in self.memory.timers.values()}

    @property
    def timeout_at(self) -> datetime | None:
        """When the whole process times out; None if it does not."""
        return self.memory.instance.timeout_at if self.memory.instance else None

    @property
    def next_due(self) -> datetime | None:
        """When something happens next by itself; None if nothing does."""
        return self.memory.next_due()

    @property
    def transitions(self) -> list[Transition]:
        """The steps of the instance, from the first."""
        return views.transitions_of(self.memory)

    @property
    def handled(self) -> list[Any]:
        """The events that it handled, in order; of timers and the like their names."""
        return [step.message for step in self.transitions if step.message]

    @property
    def skipped(self) -> list[Noted]:
        """What was skipped, each with the reason."""
        return views.noted(self.memory, ("skipped",))

    @property
    def unmatched(self) -> list[Noted]:
        """Events that found no instance, each with the reason."""
        return views.noted(self.memory, ("unmatched",))

    @property
    def waiting(self) -> list[Any]:
        """Events that wait for a start event."""
        return [found.message for found in views.noted(self.memory, ("waiting",))]

    @property
    def pending(self) -> list[Any]:
        """Messages that are not handled yet: one waits for its retry, and others behind it."""
        return [found.message for found in views.noted(self.memory, ("pending",))]

    @property
    def parked(self) -> list[Any]:
        """Messages that are kept behind a failure."""
        return [found.message for found in views.noted(self.memory, ("parked",))]

    @property
    def elsewhere(self) -> list[Noted]:
        """Events that are another instance's, or none's, each with the reason."""
        return [Noted(*found) for found in self.memory.elsewhere]

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """What failed for good, settled or not."""
        return [views.dead_letter_of(letter) for letter in self.memory.letters]

    @property
    def published(self) -> list[Any]:
        """What command handlers published, also what this process does not hear."""
        return list(self.memory.published)

    @property
    def errors(self) -> list[Exception]:
        """What handlers and commands raised, each attempt."""
        return list(self.memory.errors)

    @property
    def issued(self) -> list[SentCommand]:
        """The rows of the last step's commands."""
        return list(self.memory.outbox.values())[self._issued_before :]

    def __repr__(self) -> str:
        memory = self.memory
        what = f"{self.status or 'no instance yet'}, {len(memory.transitions)} transitions"
        return f"<{memory.definition.cls.__name__} {self.key}: {what}>"

    def __str__(self) -> str:
        return story(self.memory)
