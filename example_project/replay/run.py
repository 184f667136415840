"""One run: publish a log's events while workers handle them, and wait until nothing is due."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice

from pm_celery import Envelope, publish_many, ticks
from replay import outcome
from replay.definition import Definition
from replay.logs import Log, key_of
from replay.processes import declare
from replay.workers import Workers

__all__ = ["Stalled", "replay"]

_PUBLISH_AT_ONCE = 5000
_TICK_SECONDS = 1.0
_POLL_SECONDS = 0.05
_STALLED_SECONDS = 60.0

# Not every database stores a moment outside of these.
_EARLIEST = datetime(1000, 1, 2, tzinfo=UTC)
_LATEST = datetime(9999, 12, 30, tzinfo=UTC)

Show = Callable[[int, int], None]


class Stalled(Exception):
    """Nothing has been handled for too long."""


def replay(
    definition: Definition,
    log: Log,
    workers: Workers,
    show: Show,
    stop_if_asked: Callable[[], None],
) -> float:
    """Publish all events and wait until they are handled; how many seconds that took.

    Raises ``WorkerDied`` and ``Stalled``, or what ``stop_if_asked`` raises: then events are left that nobody
    will handle.
    """
    watch = _Watch(definition, workers, show)
    envelopes = _envelopes(definition, log)
    began = time.monotonic()
    while chunk := list(islice(envelopes, _PUBLISH_AT_ONCE)):
        stop_if_asked()
        publish_many(chunk)
        watch.published += len(chunk)
        watch.look()
    while outcome.is_anything_due(definition.process):
        stop_if_asked()
        watch.look()
        time.sleep(_POLL_SECONDS)
    return time.monotonic() - began


def _envelopes(definition: Definition, log: Log) -> Iterator[Envelope]:
    classes = {
        activity.name: cls
        for activity, cls in zip(definition.activities, declare(definition), strict=True)
    }
    for event in log.events:
        key, at = key_of(event.case), event.timestamp
        if at is not None and not _EARLIEST < at < _LATEST:
            at = None
        published = classes[event.activity](case=key, at=at)
        yield Envelope(published, event_id=f"{key}:{event.position}", occurred_at=at)


class _Watch:
    """What is done once a second meanwhile: tick, look after the workers, show how far they are."""

    def __init__(self, definition: Definition, workers: Workers, show: Show) -> None:
        self.published = 0
        self._process = definition.process
        self._workers = workers
        self._show = show
        self._next = time.monotonic()
        self._handled = 0
        self._moved_at = self._next

    def look(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _TICK_SECONDS
        self._workers.check()
        # What Beat does elsewhere: nobody who replays a log need have one running.
        ticks.tick()
        handled = self.published - outcome.open_messages(self._process)
        self._show(self.published, handled)
        if handled != self._handled:
            self._handled, self._moved_at = handled, now
        elif now - self._moved_at > _STALLED_SECONDS:
            raise Stalled(
                f"Nothing has been handled for {_STALLED_SECONDS:.0f} seconds; "
                f"{self.published - handled:,} of {self.published:,} events are left."
            )
