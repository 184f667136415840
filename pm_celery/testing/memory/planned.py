"""What is to fail, as a test has planned it: handlers by their names, commands by their classes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pm_celery.exceptions import Misuse

__all__ = ["Injected", "Plan"]


class Injected(Exception):
    """What ``failing()`` lets a handler or a command raise, unless it is told another error."""


@dataclass(frozen=True, slots=True)
class _Failure:
    error: type[Exception] | Exception
    #: How often still; None for always.
    times: int | None
    for_good: bool


class Plan:
    """Which handlers and commands fail, how often still, and with what."""

    def __init__(self) -> None:
        self._failures: dict[str, _Failure] = {}
        #: The error that was raised last, and whether no attempt is to follow it.
        self.raised: tuple[Exception, bool] | None = None

    def copy(self) -> Plan:
        copied = Plan()
        copied._failures = dict(self._failures)
        return copied

    def add(
        self,
        name: str,
        times: int | None,
        error: type[Exception] | Exception | None,
        for_good: bool,
    ) -> None:
        """Let what bears that name fail. Raises ``Misuse``."""
        if times is not None and (isinstance(times, bool) or not isinstance(times, int)):
            raise Misuse(f"failing(…, times={times!r}): give a number of runs, or None for all.")
        if times == 0:
            self._failures.pop(name, None)
            return
        self._failures[name] = _Failure(error or Injected(f"{name} was to fail"), times, for_good)

    def __contains__(self, name: object) -> bool:
        return name in self._failures

    def __bool__(self) -> bool:
        return bool(self._failures)

    def run(self, name: str) -> None:
        """One run of what bears that name. Raises what is planned."""
        planned = self._failures.get(name)
        if planned is None:
            return
        if planned.times is not None:
            self._failures[name] = replace(planned, times=planned.times - 1)
            if planned.times == 1:
                del self._failures[name]
        error = planned.error() if isinstance(planned.error, type) else planned.error
        self.raised = error, planned.for_good
        raise error

    def is_of(self, error: Exception) -> bool:
        """Whether an error was planned."""
        return self.raised is not None and self.raised[0] is error

    def is_for_good(self, error: Exception) -> bool:
        """Whether no attempt is to follow a planned error."""
        return self.raised is not None and self.raised == (error, True)
