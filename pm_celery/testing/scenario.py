"""``given(Process, *events)``: a process instance in memory, to which a test lets things happen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Self, TypeVar
from uuid import UUID

from pm_celery.durations import Duration, parse_duration
from pm_celery.exceptions import DeclarationError, Misuse, Refused
from pm_celery.messages import message_type
from pm_celery.process import ProcessManager
from pm_celery.testing.expecting import Expected, differences
from pm_celery.testing.memory import commands, operating, views
from pm_celery.testing.memory.handling import drain
from pm_celery.testing.memory.incoming import publish
from pm_celery.testing.memory.instance import BEGINNING, Memory
from pm_celery.testing.memory.planned import Injected
from pm_celery.testing.memory.rows import Letter, SentCommand
from pm_celery.testing.memory.story import story
from pm_celery.testing.memory.views import DeadLetter
from pm_celery.testing.seen import Seen

__all__ = ["Scenario", "given"]

P = TypeVar("P", bound=ProcessManager)
Handlers = Mapping[type, Callable[..., object]]


def given(
    process: type[P],
    *events: object,
    handlers: Handlers | None = None,
    raises: type[Exception] | tuple[type[Exception], ...] = (),
    now: datetime = BEGINNING,
) -> Scenario[P]:
    """A process instance that has handled some events: no database, no broker, and time stands still.

    The engine's own code decides what becomes of each event, so all is as in production: retries, dead
    letters, parking, timeouts. It is one instance, that of the first event's correlation key.

    handlers:
        what commands do: ``{ReserveStock: lambda command: StockReserved(command.order_id)}``. A function
        returns the event that the command handler publishes, several, or None. Without one, a command is
        dispatched and nothing comes of it.
    raises:
        exceptions of the process's own code that are meant: they are retried, and end in a dead letter.
        All others are raised where they occur.
    now:
        the moment at which it begins, with a time zone.

    Raises ``DeclarationError`` for a process that is declared wrongly.
    """
    definition = process.definition
    for problem in definition.problems:
        raise DeclarationError(f"{problem.text} {problem.hint} (pm_celery.{problem.id})")
    functions = {message_type(cls, "command").name: do for cls, do in (handlers or {}).items()}
    errors = raises if isinstance(raises, tuple) else (raises,)
    scenario: Scenario[P] = Scenario(Memory(definition, now, functions, errors))
    return scenario.when(*events)


class Scenario(Seen[P]):
    """One process instance in memory, as :func:`given` makes it.

    ``when``, ``elapse``, ``retry`` … are its steps: each returns the scenario itself.
    """

    # -- what happens ---------------------------------------------------------------------------

    def when(
        self,
        *events: object,
        event_id: str | UUID | None = None,
        correlation_id: str | UUID | None = None,
        occurred_at: datetime | None = None,
    ) -> Self:
        """Publish events, one after the other, and handle all that is due.

        event_id, correlation_id, occurred_at: as for ``publish``. An event whose id was there is handled
        once.
        """
        self._begin_step()
        for event in events:
            publish(
                self.memory,
                event,
                event_id=str(event_id or ""),
                correlation_id=str(correlation_id or ""),
                occurred_at=occurred_at,
            )
            drain(self.memory)
        return self

    def elapse(self, duration: Duration) -> Self:
        """Let time go by, and handle what becomes due, each at its moment: timers, the timeout, retries, and
        delayed commands."""
        self._begin_step()
        memory = self.memory
        end = memory.now + parse_duration(duration)
        while (due := memory.next_due()) is not None and due <= end:
            memory.now = max(memory.now, due)
            drain(memory)
        memory.now = end
        return self

    def failing(
        self,
        what: str | type,
        *,
        times: int | None = None,
        error: type[Exception] | Exception | None = None,
        for_good: bool = False,
    ) -> Self:
        """Let a handler, given by its name, or the commands of a class fail from now on.

        times: so often, and then no more; 0 mends it. Default: always.
        error: what is raised, a class or an exception. Default: ``Injected``.
        for_good: the first failure is the last attempt.
        """
        memory = self.memory
        if isinstance(what, type):
            name = message_type(what, "command").name
        elif what in memory.handler_names:
            name = what
        elif "." in what:
            name = what  # a Celery task
        else:
            known = ", ".join(sorted(memory.handler_names))
            raise Misuse(
                f"failing({what!r}): {memory.definition.where} has no such handler, but {known}."
            )
        memory.plan.add(name, times, error, for_good)
        return self

    def command_fails(self, what: object, *, error: Exception | None = None) -> Self:
        """Let a command that was dispatched fail for good: its dead letter, and the notice to the process.

        what: the command, or its class for the first of them. Raises ``Misuse`` where there is none.
        """
        self._begin_step()
        for sent in self.memory.outbox.values():
            if sent.row.status == "dispatched" and self._is_meant(sent, what):
                failure = error or Injected(f"{sent.row.name} was to fail")
                commands.die(self.memory, SentCommand(sent.row, sent.attempts + 1), failure)
                drain(self.memory)
                return self
        raise Misuse(f"command_fails({what!r}): no such command is under way.")

    # -- what operators do ----------------------------------------------------------------------

    def retry(self, letter: DeadLetter | None = None) -> Self:
        """Retry the open dead letter, or that one. Raises ``Refused``, as for operators."""
        self._begin_step()
        operating.retry(self.memory, self._letter(letter))
        drain(self.memory)
        return self

    def discard(self, letter: DeadLetter | None = None, *, resume: bool = True) -> Self:
        """Discard the open dead letter, or that one; without ``resume`` the instance stays failed."""
        self._begin_step()
        operating.discard(self.memory, self._letter(letter), resume=resume)
        drain(self.memory)
        return self

    def cancel(self) -> Self:
        """Cancel the instance. Raises ``Refused`` if it has ended."""
        return self._end("cancelled")

    def complete(self) -> Self:
        """Complete the instance, as an operator may. Raises ``Refused`` if it has ended."""
        return self._end("completed")

    def _end(self, status: str) -> Self:
        self._begin_step()
        operating.end(self.memory, status)
        drain(self.memory)
        return self

    # -- assertions -----------------------------------------------------------------------------

    def expect(
        self,
        *,
        status: str | None = None,
        state: Mapping[str, object] | None = None,
        commands: Iterable[object] | None = None,
        timers: Mapping[str, Duration | datetime] | None = None,
        skipped: Iterable[object] | None = None,
        parked: Iterable[object] | None = None,
        handlers: Iterable[str] | None = None,
    ) -> Self:
        """Assert what is given, all of it at once; an error tells each difference, and what had happened.

        state: some of its fields.
        commands: those of the last step, in order.
        timers: all that stand, each with its moment or with how long it takes from now.
        skipped: messages, or pairs of a message and the reason.
        handlers: of the transitions so far, "" where none ran.
        """
        __tracebackhide__ = True
        expected = Expected(status, state, commands, timers, skipped, parked, handlers)
        found = differences(expected, self)
        if found:
            raise AssertionError("\n".join([*found, "", story(self.memory)]))
        return self

    # -- inside ---------------------------------------------------------------------------------

    def _begin_step(self) -> None:
        self._issued_before = len(self.memory.outbox)

    def _is_meant(self, sent: SentCommand, what: object) -> bool:
        if not isinstance(what, type):
            return bool(views.command_of(sent.row) == what)
        return sent.row.name == message_type(what, "command").name

    def _letter(self, wanted: DeadLetter | None) -> Letter:
        is_open = [letter for letter in self.memory.letters if letter.status == "open"]
        found = [letter for letter in is_open if wanted is None or letter.number == wanted.number]
        if not found:
            raise Refused("already settled" if wanted else "it has no open dead letter")
        if len(found) > 1:
            raise Refused("it has several open dead letters: say which one")
        return found[0]
