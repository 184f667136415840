"""Two operations at once, and the same two in the same way each time.

Each has a connection of its own, and they take turns: of so many steps each, a step being a statement or a
commit. Who has to wait for the other's lock is asked of the database; then the other has its turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from django.db import DEFAULT_DB_ALIAS, IntegrityError, connection, connections

_PATIENCE = 60.0
_MOST_STATEMENTS = 20_000
# A lone statement takes less; before that, nobody is asked whether anybody waits for a lock.
_SOON = 0.003


# Whether the session of that number waits for somebody's lock. MariaDB's answer is up to 0.1 s old.
_IS_WAITING = {
    "postgresql": "SELECT pg_blocking_pids(%s) <> '{}'",
    "mysql": "SELECT EXISTS (SELECT 1 FROM information_schema.innodb_trx "
    "WHERE trx_mysql_thread_id = %s AND trx_state = 'LOCK WAIT')",
}


class Endless(BaseException):
    """Nothing in the package catches it."""


class Pair:
    """Two workers that take turns."""

    def __init__(self) -> None:
        self._second = ThreadPoolExecutor(max_workers=1)
        self._observer: Any = None
        self.waited = 0
        #: Since somebody set it to zero.
        self.statements = 0
        self.refused: list[str] = []
        if connection.vendor in _IS_WAITING:
            self._observer = connections[DEFAULT_DB_ALIAS].copy()
            self._observer.inc_thread_sharing()

    def close(self) -> None:
        self._second.submit(connections.close_all).result()
        self._second.shutdown()
        if self._observer is not None:
            self._observer.close()

    def run(
        self, first: Callable[[], None], turns: Sequence[int], second: Callable[[], None]
    ) -> int | None:
        """Run both. The first one has as many steps as the first turn says, then the second one has its
        turn; who has the last turn goes on to the end. After how many steps of the first one the second
        one came, None if it came last.

        SQLite lets one write at a time, so there a turn ends between two transactions only.
        """
        baton = _Baton(self, list(turns))
        future = self._second.submit(baton.run, 1, second)
        try:
            baton.run(0, first)
        finally:
            future.exception(timeout=_PATIENCE)
        future.result()
        return baton.came_after

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note what the database refuses: where locks hold, no constraint need be the referee. And end what
        has no end."""

        def execute(run: Any, sql: str, parameters: Any, many: bool, context: Any) -> Any:
            self.statements += 1
            if self.statements > _MOST_STATEMENTS:
                raise Endless(f"more than {_MOST_STATEMENTS} statements")
            try:
                return run(sql, parameters, many, context)
            except IntegrityError as error:
                self.refused.append(str(error))
                raise

        with connection.execute_wrapper(execute):
            yield

    def is_waiting_for_a_lock(self, pid: int | None) -> bool:
        if self._observer is None or pid is None:
            return False
        with self._observer.cursor() as cursor:
            cursor.execute(_IS_WAITING[self._observer.vendor], [pid])
            found = bool(cursor.fetchone()[0])
        self.waited += found
        return found


class _Baton:
    """Who holds it takes steps; the other one stands before one, waits for a lock, or is done."""

    def __init__(self, pair: Pair, turns: list[int]) -> None:
        self.pair = pair
        self.turns = turns
        self.changed = threading.Condition()
        self.holder = 0
        self.steps = 0
        self.came_after: int | None = None
        self.left = turns.pop(0)
        self.stands = [False, False]
        self.done = [False, False]
        self.pids: list[int | None] = [None, None]

    def run(self, me: int, work: Callable[[], None]) -> None:
        try:
            connection.ensure_connection()
            if connection.vendor == "postgresql":
                self.pids[me] = connection.connection.info.backend_pid
            elif connection.vendor == "mysql":
                self.pids[me] = connection.connection.thread_id()
            if me == 1:
                self._stand(me)
            with self.pair.watched(), _before_each_step(lambda: self._step(me)):
                work()
        finally:
            with self.changed:
                self.done[me] = True
                self.holder = 1 - me
                self.changed.notify_all()

    def _step(self, me: int) -> None:
        other = 1 - me
        self.steps += me == 0
        if self.done[other]:
            return
        self.left -= 1
        if self.holder == me and self.left < 0 and self.turns and not _holds_the_only_lock():
            with self.changed:
                self._pass_to(other)
        self._stand(me)

    def _pass_to(self, other: int) -> None:
        if self.came_after is None:
            self.came_after = self.steps - 1
        self.holder = other
        self.left = self.turns.pop(0) if self.turns else 0
        self.changed.notify_all()

    def _stand(self, me: int) -> None:
        """Wait until it is our turn, and the other one stands, waits for a lock, or is done."""
        other = 1 - me
        with self.changed:
            self.stands[me] = True
            self.changed.notify_all()
            waited, pause = 0.0, _SOON
            while not self.done[other] and not (self.holder == me and self.stands[other]):
                if self.changed.wait(timeout=pause):
                    continue
                if self.pair.is_waiting_for_a_lock(self.pids[other]):
                    self.holder = me
                    break
                waited += pause
                pause = min(pause * 2, 0.1)
                assert waited < _PATIENCE, "the other operation hangs"
            self.stands[me] = False


def _holds_the_only_lock() -> bool:
    """Whether nobody else can write now, on SQLite."""
    return bool(connection.vendor == "sqlite" and connection.connection.in_transaction)


@contextmanager
def _before_each_step(do: Callable[[], None]) -> Iterator[None]:
    connection.ensure_connection()
    commit = connection._commit

    def execute(run: Any, sql: str, parameters: Any, many: bool, context: Any) -> Any:
        do()
        return run(sql, parameters, many, context)

    def before_commit() -> None:
        do()
        commit()

    connection._commit = before_commit
    try:
        with connection.execute_wrapper(execute):
            yield
    finally:
        del connection._commit
