"""Points: the calls by which a process asks, or changes, what lies outside of it; it may die at each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from django.db.backends.base.base import BaseDatabaseWrapper

import pm_celery

__all__ = ["KILLED", "Points", "Which"]

T = TypeVar("T")

# all: every call. lasting: those that leave something behind for whoever comes after us, which are commits,
# statements that commit by themselves, and messages that come and go; between two of them all deaths are
# alike, for the database undoes what was not committed. places: of these, in each step, the first that
# comes from the same place in the code by the same way.
Which = Literal["all", "lasting", "places"]

# The exit code of a process that died where it was to.
KILLED = 77
_LONGEST_LABEL = 160
_PACKAGE = os.path.dirname(pm_celery.__file__)
_JOURNEYS = os.path.dirname(__file__)
# Statements that leave nothing behind, also outside of a transaction.
_READS = ("SELECT", "BEGIN", "PRAGMA")


class Points:
    """Counts the calls of this process, and kills it before or after one of them.

    Killed is killed: no ``finally``, no rollback, no farewell to the server, as with SIGKILL.
    """

    def __init__(self, number: int, moment: str, which: Which = "all") -> None:
        """number: of the call at which to die, from 1. moment: ``before`` or ``after``."""
        self._wanted = number, moment
        self._which = which
        self._passed = 0
        self._counts = False
        self._places: set[object] = set()
        self.last_words: Callable[[str], None] = lambda call: None

    def begin_step(self, *, counts: bool) -> None:
        """counts: whether one may die in this step. What was passed in the step before counts anew."""
        self._counts = counts
        self._places.clear()

    def are_over(self) -> None:
        """Who got so far lives."""
        self._counts = False

    def through(self, label: str, lasts: bool, call: Callable[[], T]) -> T:
        """Do one call, if we survive it."""
        if not self._counts or (self._which != "all" and not (lasts and self._is_new(label))):
            return call()
        self._passed += 1
        self._survive("before", label)
        try:
            return call()
        finally:
            # Also after one that failed.
            self._survive("after", label)

    def _is_new(self, label: str) -> bool:
        place = label, _way_here()
        if self._which == "places" and place in self._places:
            return False
        self._places.add(place)
        return True

    def _survive(self, moment: str, label: str) -> None:
        if (self._passed, moment) == self._wanted:
            self.last_words(" ".join(label.split())[:_LONGEST_LABEL])
            os._exit(KILLED)

    def on_database(self, connection: BaseDatabaseWrapper) -> None:
        """Every statement, and every end of a transaction. After a statement that commits by itself is
        after its commit."""

        def execute(call: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            lasts = not connection.in_atomic_block and not sql.lstrip().startswith(_READS)
            return self.through(sql, lasts, lambda: call(sql, params, many, context))

        connection.execute_wrappers.append(execute)
        self.on(connection, "_commit", lambda: ("COMMIT", True))
        self.on(connection, "_rollback", lambda: ("ROLLBACK", False))

    def on(self, owner: Any, method: str, describe: Callable[..., tuple[str, bool]]) -> None:
        """Every call of a method of an object or a class. describe: what it is, and whether it lasts."""
        original = getattr(owner, method)

        def passing(*args: Any, **kwargs: Any) -> Any:
            return self.through(*describe(*args), lambda: original(*args, **kwargs))

        setattr(owner, method, passing)


def _way_here() -> tuple[object, ...]:
    """The lines of the package and of the journey that have led to a call."""
    way: list[object] = []
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith((_PACKAGE, _JOURNEYS)):
            way.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return tuple(way)
