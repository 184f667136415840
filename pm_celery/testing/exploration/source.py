"""A sequence of steps as the text of a test: one that runs, and fails."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pydantic

from pm_celery.testing.exploration.steps import Step

__all__ = ["Source", "snake"]

_BRACKETS = {
    "list": ("[", "]"),
    "tuple": ("(", ",)"),
    "set": ("{", "}"),
    "frozenset": ("frozenset({", "})"),
}


class Source:
    """Writes values as Python, and remembers what has to be imported for them."""

    def __init__(self) -> None:
        self._imports: dict[str, set[str]] = {}
        self._local: set[str] = set()

    def name(self, thing: Any) -> str:
        """The name of a class or function; one that is declared in a function is taken to be known."""
        qualified = str(thing.__qualname__)
        if "<" in qualified:
            name = re.sub(r"\W", "", qualified.rpartition(".")[2]) or "invariant"
            self._local.add(name)
            return name
        outer = qualified.partition(".")[0]
        self._imports.setdefault(thing.__module__, set()).add(outer)
        return qualified

    def value(self, value: Any) -> str:
        """A value as Python would read it."""
        if isinstance(value, datetime.timedelta):
            return self._duration(value)
        if isinstance(value, Enum):
            return f"{self.name(type(value))}.{value.name}"
        if isinstance(value, datetime.date | datetime.time):
            self._imports.setdefault("", set()).add("datetime")
            return repr(value)
        if isinstance(value, UUID | Decimal):
            self.name(type(value))
            return repr(value)
        fields = _fields(value)
        if fields is not None:
            written = ", ".join(f"{name}={self.value(one)}" for name, one in fields)
            return f"{self.name(type(value))}({written})"
        if isinstance(value, dict):
            pairs = (f"{self.value(key)}: {self.value(one)}" for key, one in value.items())
            return f"{{{', '.join(pairs)}}}"
        if type(value) in (list, tuple, set, frozenset) and value:
            written = ", ".join(map(self.value, value))
            before, after = _BRACKETS[type(value).__name__]
            return f"{before}{written}{after}"
        return repr(value)

    def _duration(self, value: datetime.timedelta) -> str:
        if value.microseconds:
            self._imports.setdefault("datetime", set()).add("timedelta")
            return repr(value).removeprefix("datetime.")
        hours, seconds = divmod(value.seconds, 3600)
        parts = zip((value.days, hours, *divmod(seconds, 60)), "dhms", strict=True)
        return '"' + "".join(f"{number}{unit}" for number, unit in parts if number) + '"'

    def test(
        self,
        name: str,
        summary: str,
        process: type,
        given: str,
        steps: Iterable[Step],
        after: Callable[[Source], list[str]],
    ) -> str:
        """The text of a test with its imports."""
        self._imports.setdefault("pm_celery.testing", set()).add("given")
        body = [f"instance = given({self.name(process)}{given})"]
        body += [f"instance{step.line(self.value)}" for step in steps]
        body += after(self)
        lines = [*self._imported(), "", "", f"def test_{name}() -> None:"]
        lines += [f'    """{summary}"""', *(f"    {line}" for line in body)]
        return "\n".join(lines).lstrip("\n") + "\n"

    def _imported(self) -> list[str]:
        lines = [f"import {name}" for name in sorted(self._imports.pop("", ()))]
        lines += [
            f"from {module} import {', '.join(sorted(names))}"
            for module, names in sorted(self._imports.items())
            if module != "builtins"
        ]
        if self._local:
            lines.append(
                f"# and from the function that declares them: {', '.join(sorted(self._local))}"
            )
        return lines


def _fields(value: Any) -> list[tuple[str, Any]] | None:
    if isinstance(value, pydantic.BaseModel):
        return [(name, getattr(value, name)) for name in type(value).model_fields]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.init]
    return None


def snake(name: str) -> str:
    """``OrderFulfilment`` as ``order_fulfilment``."""
    return re.sub(r"\W+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).strip("_").lower()
