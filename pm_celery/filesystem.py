"""A broker that is a folder, for the first five minutes.

``CELERY_BROKER_URL = "pm-filesystem://"`` runs ``celery worker`` and ``celery beat`` with no server
at all. It is kombu's ``filesystem`` transport with its races closed, and it is meant for one
machine and one developer: production wants Redis or RabbitMQ.

A message is one file::

    <folder>/writing/<name>           being written; no reader looks here
    <folder>/queues/<queue>/<name>    ready; the name is the moment it was published
    <folder>/taken/<name>             taken by the one reader whose rename succeeded
    <folder>/exchanges/<exchange>     which queues are bound to an exchange
    <folder>/leases/<queue>           modified at the moment at which the queue expires

Every arrow between those folders is one atomic rename. A reader therefore sees whole messages only,
and of two readers that want the same message one gets it and the other goes on to the next.

What is not promised: a message that a worker took is in that worker's memory only. A worker that
shuts down puts back what it did not run; a worker that is killed loses it. That is allowed here,
because a message of this package only says where to look, and the tick finds what was lost. It is
not allowed for your own tasks: another reason for a real broker in production.

Transport options (``CELERY_BROKER_TRANSPORT_OPTIONS``):

``folder``
    By default ``.pm_celery_broker`` under ``settings.BASE_DIR``, or under the current directory
    where there is no such setting. Web, worker and beat must agree on it.
``polling_interval``
    The longest pause, in seconds, of a worker that finds nothing to do: by default 0.05.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import Empty
from typing import Any, ClassVar
from urllib.parse import quote, unquote
from uuid import uuid4

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from kombu.exceptions import ChannelError
from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport import filesystem as kombu_filesystem
from kombu.utils.json import dumps, loads

__all__ = ["ALIAS", "Channel", "Transport", "default_folder", "register"]

#: The scheme of the broker's URL. A scheme allows a hyphen; an underscore it does not.
ALIAS = "pm-filesystem"

FOLDER_NAME = ".pm_celery_broker"

#: Files that their process abandoned, and queues that nobody read, are removed after this long.
ABANDONED_AFTER = 3600.0

#: First pause, in seconds, after a message; doubled up to the polling interval while none comes.
SHORTEST_PAUSE = 0.001

_TABLE = ".json"

logger = logging.getLogger("pm_celery")


def register() -> None:
    """Teach kombu the scheme ``pm-filesystem://``.

    The app's ``ready()`` does it. The few ``celery`` commands that talk to the broker without
    setting Django up (``inspect``, ``status``, ``control``, ``purge``, ``call``) find the scheme
    only if the module that creates the Celery app calls this too, before or after creating it. Or
    leave out ``CELERY_BROKER_URL`` and name the class in the settings, which needs no scheme::

        CELERY_BROKER_TRANSPORT = "pm_celery.filesystem:Transport"
    """
    TRANSPORT_ALIASES[ALIAS] = f"{__name__}:{Transport.__name__}"


def default_folder() -> Path:
    """The project's folder rather than the current one: a worker is not started where Beat is."""
    try:
        base = getattr(settings, "BASE_DIR", None)
    except ImproperlyConfigured:  # kombu without Django
        base = None
    return Path(base or Path.cwd()) / FOLDER_NAME


class Channel(kombu_filesystem.Channel):
    """A channel whose queues are folders."""

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self._folder: Path = connection.folder
        self._writing: Path = self._folder / "writing"
        self._queues: Path = self._folder / "queues"
        self._taken: Path = self._folder / "taken"
        self._exchanges: Path = self._folder / "exchanges"
        self._leases: Path = self._folder / "leases"
        self._last_stamp = 0
        self._listed: dict[str, deque[str]] = {}
        self._own_leases: dict[str, tuple[float, float]] = {}
        self._make_folders()
        self._remove_abandoned()

    # Messages

    def _put(  # type: ignore[override]  # kombu's own two classes disagree on the second name
        self, queue: str, payload: Any, **kwargs: Any
    ) -> None:
        if self._expired(queue):
            self._purge(queue)
            return
        name = self._next_name()
        written, ready = self._writing / name, self._queue_folder(queue) / name
        for last_try in (False, True):
            try:
                written.write_bytes(dumps(payload).encode())
                # Killed before this line: a file in `writing`, removed later. After it: published.
                os.rename(written, ready)
                return
            except FileNotFoundError as error:
                # The queue's first message, or somebody has emptied the folder under us.
                if last_try:
                    raise ChannelError(f"Cannot write to {self._folder}: {error}") from error
                self._make_folders()
                ready.parent.mkdir(exist_ok=True)
            except OSError as error:
                raise ChannelError(f"Cannot write to {self._folder}: {error}") from error

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        self._renew_lease(queue)
        folder = self._queue_folder(queue)
        for name in self._ready(queue, folder):
            taken = self._taken / name
            try:
                os.rename(folder / name, taken)
            except FileNotFoundError:
                if not self._taken.is_dir():  # somebody has emptied the folder under us
                    self._make_folders()
                continue  # another reader was first
            # Killed from here on: the message is lost; see above why it may be.
            content = taken.read_bytes()
            try:
                message = loads(content.decode())
            except ValueError:
                logger.exception("%s is no message: left where it is", taken)
                continue
            taken.unlink(missing_ok=True)
            return message
        raise Empty

    def _ready(self, queue: str, folder: Path) -> Iterator[str]:
        """Names of messages, oldest first; a listing is used up before the next is made.

        So a backlog of n messages is listed and sorted once, not n times.
        """
        listed = self._listed.setdefault(queue, deque())
        while listed:
            yield listed.popleft()
        listed.extend(self._list(folder))
        while listed:
            yield listed.popleft()

    def _list(self, folder: Path) -> list[str]:
        """What is ready, in order, without what was published while the folder was being read.

        A listing may show a file that was renamed during it and miss one that was renamed before
        that one. Names stamped before the listing began have no such gap.
        """
        names: list[str] = []
        for _ in range(2):
            began = _stamp(time.time_ns())
            try:
                names = sorted(os.listdir(folder))
            except FileNotFoundError:
                return []
            settled = [name for name in names if name < began]
            if settled or not names:
                return settled
        return names  # stamped in the future: the clock was set back, and waiting helps nobody

    def _size(self, queue: str) -> int:
        try:
            return len(os.listdir(self._queue_folder(queue)))
        except FileNotFoundError:
            return 0

    def _purge(self, queue: str) -> int:
        self._listed.pop(queue, None)
        folder, count = self._queue_folder(queue), 0
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(folder):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(folder / name)
                    count += 1
        return count

    def _next_name(self) -> str:
        """Sorts by the moment of publishing; strictly within a channel, whatever the clock does."""
        self._last_stamp = max(self._last_stamp + 1, time.time_ns())
        return f"{_stamp(self._last_stamp)}-{uuid4().hex}"

    # Exchanges: one file each, replaced as a whole, so that who publishes reads without a lock

    def get_table(self, exchange: str) -> list[Any]:
        try:
            rows = loads(self._exchange_file(exchange).read_bytes().decode())
        except FileNotFoundError:
            return []
        return [kombu_filesystem.exchange_queue_t(*row) for row in rows]

    def _queue_bind(
        self, exchange: str, routing_key: str | None, pattern: str | None, queue: str | None
    ) -> None:
        binding = kombu_filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        with self._table_to_change(exchange) as table:
            if binding not in table:
                table.insert(0, binding)

    def _delete(
        self, queue: str, exchange: str, routing_key: str, pattern: str, *args: Any, **kwargs: Any
    ) -> None:
        self._remove_queue(queue, [exchange])

    @contextlib.contextmanager
    def _table_to_change(self, exchange: str) -> Iterator[list[Any]]:
        file = self._exchange_file(exchange)
        self._make_folders()
        with file.with_suffix(".lock").open("w") as lock:
            kombu_filesystem.lock(lock, kombu_filesystem.LOCK_EX)  # type: ignore[attr-defined]
            try:
                before = self.get_table(exchange)
                table = list(before)
                yield table
                if table != before:
                    written = self._writing / self._next_name()
                    written.write_bytes(dumps(table).encode())
                    os.replace(written, file)
            finally:
                kombu_filesystem.unlock(lock)

    def _exchange_file(self, exchange: str) -> Path:
        return self._exchanges / f"{_file_name(exchange)}{_TABLE}"

    # Queues that expire: those of remote control and of worker events, one or more per worker.
    # Nobody deletes the queue of a worker that was killed, and every heartbeat of the others would
    # add a file to it for ever. So their readers renew a lease, and who publishes looks at it.

    def prepare_queue_arguments(
        self, arguments: Mapping[str, Any] | None, expires: float | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        lease = {"x-expires": int(expires * 1000)} if expires else {}
        return {**(arguments or {}), **lease}

    def _new_queue(
        self, queue: str, arguments: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        expires = (arguments or {}).get("x-expires")
        if expires:
            if self._expired(queue):
                self._purge(queue)  # what was meant for the previous owner of the name
            self._own_leases[queue] = (expires / 1000, 0.0)
            self._renew_lease(queue)

    def _renew_lease(self, queue: str) -> None:
        if queue not in self._own_leases:
            return
        seconds, renew_at = self._own_leases[queue]
        now = time.time()
        if now < renew_at and renew_at - now <= seconds:  # else the clock was set back
            return
        file, until = self._lease_file(queue), now + seconds
        for _ in range(2):
            try:
                file.touch()
                os.utime(file, (until, until))
                break
            except FileNotFoundError:  # the folder is new, or was emptied under us
                self._make_folders()
        self._own_leases[queue] = (seconds, now + seconds / 4)

    def _expired(self, queue: str) -> bool:
        try:
            return os.stat(self._lease_file(queue)).st_mtime < time.time()
        except FileNotFoundError:
            return False  # an ordinary queue: it has no lease

    # The folder

    def _make_folders(self) -> None:
        for folder in (self._writing, self._queues, self._taken, self._exchanges, self._leases):
            folder.mkdir(parents=True, exist_ok=True)
        ignore = self._folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")

    def _remove_abandoned(self) -> None:
        """Whenever a channel is opened: what killed processes left behind."""
        before = time.time() - ABANDONED_AFTER
        for file in [*self._writing.iterdir(), *self._taken.iterdir()]:
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_ctime < before:  # changed by the rename, unlike st_mtime
                    file.unlink()
        exchanges = [
            unquote(file.name.removesuffix(_TABLE)) for file in self._exchanges.glob(f"*{_TABLE}")
        ]
        for lease in list(self._leases.iterdir()):
            with contextlib.suppress(FileNotFoundError):
                if lease.stat().st_mtime < before:
                    self._remove_queue(unquote(lease.name), exchanges)

    def _remove_queue(self, queue: str, exchanges: list[str]) -> None:
        for exchange in exchanges:
            with self._table_to_change(exchange) as table:
                table[:] = [binding for binding in table if binding.queue != queue]
        self._purge(queue)
        self._own_leases.pop(queue, None)
        self._lease_file(queue).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not there, or a message has come
            self._queue_folder(queue).rmdir()

    def _queue_folder(self, queue: str) -> Path:
        return self._queues / _file_name(queue)

    def _lease_file(self, queue: str) -> Path:
        return self._leases / _file_name(queue)


class Transport(kombu_filesystem.Transport):
    """A transport that polls: at once after a message, then less and less often.

    Under load a worker with its hands full (its prefetch limit) thus looks again after a
    millisecond, while one that has nothing to do looks every ``polling_interval`` seconds.
    """

    Channel = Channel

    driver_name = ALIAS
    polling_interval = 0.05

    #: What this process declared, per folder.
    _states: ClassVar[dict[Path, virtual.BrokerState]] = {}

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.folder = Path(client.transport_options.get("folder") or default_folder())
        self.state = self._states.setdefault(self.folder, virtual.BrokerState())

    @property
    def default_connection_params(self) -> dict[str, Any]:
        return {}  # a folder has no host, and kombu need not warn that the URL names none

    def drain_events(self, connection: Any, timeout: float | None = None, **kwargs: Any) -> None:
        longest = self.polling_interval or 0
        pause = min(SHORTEST_PAUSE, longest)
        give_up_at = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                self.cycle.get(self._deliver, timeout=timeout)  # type: ignore[union-attr]
                return
            except Empty:
                left = longest if give_up_at is None else give_up_at - time.monotonic()
                if give_up_at is not None and left <= 0:
                    raise TimeoutError from None
                time.sleep(min(pause, left))
                pause = min(2 * pause, longest)


def _stamp(nanoseconds: int) -> str:
    return f"{nanoseconds:020d}"


def _file_name(name: str) -> str:
    """The name of a queue or exchange; what a file's name cannot hold is written as in a URL."""
    quoted = quote(name, safe="@")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted
