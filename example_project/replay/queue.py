"""A queue that exists for one run, so that other workers on the broker do not take its wake-ups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from celery import Celery, current_app
from kombu.exceptions import OperationalError

__all__ = ["own_queue"]


@contextmanager
def own_queue(name: str) -> Iterator[None]:
    """Let this process send to the queue of that name, and delete the queue at the end."""
    app: Celery = current_app._get_current_object()
    before = app.conf.task_default_queue
    _send_to(app, name)
    try:
        yield
    finally:
        connection = app.connection_for_write()
        # What the broker is too sick to delete may stay: it is empty.
        with connection, suppress(OperationalError, *connection.connection_errors):
            # Declared first: a transport deletes what it knows.
            queue = app.amqp.queues[name].bind(connection.default_channel)
            queue.declare()
            queue.delete()
            queue.exchange.delete()
        _send_to(app, before)


def _send_to(app: Celery, queue: str) -> None:
    app.conf.task_default_queue = queue
    vars(app).pop("amqp", None)  # it remembers the queue from before
