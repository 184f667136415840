"""Process managers as users write them: a class with typed fields, and a method for each message."""

from __future__ import annotations

import dataclasses
import inspect
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

from pm_celery import redaction, registry
from pm_celery.decisions import Ignored, Message, Turn
from pm_celery.definitions import ProcessDefinition
from pm_celery.durations import Duration
from pm_celery.exceptions import Misuse
from pm_celery.messages import CODEC_CONFIG
from pm_celery.wording import printable

if TYPE_CHECKING:
    from celery.canvas import Signature

__all__ = ["ProcessManager"]


@dataclass_transform(kw_only_default=True, field_specifiers=(dataclasses.field,))
class ProcessManager:
    """A stateful coordinator: events in, commands out.

    Annotated attributes with defaults are its state (dataclass semantics); methods decorated with
    :func:`handle` and its siblings are its handlers. A handler changes the state and collects commands
    and timers; nothing leaves before everything is recorded in one transaction.

    An instance is made for each correlation key by the first start event. Handlers of one instance run
    one after another, in the order of its messages; they may run again after a rollback, so they compute
    and decide, and leave to commands what cannot be undone.

    The idea, and most of the words, are from Hohpe and Woolf, *Enterprise Integration Patterns* (Process
    Manager); that handlers collect and never send, from Wolverine's sagas.
    """

    definition: ClassVar[ProcessDefinition]
    __pydantic_config__: ClassVar[Any] = {**CODEC_CONFIG, "revalidate_instances": "never"}
    _turn: ClassVar[Turn]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _adopt_annotations(cls)
        reserved = _RESERVED.intersection(inspect.get_annotations(cls))
        trouble: list[tuple[str, str, str]] = [
            ("E007", f".{name} is a name that every process has already.", "Rename the field.")
            for name in sorted(reserved)
        ]
        for value in vars(cls).values():
            if isinstance(value, dataclasses.Field):
                # pydantic reads no field that is no parameter; the state must come back whole.
                value.init = True
        try:
            dataclasses.dataclass(eq=False, repr=False, kw_only=True)(cls)
        except (TypeError, ValueError) as error:
            trouble.append(
                ("E007", f": {error}.", "Write items: list[str] = field(default_factory=list).")
            )
        definition = ProcessDefinition(cls)
        for problem in trouble:
            definition.problem(*problem)
        complete = dataclasses.is_dataclass(cls)
        for state_field in dataclasses.fields(cls) if complete else ():  # type: ignore[arg-type]
            missing = dataclasses.MISSING
            if state_field.default is missing and state_field.default_factory is missing:
                definition.problem(
                    "E007",
                    f".{state_field.name} has no default.",
                    f"An instance begins before any event is handled: {state_field.name}: … = None",
                )
        cls.definition = definition
        if not definition.abstract:
            registry.listeners.add(definition)

    # -- what a release may say of the one before -----------------------------------------------

    @classmethod
    def upgrade_state(cls, state: dict[str, Any], from_version: int) -> dict[str, Any]:
        """Bring a stored state to the next version: override it where ``Meta.state_version`` is above 1.

        Called when an instance is loaded whose state is older than ``Meta.state_version``, once for each
        version from ``from_version`` on.

        state: the state of version ``from_version`` as JSON has it (a dict of texts, numbers, lists, …); its
        own, to change as it likes. Returns that of version ``from_version + 1``.
        """
        return state

    # -- what a handler may ask -----------------------------------------------------------------

    @property
    def key(self) -> str:
        """The correlation key of this instance."""
        return self._turn.key

    @property
    def now(self) -> datetime:
        """The moment of handling, in UTC; virtual in tests. Use it instead of the wall clock."""
        return self._turn.now

    @property
    def message(self) -> Message:
        """Ids, attempt and moments of the message that is being handled."""
        return self._turn.message

    # -- what a handler may decide --------------------------------------------------------------

    def send(
        self,
        command: object | Signature[Any],
        *,
        delay: Duration | None = None,
        queue: str | None = None,
        priority: int | None = None,
        expires: Duration | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
    ) -> str:
        """Issue a command, or a Celery signature, once this step is committed; returns its id, a UUID as
        text.

        delay: dispatch it later; a duration such as ``"1h"``, or a ``timedelta``.
        expires: give it up, as a dead letter, if it did not start within this time after it was issued.
        queue, priority, time_limit, soft_time_limit: Celery's, for this one command; limits in seconds.

        Raises ``InvalidMessage`` for a command that does not validate, ``Misuse`` for what is no command.
        """
        return self._turn.send(
            command,
            delay=delay,
            expires=expires,
            queue=queue,
            priority=priority,
            time_limit=time_limit,
            soft_time_limit=soft_time_limit,
        )

    def cancel_command(self, command: str | type) -> None:
        """Cancel a delayed command by the id that ``send`` returned, or all of a command class that this
        instance has issued.

        What has been dispatched already runs all the same.
        """
        self._turn.cancel_command(command)

    def set_timer(
        self,
        name: str,
        after: Duration | None = None,
        *,
        at: datetime | None = None,
        payload: object = None,
    ) -> None:
        """Let ``@on_timer(name)`` run after a duration or at a moment; set again, it moves.

        after: a duration from ``self.now``: ``"24h"``, or a ``timedelta``.
        at: a moment with a time zone, instead. One that is past is due at once.
        payload: what the handler takes, if it has a parameter; any value that pydantic writes as JSON.

        It fires at the first tick after its moment. Raises ``Misuse`` for a name without a handler, or a
        payload that cannot be stored.
        """
        if name not in self.definition.timer_handlers:
            raise Misuse(
                f"set_timer({name!r}): {self.definition.where} has no @on_timer({name!r}) method."
            )
        self._turn.set_timer(name, after, at=at, payload=payload)

    def cancel_timer(self, name: str) -> None:
        """Let a timer not fire; one that is not set is no error. Raises ``Misuse`` for a name without a
        handler."""
        if name not in self.definition.timer_handlers:
            raise Misuse(
                f"cancel_timer({name!r}): {self.definition.where} has no @on_timer({name!r}) method."
            )
        self._turn.cancel_timer(name)

    def complete(self) -> None:
        """End this instance as completed when the handler has returned."""
        self._turn.completed = True

    def ignore(self, reason: str) -> Ignored:
        """``return self.ignore("why")``: record the message as skipped; change and end nothing.

        What the handler has changed, sent and set before is dropped. Without the ``return`` it does nothing.
        """
        return Ignored(printable(str(reason)))

    def __repr__(self) -> str:
        hidden = redaction.marked(self.definition.name)
        values = ", ".join(
            f"{f.name}={redaction.HIDDEN if f.name in hidden else repr(getattr(self, f.name))}"
            for f in dataclasses.fields(self)  # type: ignore[arg-type]
        )
        return f"{type(self).__name__}({values})"


def _adopt_annotations(cls: type) -> None:
    """Annotated attributes of a mixin are state too, though dataclasses look at dataclasses only."""
    own = inspect.get_annotations(cls)
    for base in cls.__mro__[1:]:
        if base not in (ProcessManager, object) and "__dataclass_fields__" not in vars(base):
            own = {**inspect.get_annotations(base), **own}
    cls.__annotations__ = own


_RESERVED = {name for name in vars(ProcessManager) if not name.startswith("__")} | {
    "definition",
    "_turn",
    "Meta",
}
