"""A process's state as text: what is written after each transition, and read before the next one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from pm_celery.exceptions import Misuse, UndecodableState, UnknownMessage
from pm_celery.messages import unstorable
from pm_celery.redaction import Fields, fields_of, told
from pm_celery.versions import Step, StepFailed, brought_up
from pm_celery.wording import name_of

if TYPE_CHECKING:
    from pm_celery.process import ProcessManager

__all__ = ["StateCodec"]


class StateCodec(ABC):
    """The part of a process's definition that writes and reads states."""

    cls: type[ProcessManager]
    #: Of what is written; an older one is upgraded when it is read, a newer one is not known.
    state_version: int

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def where(self) -> str: ...

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        adapter = TypeAdapter(self.cls)
        self._fields = fields_of(adapter, self.where)
        return adapter

    @property
    def fields(self) -> Fields:
        """The state's fields at any depth, and which of them are sensitive."""
        self.adapter  # noqa: B018 -- builds it, and reads its fields
        return self._fields

    def initial(self) -> ProcessManager:
        return self.cls()

    def load(self, state: str, version: int | None = None) -> ProcessManager:
        """A process with the stored state, brought to this version by its ``upgrade_state``.

        version: in which the state was written; None: in this one. Raises ``UndecodableState``, and
        ``UnknownMessage`` for a newer version.
        """
        if version is not None and version != self.state_version:
            state = self._brought_up(state, version)
        try:
            process: ProcessManager = self.adapter.validate_json(state)
        except (ValidationError, ValueError) as error:
            words, cause = told(self.name, error)
            is_older = version not in (None, self.state_version)
            remedy = f" It was of version {version}: is that what upgrade_state expects?"
            raise UndecodableState(
                f"The stored state no longer validates as {self.where}: {words}"
                + (remedy if is_older else "")
            ) from cause
        return process

    def must_know(self, version: int) -> None:
        """Raises ``UnknownMessage`` for a state that a newer release has written."""
        if version > self.state_version:
            raise UnknownMessage(
                f"this release knows the state of {self.name} up to version {self.state_version}, and not "
                f"version {version}"
            )

    def _brought_up(self, state: str, version: int) -> str:
        self.must_know(version)
        steps = [
            Step(f"{self.where}.upgrade_state(…, {at})", partial(_upgraded, self.cls, at))
            for at in range(version, self.state_version)
        ]
        try:
            return brought_up(state, steps)
        except StepFailed as failed:
            words, cause = told(self.name, failed.error, failed.data)
            raise UndecodableState(
                f"The stored state is of version {version}, and {failed.where} raised "
                f"{name_of(failed.error)}: {words}"
            ) from cause
        except (ValueError, RecursionError) as error:
            raise UndecodableState(f"The stored state of {self.where} is no JSON.") from error

    def dump(self, process: ProcessManager) -> tuple[str, ProcessManager]:
        """The state's JSON text, and a process as it is read from it.

        Raises ``Misuse`` where a field holds what its type forbids.
        """
        try:
            text = self.adapter.dump_json(process, warnings="error").decode()
        except (PydanticSerializationError, UnicodeError, RecursionError, ValueError) as error:
            words, cause = told(self.name, error, process)
            raise Misuse(f"{self.where}: the state cannot be stored: {words}") from cause
        problem = unstorable(text)
        if problem:
            raise Misuse(f"{self.where}: the state {problem}")
        try:
            return text, self.load(text)
        except UndecodableState as error:
            words, cause = told(self.name, error, process)
            raise Misuse(f"{self.where}: the state could not be read again: {words}") from cause


def _upgraded(cls: type[ProcessManager], version: int, state: dict[str, Any]) -> dict[str, Any]:
    return cls.upgrade_state(state, version)
