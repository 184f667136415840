"""A process beside a worker's pool that PostgreSQL's NOTIFY wakes, where ``PM_CELERY["LISTEN"]`` is set.

A Celery message costs a millisecond or two on its way; a notification a tenth of that. One listener of all
leads, by an advisory lock; the others stand by. It handles what trickles in, and wakes the pools, by Celery
messages, where there is a backlog. If all listeners die, the tick wakes a pool within a second.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from billiard.context import Process
from celery import bootsteps
from celery import signals as celery_signals
from django.db import connections

from pm_celery import engine, wakeups
from pm_celery.conf import get_settings
from pm_celery.keys import PARTITIONS
from pm_celery.statements import CHANNEL
from pm_celery.transience import repeated

__all__ = ["ListenerStep", "connect", "listen"]

# Who holds this advisory lock of the database leads.
_LOCK = 0x706D5F63656C6572  # "pm_celer"
# How often a listener that stands by asks for the lock, one that leads looks whether it is to stop, and
# the worker whether its listener is alive.
_PERIOD_SECONDS = 1.0
# For as long the worker waits for it at its own end.
_STOP_SECONDS = 5
# Who only listens does not notice a server that is gone without a word, but for these: within half a minute.
_KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}

logger = logging.getLogger("pm_celery")


def listen(is_over: Callable[[], bool]) -> None:
    """Stand by until the lead is ours, then advance whatever we are told of; until it is over.

    A lost connection, or a database that is down, is waited for.
    """
    while not is_over():
        try:
            with _connection() as connection:
                while not is_over():
                    if _leads(connection):
                        _follow(connection, is_over)
                    time.sleep(_PERIOD_SECONDS)
        except Exception:
            logger.exception("the listener begins anew")
            time.sleep(_PERIOD_SECONDS)


@contextmanager
def _connection() -> Iterator[Any]:
    """A connection of psycopg's beside Django's, and of no pool: it holds the lock, and is told of work
    while Django's works."""
    wrapper: Any = connections[get_settings().database]
    parameters = {
        **_KEEPALIVES,
        **wrapper.get_connection_params(),
        # In pg_stat_activity it tells which process leads.
        "application_name": f"pm_celery listener {os.getpid()}",
    }
    connection = wrapper.Database.connect(**parameters)
    try:
        connection.autocommit = True
        yield connection
    finally:
        connection.close()


def _leads(connection: Any) -> bool:
    return bool(connection.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK]).fetchone()[0])


def _follow(connection: Any, is_over: Callable[[], bool]) -> None:
    connection.execute(f"LISTEN {CHANNEL}")
    # What was published before was announced to nobody: look everywhere first. The mark of who was told may
    # look like that of a worker, for an instant before it runs out; there is none.
    lanes, is_first = wakeups.common_lanes(range(PARTITIONS)), True
    while not is_over():
        for lane in sorted(lanes):
            if wakeups.counted_on_for():
                look = partial(engine.advance, lane, counts_on_others=not is_first)
                repeated(get_settings().database, look, times=3)
            else:
                # Handlers are slow just now. While we are inside one, nobody would hear what we are told.
                wakeups.wake_again([lane])
        is_first = False
        told = connection.notifies(timeout=_PERIOD_SECONDS, stop_after=1)
        lanes = {int(notification.payload) for notification in told}


# -- beside a worker --------------------------------------------------------------------------------


class _Listening(Process):
    """The process: set up like one of the pool, because handlers run in it."""

    def __init__(self, app: Any, hostname: str) -> None:
        super().__init__(name="pm_celery-listener", daemon=True)
        self._app = app
        self._hostname = hostname
        self._worker = os.getpid()

    def run(self) -> None:
        from celery.concurrency.prefork import process_initializer

        # Also lets go of the parent's connections.
        process_initializer(self._app, self._hostname)
        told_to_stop = threading.Event()
        # The batch at hand is finished: one that is cut off looks like a worker's death.
        signal.signal(signal.SIGTERM, lambda *_: told_to_stop.set())
        listen(lambda: told_to_stop.is_set() or os.getppid() != self._worker)


class ListenerStep(bootsteps.StartStopStep):
    """A step of Celery's worker: starts a listener, and ends it with the worker."""

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._process: _Listening | None = None
        self._is_closing = False

    def include_if(self, worker: Any) -> bool:
        """Whether there is to be one: by the setting, with a pool that has processes or threads."""
        pool = worker.pool_cls if isinstance(worker.pool_cls, str) else worker.pool_cls.__module__
        return wakeups.may_listen() and not pool.endswith(("gevent", "eventlet"))

    def create(self, worker: Any) -> None:
        """Be known to the step that looks after it."""
        worker.pm_celery_listener = self

    def start(self, worker: Any) -> None:
        """Start the process."""
        self._process = _Listening(worker.app, worker.hostname)
        self._process.start()

    def look_after(self, worker: Any) -> None:
        """Start another one where it has died."""
        if self._is_closing:
            return
        if self._process is not None and not self._process.is_alive():
            # Its last descriptors go with this.
            self._process.join(0)
            logger.warning("the listener ended with status %s", self._process.exitcode)
            self.start(worker)

    def close(self, worker: Any) -> None:
        """Ask it to end; meanwhile the pool does."""
        self._is_closing = True
        if self._process is not None and self._process.is_alive() and self._process.pid:
            # Not terminate(): where REMAP_SIGTERM is set, that is another signal.
            os.kill(self._process.pid, signal.SIGTERM)

    def stop(self, worker: Any) -> None:
        """Wait for its end."""
        process, self._process = self._process, None
        if process is None:
            return
        process.join(_STOP_SECONDS)
        if process.is_alive() and process.pid:
            # Nothing of its batch happened then, and the batch's mark tells the next worker.
            os.kill(process.pid, signal.SIGKILL)
            process.join(_STOP_SECONDS)

    def terminate(self, worker: Any) -> None:
        """End it with the worker, however that ends."""
        self.close(worker)
        self.stop(worker)


class _WatchStep(bootsteps.StartStopStep):
    """Looks after the listener; of Celery's consumer, because a lost broker may clear the worker's timers,
    and then the consumer's steps start again."""

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._entry: Any = None

    def include_if(self, consumer: Any) -> bool:
        return hasattr(consumer.controller, "pm_celery_listener")

    def start(self, consumer: Any) -> None:
        worker = consumer.controller
        look_after = partial(worker.pm_celery_listener.look_after, worker)
        self._entry = consumer.timer.call_repeatedly(_PERIOD_SECONDS, look_after)

    def stop(self, consumer: Any) -> None:
        if self._entry is not None:
            self._entry.cancel()


def _add_steps(instance: Any = None, **_: Any) -> None:
    instance.app.steps["worker"].add(ListenerStep)
    instance.app.steps["consumer"].add(_WatchStep)


def connect() -> None:
    """Give every worker that starts in this process the steps. Idempotent."""
    celery_signals.celeryd_init.connect(_add_steps, weak=False, dispatch_uid="pm_celery.listener")
