"""Process managers in tests with a database: real rows, real handlers, virtual time; no broker, no worker.

In pytest it is the fixture ``process_managers``; in Django's test cases :class:`ProcessManagersMixin`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload
from uuid import UUID

from celery.canvas import Signature
from django.db.models import QuerySet
from kombu.utils import json as kombu_json

from pm_celery import broker, clock, publishing, registry
from pm_celery.conf import get_settings
from pm_celery.definitions import ProcessDefinition
from pm_celery.durations import Duration
from pm_celery.keys import correlation_key
from pm_celery.messages import Kind, message_type
from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand, Timer, Transition
from pm_celery.process import ProcessManager
from pm_celery.testing.driving import MOST_ROUNDS, Time, drain
from pm_celery.testing.reports import no_instance, report
from pm_celery.testing.upcoming import Upcoming, upcoming

if TYPE_CHECKING:
    from django.test import SimpleTestCase as TestCaseWithin
else:
    # A mixin and no test case: test runners would collect it wherever it is imported.
    TestCaseWithin = object

__all__ = ["ProcessManagers", "ProcessManagersMixin"]

M = TypeVar("M")
P = TypeVar("P", bound=ProcessManager)


class ProcessManagers:
    """Does, one thing after another and in this process, what workers and Beat do; and tells what came of it.

    Use it as a context manager. Inside it no message goes to a broker, whatever ``CELERY_BROKER_URL`` and
    ``CELERY_TASK_ALWAYS_EAGER`` say, and time stands still but for :meth:`elapse` and :meth:`outage`.

    Processes are given by their class or their name, keys as in events. Rows are those of
    ``PM_CELERY["DATABASE"]``, which the test must be allowed to use.
    """

    def __init__(self) -> None:
        self._time = Time()

    def __enter__(self) -> Self:
        self._time.enter_context(broker.without_broker())
        # This machine's clock: the database may not be asked before the test has said which one it uses.
        self._time.enter_context(clock.stop(datetime.now(UTC)))
        return self

    def __exit__(self, *raised: object) -> None:
        self._time.close()

    # -- what happens ---------------------------------------------------------------------------

    def publish(
        self,
        event: object,
        *,
        event_id: str | UUID | None = None,
        correlation_id: str | UUID | None = None,
        occurred_at: datetime | None = None,
    ) -> str:
        """As :func:`pm_celery.publish`, which does as well: put an event into inboxes for ``drain``."""
        return publishing.publish(
            event, event_id=event_id, correlation_id=correlation_id, occurred_at=occurred_at
        )

    def drain(self, *, most_rounds: int = MOST_ROUNDS) -> None:
        """Handle messages and run commands until nothing is due.

        What raises is run again after its backoff, as in production: ``elapse`` passes that. Commands that
        are Celery signatures run where their task is registered. Callbacks that handlers leave for
        ``transaction.on_commit`` run, also inside Django's ``TestCase``.

        Raises :class:`NotSettled`, which tells what is still due, after so many rounds.
        """
        drain(most_rounds=most_rounds)

    def elapse(self, duration: Duration) -> None:
        """Let time go by, such as ``"7d"``: timers, timeouts, backoffs and delays at their own moments."""
        self._time.elapse(duration)

    def outage(self, duration: Duration) -> None:
        """Let time go by while no worker and no Beat runs; then handle what has become due, late."""
        self._time.outage(duration)

    @property
    def now(self) -> datetime:
        """What time it is for handlers, in UTC."""
        return clock.now()

    # -- what came of it ------------------------------------------------------------------------

    def instance(self, process: type[ProcessManager] | str, key: object) -> Instance:
        """The row of an instance. Raises ``LookupError`` that names those which there are."""
        name, text = _name(process), correlation_key(key)
        found = self.instances(name).filter(key=text).first()
        if found is None:
            raise LookupError(no_instance(name, text))
        return found

    def instances(self, process: type[ProcessManager] | str | None = None) -> QuerySet[Instance]:
        """The rows of all instances, or of those of one process, in the order in which they began."""
        rows = Instance.objects.using(_alias()).order_by("pk")
        return rows if process is None else rows.filter(process=_name(process))

    def state(self, process: type[P], key: object) -> P:
        """The state of an instance, as its handlers see it. Raises ``LookupError``."""
        definition = _definition(process)
        row = self.instance(process, key)
        loaded: P = definition.load(row.state, row.state_version)  # type: ignore[assignment]
        return loaded

    def transitions(self, process: type[ProcessManager] | str, key: object) -> list[Transition]:
        """The steps that an instance took. Raises ``LookupError``."""
        steps = Transition.objects.using(_alias()).filter(instance=self.instance(process, key))
        return list(steps.order_by("number"))

    def timers(self, process: type[ProcessManager] | str, key: object) -> dict[str, datetime]:
        """When the timers of an instance are due, by their names. Raises ``LookupError``."""
        rows = Timer.objects.using(_alias()).filter(instance=self.instance(process, key))
        return dict(rows.order_by("due_at").values_list("name", "due_at"))

    @overload
    def commands(
        self,
        of: type[M],
        *,
        process: type[ProcessManager] | str | None = ...,
        key: object = ...,
        status: str | None = ...,
    ) -> list[M]: ...
    @overload
    def commands(
        self,
        of: None = ...,
        *,
        process: type[ProcessManager] | str | None = ...,
        key: object = ...,
        status: str | None = ...,
    ) -> list[Any]: ...

    def commands(
        self,
        of: type[Any] | None = None,
        *,
        process: type[ProcessManager] | str | None = None,
        key: object = None,
        status: str | None = None,
    ) -> list[Any]:
        """The commands that were issued, in that order: of one class, by one process or instance, with one
        status (``"pending"``: delayed or backing off; ``"dispatched"``: about to run; ``"done"``; ``"dead"``;
        ``"cancelled"``). Celery signatures come as signatures.
        """
        chosen = _chosen(of, "command", status, process, key)
        rows = OutboxCommand.objects.using(_alias()).filter(**chosen)
        return [_command(row) for row in rows.order_by("pk")]

    @overload
    def events(
        self,
        of: type[M],
        *,
        process: type[ProcessManager] | str | None = ...,
        key: object = ...,
        status: str | None = ...,
    ) -> list[M]: ...
    @overload
    def events(
        self,
        of: None = ...,
        *,
        process: type[ProcessManager] | str | None = ...,
        key: object = ...,
        status: str | None = ...,
    ) -> list[Any]: ...

    def events(
        self,
        of: type[Any] | None = None,
        *,
        process: type[ProcessManager] | str | None = None,
        key: object = None,
        status: str | None = None,
    ) -> list[Any]:
        """The events that some process or policy hears, each once, in the order in which they were published.

        status: what became of it: ``"handled"``, ``"skipped"``, ``"unmatched"``, ``"waiting"``, ``"parked"``,
        ``"pending"`` or ``"dead"``.
        """
        chosen = _chosen(of, "event", status, process, key)
        rows = InboxMessage.objects.using(_alias()).filter(kind="event", **chosen)
        found = {row.message_id: row for row in rows.order_by("pk")}
        return [_decoded(row) for row in found.values()]

    def became_of(self, event_id: str) -> dict[str, str]:
        """What became of an event, by the name of each process and policy that hears it."""
        rows = InboxMessage.objects.using(_alias()).filter(message_id=event_id)
        return dict(rows.order_by("process").values_list("process", "status"))

    def dead_letters(self, process: type[ProcessManager] | str | None = None) -> list[DeadLetter]:
        """The open dead letters, the oldest first."""
        rows = DeadLetter.objects.using(_alias()).open().order_by("pk")
        return list(rows.filter(**_of_instance(process, None)))

    def upcoming(self, most: int = 20) -> list[Upcoming]:
        """What has a moment at which it will be looked at, the earliest first: ``due_at`` and ``what``."""
        return upcoming(most)

    def report(self) -> str:
        """Where everything stands, in words. pytest shows it when a test fails that has the fixture."""
        return report()


class ProcessManagersMixin(TestCaseWithin):
    """For Django's ``TestCase`` and ``TransactionTestCase``: ``self.process_managers``, in each test anew.

    ::

        class OrderTests(ProcessManagersMixin, TestCase): ...
    """

    process_managers: ProcessManagers

    def setUp(self) -> None:
        """Begin virtual time, and let nothing go to a broker. A test case with a ``setUp`` calls this one."""
        super().setUp()
        self.process_managers = self.enterContext(ProcessManagers())


def _alias() -> str:
    return get_settings().database


def _name(process: type[ProcessManager] | str) -> str:
    return process if isinstance(process, str) else _definition(process).name


def _definition(process: type[ProcessManager]) -> ProcessDefinition:
    definition = getattr(process, "definition", None)
    if not isinstance(definition, ProcessDefinition):
        raise TypeError(f"{process!r} is no process manager: give its class.")
    return definition


def _of_instance(process: type[ProcessManager] | str | None, key: object) -> dict[str, str]:
    chosen = {} if process is None else {"process": _name(process)}
    return chosen if key is None else {**chosen, "key": correlation_key(key)}


def _chosen(
    of: type | None,
    kind: Kind,
    status: str | None,
    process: type[ProcessManager] | str | None,
    key: object,
) -> dict[str, str]:
    chosen = _of_instance(process, key)
    if of is not None:
        chosen["name"] = message_type(of, kind).name
    if status is not None:
        chosen["status"] = status
    return chosen


def _decoded(row: InboxMessage | OutboxCommand) -> Any:
    declared = registry.messages.get(row.name)
    if declared is None:
        raise LookupError(f"{row.name} is not declared, so its payload cannot be read.")
    return declared.decode(row.payload, row.version)


def _command(row: OutboxCommand) -> Any:
    if row.kind == "command":
        return _decoded(row)
    stored = kombu_json.loads(row.payload)
    arguments = tuple(stored.get("args", ()))
    return Signature(stored["task"], arguments, stored.get("kwargs"), stored.get("options"))
