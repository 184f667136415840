"""Handing messages to Celery, in bounded time, and without ever failing the caller.

A row in the database stands behind every message, so a broker that is down costs a delay and no more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from amqp.exceptions import RecoverableConnectionError
from celery import Celery, current_app
from kombu import Producer
from kombu import exceptions as kombu_exceptions
from kombu.exceptions import OperationalError
from kombu.pools import ProducerPool, producers

from pm_celery import signals

__all__ = ["Post", "post_office", "without_broker"]

# Since kombu 5.7, which is the first that gathers messages.
BatchPublishError: type[Exception] = getattr(
    kombu_exceptions, "BatchPublishError", OperationalError
)

# After these there is no use in trying the next message. A RuntimeError says that the connection broke, and
# was made again, in the middle of what is gathered.
_BROKEN = (
    OSError,
    OperationalError,
    RecoverableConnectionError,
    BatchPublishError,
    RuntimeError,
)

# One further try, soon: a web request may be waiting for us.
_RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}
_SOCKET_SECONDS = 3.0


class Post:
    """Sends tasks over one producer until the broker fails; what comes after is not even tried."""

    def __init__(self, app: Celery, producer: Producer | None) -> None:
        self._app = app
        self._producer = producer
        self.broken = False

    def send(
        self,
        task: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None = None,
        *,
        what: str,
        **options: Any,
    ) -> bool:
        """Send a task by its name; whether Celery took it.

        Give ``argsrepr`` and ``kwargsrepr`` where they are known: Celery takes a quarter of the time of
        a message to make them.
        """
        if self.broken:
            return False
        try:
            # A registered task knows its options, and heeds `task_always_eager`; `app.send_task` alone
            # would ignore both.
            registered = self._app.tasks.get(task)
            send = registered.apply_async if registered else partial(self._app.send_task, task)
            send(
                tuple(args),
                dict(kwargs or {}),
                producer=self._producer,
                retry=True,
                retry_policy=_RETRY_POLICY,
                **options,
            )
        except Exception as error:  # noqa: BLE001 -- brokers raise anything; the row is safe
            self.broken = isinstance(error, _BROKEN)
            signals.broker_unreachable.send_robust(sender=Post, error=error, what=what)
            return False
        return True


class _Nowhere(Post):
    """Takes every message, and sends none."""

    def send(
        self,
        task: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None = None,
        *,
        what: str,
        **options: Any,
    ) -> bool:
        return True


_is_without_broker = False


@contextmanager
def without_broker() -> Iterator[None]:
    """Let every message of ours count as taken, and send none, in all threads of this process.

    For tests: what the messages would have said is in the rows, and the testing kit looks there.
    """
    global _is_without_broker
    before = _is_without_broker
    _is_without_broker = True
    try:
        yield
    finally:
        _is_without_broker = before


_pools: WeakKeyDictionary[Celery, tuple[int, ProducerPool]] = WeakKeyDictionary()


def _pool(app: Celery) -> ProducerPool:
    """The producers of an app in this process. Kept, because to make the connection that kombu finds
    its pool by takes longer than to send a message."""
    process, pool = _pools.get(app, (0, None))
    if pool is None or process != os.getpid():
        connection = app.connection_for_write()
        if "redis" in (connection.transport_cls or ""):
            # Without these, a Redis that accepts and never answers blocks its client for ever.
            connection.transport_options = {
                "socket_timeout": _SOCKET_SECONDS,
                "socket_connect_timeout": _SOCKET_SECONDS,
                **(connection.transport_options or {}),
            }
        pool = producers[connection]
        _pools[app] = os.getpid(), pool
    return pool


@contextmanager
def post_office(messages: int = 1) -> Iterator[Post]:
    """A post whose producer is held for everything that is sent inside: about so many messages.

    Several go to the broker in one round trip at the end, where kombu can do that (5.7, on Redis). If we die
    before it, none of them was sent.
    """
    app: Celery = current_app._get_current_object()  # type: ignore[attr-defined]
    if _is_without_broker:
        yield _Nowhere(app, None)
        return
    if app.conf.task_always_eager:
        yield Post(app, None)
        return
    try:
        producer = _pool(app).acquire(block=True, timeout=_SOCKET_SECONDS)
    except Exception as error:  # noqa: BLE001 -- as above
        signals.broker_unreachable.send_robust(sender=Post, error=error, what="anything")
        post = Post(app, None)
        post.broken = True
        yield post
        return
    post = Post(app, producer)
    try:
        if messages > 1 and getattr(producer, "supports_batch_publish", False):
            with ExitStack() as gathered:
                gathered.enter_context(producer.batch())  # type: ignore[attr-defined]
                yield post
                _hand_over(gathered.pop_all(), post, messages)
        else:
            yield post
    finally:
        producer.release()


def _hand_over(gathered: ExitStack, post: Post, messages: int) -> None:
    try:
        gathered.close()
    except Exception as error:  # noqa: BLE001 -- as above
        if post.broken:
            return
        post.broken = True
        what = f"some of {messages} messages"
        signals.broker_unreachable.send_robust(sender=Post, error=error, what=what)
