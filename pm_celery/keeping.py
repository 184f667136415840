"""How long what has ended is kept: ``PM_CELERY["RETENTION"]``, by process and status."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import md5

from pm_celery.durations import Duration, parse_duration

__all__ = ["ENDED", "Kept", "Retention", "read_retention"]

#: The statuses in which an instance may have ended.
ENDED = ("completed", "timed_out", "failed", "cancelled")
_DEFAULT = "default"

# What a project writes: for all statuses, or by status.
Kept = Duration | None | Mapping[str, Duration | None]


@dataclass(frozen=True, slots=True)
class Retention:
    """For how long, by process and status; ``""`` stands for those that are not named. None: for ever."""

    rules: Mapping[tuple[str, str], timedelta | None] = field(default_factory=dict)

    @classmethod
    def of(cls, age: timedelta | None) -> Retention:
        """The same for all."""
        return cls({("", ""): age})

    def age_of(self, process: str, status: str = "") -> timedelta | None:
        """How long an instance is kept that ended so; without a status, what belongs to none."""
        for rule in ((process, status), (process, ""), ("", status)):
            if rule in self.rules:
                return self.rules[rule]
        return self.rules.get(("", ""))

    @property
    def ages(self) -> list[timedelta]:
        """The ages at which something is removed, the longest first; none if all is kept for ever."""
        return sorted({age for age in self.rules.values() if age is not None}, reverse=True)

    @property
    def processes(self) -> list[str]:
        """The processes that are named."""
        return sorted({process for process, _ in self.rules if process})

    @property
    def fingerprint(self) -> str:
        """Another one for other rules, the same in every process."""
        told = repr(sorted((rule, str(age)) for rule, age in self.rules.items()))
        return md5(told.encode(), usedforsecurity=False).hexdigest()[:12]


def read_retention(value: object) -> Retention:
    """Read the setting. Raises ``ValueError`` that names the remedy."""
    if not isinstance(value, Mapping):
        return Retention.of(_age(value))
    rules: dict[tuple[str, str], timedelta | None] = {}
    for process, kept in value.items():
        if not isinstance(process, str) or not process:
            raise ValueError(f"{process!r} is no name of a process")
        if process in ENDED:
            raise ValueError(
                f"{process!r} is a status: write {{'default': {{{process!r}: …}}}}, or a process' name for "
                "'default'"
            )
        owner = "" if process == _DEFAULT else process
        if not isinstance(kept, Mapping):
            rules[owner, ""] = _age(kept)
            continue
        for status, age in kept.items():
            rules[owner, "" if status == _DEFAULT else _status(status)] = _age(age)
    return Retention(rules)


def _age(value: object) -> timedelta | None:
    return None if value is None else parse_duration(value)


def _status(value: object) -> str:
    if value in ENDED:
        return str(value)
    known = [*ENDED, _DEFAULT]
    near = difflib.get_close_matches(str(value), known, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else f"write one of {', '.join(known)}"
    if value == "started":
        remedy = "what has not ended is never removed"
    raise ValueError(f"{value!r} is no status in which an instance ends: {remedy}")
