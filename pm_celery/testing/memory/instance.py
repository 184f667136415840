"""One process instance in memory: the rows that the engine would keep for it, and time.

What becomes of a message is decided by the engine's own code (``cases``, ``deciding``, ``outcomes``,
``retries``). The modules beside this one do only what the database does for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pm_celery.definitions import ProcessDefinition
from pm_celery.keys import partition_of
from pm_celery.process import ProcessManager
from pm_celery.retries import Retry
from pm_celery.rows import InboxRow, InstanceRow, TransitionRow
from pm_celery.testing.memory.planned import Plan
from pm_celery.testing.memory.rows import Letter, Received, SentCommand, StandingTimer

__all__ = ["BEGINNING", "Memory", "steady"]

#: When a test begins unless it says otherwise: always the same moment, so that no test depends on today.
BEGINNING = datetime(2030, 1, 1, 12, tzinfo=UTC)
_INSTANCE = 1
_A_SECOND = timedelta(seconds=1)


class Memory:
    """One process instance, and everything that the engine keeps for it. Rows are replaced, not changed."""

    def __init__(
        self,
        definition: ProcessDefinition,
        now: datetime = BEGINNING,
        handlers: Mapping[str, Callable[..., object]] | None = None,
        raises: tuple[type[Exception], ...] = (),
    ) -> None:
        self.definition = definition
        self.now = now
        #: Command handlers, by the commands' names.
        self.handlers = handlers or {}
        #: Errors of the user's code that are treated as the engine does; others are raised.
        self.raises = raises
        self.plan = Plan()
        self.key: str | None = None
        self.instance: InstanceRow | None = None
        #: In the order of their ids.
        self.inbox: dict[int, Received] = {}
        self.ids: dict[str, int] = {}
        self.timers: dict[str, StandingTimer] = {}
        #: By command id, in the order in which they were issued.
        self.outbox: dict[str, SentCommand] = {}
        self.letters: list[Letter] = []
        self.transitions: list[TransitionRow] = []
        #: When each transition was recorded.
        self.moments: list[datetime] = []
        #: Events that this instance did not get, each with why.
        self.elsewhere: list[tuple[object, str]] = []
        #: What command handlers published, whoever hears it.
        self.published: list[object] = []
        #: What the user's code raised.
        self.errors: list[Exception] = []
        #: The handlers that ran, here and in all copies.
        self.reached: set[str] = set()

    def copy(self) -> Memory:
        """The same once more, to go on from here in another way."""
        copied = Memory.__new__(Memory)
        copied.__dict__.update(self.__dict__)
        for name in ("inbox", "ids", "timers", "outbox"):
            setattr(copied, name, dict(getattr(self, name)))
        for name in ("letters", "transitions", "moments", "elsewhere", "published", "errors"):
            setattr(copied, name, list(getattr(self, name)))
        copied.plan = self.plan.copy()
        if self.instance is not None:
            copied.instance = replace(self.instance)
        return copied

    # -- what there is --------------------------------------------------------------------------

    @property
    def at_once(self) -> datetime:
        """When something is due that is to be handled now; see ``clock.at_once``."""
        return self.now - _A_SECOND

    def process(self) -> ProcessManager:
        """The process as its state reads; where there is no instance, its defaults."""
        if self.instance is None or self.instance.number == 0:
            return self.definition.initial()
        return self.definition.load(self.instance.state, self.instance.state_version)

    def placeholder(self) -> InstanceRow:
        """An instance that is not there yet."""
        name, key = self.definition.name, self.key or ""
        return InstanceRow(
            id=_INSTANCE,
            process=name,
            key=key,
            partition=partition_of(name, key),
            status="started",
            state="",
            number=0,
            correlation_id="",
            started_at=self.now,
            ended_at=None,
            timeout_at=None,
        )

    def to_handle(self) -> list[InboxRow]:
        """What the instance has to handle, in order: what waits for a start event only if it is due."""
        return [
            found.row
            for found in self.inbox.values()
            if found.row.status == "pending"
            or (found.row.status == "waiting" and found.row.due_at <= self.now)
        ]

    @property
    def handler_names(self) -> frozenset[str]:
        """The methods that may run."""
        definition = self.definition
        return frozenset(
            {
                *(handler.method for handler in definition.event_handlers.values()),
                *definition.timer_handlers.values(),
                *definition.command_failed_handlers.values(),
                definition.timeout_handler or "",
                definition.failure_handler or "",
            }
            - {""}
        )

    def next_due(self) -> datetime | None:
        """The next moment at which something happens by itself; None if nothing ever does."""
        return min(self.due(), default=None)

    def due(self) -> list[datetime]:
        """The moments at which something happens by itself."""
        moments = [timer.due_at for timer in self.timers.values() if not timer.is_fired]
        moments += [
            sent.row.due_at for sent in self.outbox.values() if sent.row.status == "pending"
        ]
        moments += [
            found.row.due_at
            for found in self.inbox.values()
            if found.row.status in ("pending", "waiting")
        ]
        if self.instance is not None and self.instance.timeout_at is not None:
            moments.append(self.instance.timeout_at)
        return moments

    # -- how rows change ------------------------------------------------------------------------

    def write(self, row: InboxRow, reason: str | None = None) -> None:
        """Write a message back; without a reason, it keeps the one that it has."""
        self.inbox[row.id] = Received(row, self.inbox[row.id].reason if reason is None else reason)

    def write_each(self, statuses: tuple[str, ...], status: str, reason: str) -> None:
        """Write another status into all messages of some; what is pending then is due at once."""
        for found in list(self.inbox.values()):
            if found.row.status in statuses:
                due = self.at_once if status == "pending" else found.row.due_at
                self.write(replace(found.row, status=status, due_at=due), reason)

    def skip_parked(self) -> None:
        """What was parked has nowhere to go once its instance has ended."""
        assert self.instance is not None
        self.write_each(("parked",), "skipped", f"the instance is {self.instance.status}")

    def write_command(self, sent: SentCommand) -> None:
        self.outbox[sent.row.command_id] = sent


def steady(retry: Retry) -> Retry:
    """The same waits without chance: a test that failed once is to fail again."""
    if not retry.jitter:
        return retry
    return Retry(
        retry.strategy,
        max_retries=retry.max_retries,
        delay=retry.delay,
        max_delay=retry.max_delay,
        jitter=False,
        terminal=retry.terminal,
    )
