"""How often a failed run is repeated, and after which wait."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args

from pm_celery.durations import Duration, parse_duration
from pm_celery.exceptions import DeclarationError, PmCeleryError

__all__ = ["Retry", "Strategy"]

Strategy = Literal["none", "fixed", "linear", "exponential"]

# Pure mistakes of code or data: the same run again gives the same error.
_ALWAYS_TERMINAL: tuple[type[BaseException], ...] = (PmCeleryError,)
# A worker that dies is often the machine's fault, not the message's; so even a message that must not
# be retried gets this many runs when no run of it ever came back to say what went wrong.
LOST_WORKER_RUNS = 3


@dataclass(frozen=True, init=False)
class Retry:
    """What happens after a run that raised.

    strategy:
        ``"none"``; ``"fixed"``, always ``delay``; ``"linear"``, ``delay`` times the number of the retry;
        ``"exponential"``, ``delay`` doubled with each retry.
    max_retries:
        further runs after the first one: 3 means four runs.
    delay, max_delay:
        the first wait and the longest one (a duration such as ``"1s"``, or a ``timedelta``).
    jitter:
        shortens each wait at random, by up to a half, so that what failed together does not come
        back together (*equal jitter*, of Amazon's "Exponential Backoff And Jitter").
    terminal:
        exception classes that are not retried at all; nor are the package's own errors.

    Raises ``DeclarationError`` for what cannot be.
    """

    strategy: Strategy = "exponential"
    max_retries: int = 3
    delay: Duration = "1s"
    max_delay: Duration = "1h"
    jitter: bool = True
    terminal: tuple[type[BaseException], ...] = ()

    def __init__(
        self,
        strategy: Strategy = "exponential",
        *,
        max_retries: int = 3,
        delay: Duration = "1s",
        max_delay: Duration = "1h",
        jitter: bool = True,
        terminal: tuple[type[BaseException], ...] = (),
    ) -> None:
        if strategy not in get_args(Strategy):
            raise DeclarationError(
                f"Retry({strategy!r}): the strategies are {', '.join(get_args(Strategy))}."
            )
        if isinstance(max_retries, bool) or not isinstance(max_retries, int) or max_retries < 0:
            raise DeclarationError(
                f"Retry(max_retries={max_retries!r}): give the number of further runs, 0 or more."
            )
        if not isinstance(terminal, tuple) or not all(
            isinstance(cls, type) and issubclass(cls, BaseException) for cls in terminal
        ):
            raise DeclarationError("Retry(terminal=…): give a tuple of exception classes.")
        try:
            delays = parse_duration(delay), parse_duration(max_delay)
        except ValueError as error:
            raise DeclarationError(f"Retry(delay=…, max_delay=…): {error}") from None
        values = {
            "strategy": strategy,
            "max_retries": max_retries if strategy != "none" else 0,
            "delay": delays[0],
            "max_delay": delays[1],
            "jitter": jitter,
            "terminal": terminal,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def max_runs(self) -> int:
        """How often a message may run in all."""
        return self.max_retries + 1

    @property
    def max_lost_runs(self) -> int:
        """How often a message may run when the workers die of it."""
        return max(self.max_runs, LOST_WORKER_RUNS)

    def is_terminal(self, error: BaseException) -> bool:
        """Whether running again is pointless after this error."""
        return isinstance(error, self.terminal + _ALWAYS_TERMINAL)

    def wait_after(self, runs: int, error: BaseException) -> timedelta | None:
        """How long to wait after a run that raised, the first being 1; None: it was the last one."""
        if self.is_terminal(error) or runs >= self.max_runs:
            return None
        return self.wait(runs)

    def wait(self, retry: int) -> timedelta:
        """How long to wait before the given retry, the first being 1."""
        delay, longest = parse_duration(self.delay), parse_duration(self.max_delay)
        if self.strategy == "linear":
            delay *= retry
        elif self.strategy == "exponential":
            # 2**40 seconds is past every max_delay; larger powers would overflow timedelta.
            delay = min(delay.total_seconds() * 2 ** min(retry - 1, 40), 1e9) * timedelta(seconds=1)
        delay = min(delay, longest)
        if self.jitter:
            delay *= random.uniform(0.5, 1.0)
        return delay


DEFAULT_RETRY = Retry()
