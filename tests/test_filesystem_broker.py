"""The broker that is a folder loses nothing, doubles nothing and keeps the order.

With kombu's own ``filesystem`` transport in place of ours, five runs of the first test (1,500
messages a publisher) lost 262, 0, 164, 1 and 1 of 6,000, each one a JSONDecodeError: a reader had
taken a file between its opening and its writing. The second test found 1,185 of 2,985 messages
followed by an older one, and 15 lost. Ours: none, in ten runs of the first.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Exchange, Queue

from pm_celery import filesystem
from pm_celery.filesystem import ALIAS, FOLDER_NAME, Channel, register

pytestmark = pytest.mark.any_database

REPOSITORY = Path(__file__).resolve().parent.parent
TRANSPORT = "pm_celery.filesystem:Transport"

PUBLISHERS, CONSUMERS, MESSAGES_EACH = 4, 3, 1000

# Fresh interpreters: a forked child would share the parent's channels.
processes = multiprocessing.get_context("spawn")


def connect(folder: Path) -> Connection:
    return Connection(
        transport=TRANSPORT, transport_options={"folder": folder, "polling_interval": 0}
    )


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[Channel]:
    with connect(tmp_path) as connection:
        yield connection.default_channel


@pytest.fixture
def another_channel(tmp_path: Path) -> Iterator[Channel]:
    with connect(tmp_path) as connection:
        yield connection.default_channel


def publish_numbers(folder: Path, publisher: int, count: int, pause: float) -> None:
    with connect(folder) as connection:
        queue = connection.SimpleQueue("numbers")
        for number in range(count):
            queue.put([publisher, number])
            time.sleep(pause)


def consume_numbers(folder: Path, results: Any, all_published: Event) -> None:
    """Puts what arrived, in order, and the errors, until nothing is left."""
    arrived: list[tuple[int, int]] = []
    errors: list[str] = []
    with connect(folder) as connection:
        channel = connection.default_channel
        while True:
            last_look = all_published.is_set()
            try:
                message = channel.basic_get("numbers", no_ack=True)
            except Exception as error:  # noqa: BLE001  # whatever it is, the test wants to see it
                errors.append(repr(error))
                continue
            if message is not None:
                arrived.append(tuple(message.decode()))
            elif last_look:
                break
    results.put((arrived, errors))


def run_to_the_end(
    folder: Path, *, publishers: int, consumers: int, count: int, pause: float = 0
) -> tuple[list[list[tuple[int, int]]], list[str]]:
    """What each consumer got, in order, while the publishers were publishing; and all errors."""
    results, all_published = processes.Queue(), processes.Event()
    consuming = [
        processes.Process(target=consume_numbers, args=(folder, results, all_published))
        for _ in range(consumers)
    ]
    publishing = [
        processes.Process(target=publish_numbers, args=(folder, publisher, count, pause))
        for publisher in range(publishers)
    ]
    try:
        for process in consuming + publishing:
            process.start()
        for process in publishing:
            process.join()
        all_published.set()
        reports = [results.get(timeout=60) for _ in consuming]
    finally:
        for process in consuming + publishing:
            process.terminate()
            process.join()
    return [arrived for arrived, _ in reports], [line for _, errors in reports for line in errors]


def test_every_message_arrives_exactly_once(tmp_path: Path) -> None:
    """Every message arrives exactly once: four processes publish, three poll without a pause.

    The publishers pause, so that the queue stays short and the readers meet at its newest file.
    """
    by_consumer, errors = run_to_the_end(
        tmp_path,
        publishers=PUBLISHERS,
        consumers=CONSUMERS,
        count=MESSAGES_EACH,
        pause=0.0005,
    )

    arrived = Counter(message for messages in by_consumer for message in messages)
    published = {(p, n) for p in range(PUBLISHERS) for n in range(MESSAGES_EACH)}
    assert errors == []
    assert published - arrived.keys() == set()
    assert [message for message, times in arrived.items() if times > 1] == []


def test_one_consumer_gets_the_messages_of_one_publisher_in_order(tmp_path: Path) -> None:
    """One consumer gets the messages of one publisher in the order in which they were published."""
    [arrived], errors = run_to_the_end(tmp_path, publishers=1, consumers=1, count=3000)

    assert errors == []
    assert arrived == [(0, number) for number in range(3000)]


def test_a_half_written_message_is_never_read(
    channel: Channel, another_channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader finds a message only once it is whole.

    The publisher writes the file and is stopped before the rename. The reader looks: nothing. The
    publisher goes on. The reader looks again and gets it.
    """
    seen_early: list[Any] = []
    rename = os.rename

    def look_first(source: Path, target: Path) -> None:
        assert source.stat().st_size > 0
        seen_early.append(get(another_channel, "numbers"))
        rename(source, target)

    put(channel, "numbers", 1)
    assert get(another_channel, "numbers") == 1
    monkeypatch.setattr(filesystem.os, "rename", look_first)
    put(channel, "numbers", 2)
    monkeypatch.undo()

    assert seen_early == [None]
    assert get(another_channel, "numbers") == 2


def test_a_reader_that_loses_a_message_goes_on_to_the_next(
    channel: Channel, another_channel: Channel
) -> None:
    """A reader that comes too late for a message takes the next one.

    One reader lists 1, 2, 3 and takes 1. The other takes 2. The first, whose listing still names
    2, asks for its next.
    """
    for number in (1, 2, 3):
        put(channel, "numbers", number)

    assert get(channel, "numbers") == 1
    assert get(another_channel, "numbers") == 2

    assert get(channel, "numbers") == 3
    assert get(channel, "numbers") is None


def test_a_backlog_is_listed_once(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a backlog lists the folder once, not once per message."""
    for number in range(50):
        put(channel, "numbers", number)
    listings: list[Path] = []
    listdir = os.listdir
    monkeypatch.setattr(
        filesystem.os, "listdir", lambda folder: listings.append(folder) or listdir(folder)
    )

    assert [get(channel, "numbers") for _ in range(50)] == list(range(50))

    assert len(listings) == 1


def test_messages_from_before_the_clock_was_set_back_are_not_held_up(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages that carry a later moment than the clock shows are read at once, in order."""
    for number in (1, 2):
        put(channel, "numbers", number)
    monkeypatch.setattr(filesystem.time, "time_ns", lambda: 0)
    put(channel, "numbers", 3)

    assert [get(channel, "numbers") for _ in range(3)] == [1, 2, 3]


def test_a_file_that_is_no_message_is_left_aside(
    channel: Channel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is no message is logged and left aside, and the next message is read."""
    put(channel, "numbers", 1)
    (tmp_path / "queues" / "numbers" / "0-not-ours").write_text("{")

    assert get(channel, "numbers") == 1

    assert "0-not-ours is no message" in caplog.text


def test_a_folder_emptied_under_a_running_worker_is_made_again(
    channel: Channel, tmp_path: Path
) -> None:
    """Who removes the folder loses its messages; the next one arrives."""
    put(channel, "numbers", 1)
    for entry in tmp_path.iterdir():
        subprocess.run(["rm", "-r", str(entry)], check=True)
    assert get(channel, "numbers") is None

    put(channel, "numbers", 2)

    assert get(channel, "numbers") == 2


def test_what_killed_processes_left_behind_is_removed(
    channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour later, opening a channel removes temporary files and the queues of dead workers."""
    news = Exchange("news", type="fanout")
    declare(channel, Queue("mailbox of the dead", news, expires=10))
    put(channel, "mailbox of the dead", 1)
    put(channel, "numbers", 1)
    for left in ("writing", "taken"):
        (tmp_path / left / "0-abandoned").write_text("{")

    an_hour_later(monkeypatch)
    with connect(tmp_path) as connection:
        later = connection.default_channel

        assert later.get_table("news") == []
        assert get(later, "numbers") == 1
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {".gitignore", "exchanges/news.json", "exchanges/news.lock"}


def test_a_queue_that_nobody_reads_does_not_grow(
    channel: Channel, another_channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is broadcast does not pile up in the mailbox of a worker that is gone."""
    news = Exchange("news", type="fanout")
    declare(channel, Queue("gone", news, expires=10))
    declare(another_channel, Queue("there", news, expires=10))
    broadcast(channel, news, 1)

    an_hour_later(monkeypatch)
    assert get(another_channel, "there") == 1  # and so it renews its lease
    broadcast(channel, news, 2)

    assert get(another_channel, "there") == 2
    assert channel._size("gone") == 0


@pytest.mark.parametrize("queue", ["a/b", "../a", "..", "celery@host.pidbox", "Größe 1%", ".a"])
def test_any_name_of_a_queue_is_a_folder_of_its_own(
    channel: Channel, tmp_path: Path, queue: str
) -> None:
    """No name of a queue leads out of the folder."""
    put(channel, queue, 1)

    assert len(list((tmp_path / "queues").iterdir())) == 1
    assert get(channel, queue) == 1


def test_the_default_folder_is_the_projects(tmp_path: Path) -> None:
    """Whatever directory a process is started in, the folder is the project's; importing the
    module reads no settings."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "some_settings.py").write_text(f"BASE_DIR = {str(project)!r}\n")
    ask = (
        "from django.conf import settings;"
        "from pm_celery.filesystem import default_folder;"
        "assert not settings.configured;"
        "print(default_folder())"
    )

    def default_folder(**environment: str) -> Path:
        path = os.pathsep.join([str(REPOSITORY), str(project)])
        clean = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
        done = subprocess.run(
            [sys.executable, "-c", ask],
            cwd=tmp_path,
            env=clean | {"PYTHONPATH": path} | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return Path(done.stdout.strip())

    assert default_folder(DJANGO_SETTINGS_MODULE="some_settings") == project / FOLDER_NAME
    assert default_folder() == tmp_path / FOLDER_NAME


def test_the_url_needs_no_more_than_the_scheme(tmp_path: Path) -> None:
    """`pm-filesystem://` is a complete broker URL."""
    register()

    with Connection(f"{ALIAS}://", transport_options={"folder": tmp_path}) as connection:
        put(connection.default_channel, "numbers", 1)

        assert get(connection.default_channel, "numbers") == 1
        assert connection.transport.polling_interval == 0.05


@pytest.mark.workers
def test_a_worker_runs_what_is_sent_to_it_and_answers_remote_control(tmp_path: Path) -> None:
    """A real worker runs a task that was sent through the folder, and answers a ping."""
    (tmp_path / "shop.py").write_text(
        "from pathlib import Path\n"
        "from celery import Celery\n"
        f"app = Celery(broker_transport={TRANSPORT!r})\n"
        f"app.conf.broker_transport_options = {{'folder': {str(tmp_path / 'broker')!r}}}\n"
        "@app.task(name='shop.write')\n"
        "def write(name, text):\n"
        "    Path(name).write_text(text)\n"
    )
    app = Celery("client", broker_transport=TRANSPORT, set_as_current=False)
    app.conf.broker_transport_options = {"folder": tmp_path / "broker"}
    written = tmp_path / "written"

    with worker(tmp_path, "shop"):
        app.send_task("shop.write", [str(written), "hello"])
        wait_until(lambda: written.exists() and written.read_text() == "hello")

        wait_until(lambda: pongs(app) == [{"ok": "pong"}])


@contextmanager
def worker(folder: Path, app: str) -> Iterator[None]:
    command = [sys.executable, "-m", "celery", "-A", app, "worker", "--pool=solo", "-l", "INFO"]
    environment = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(folder)])
    with (folder / "worker.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until(happened: Callable[[], bool], seconds: float = 30) -> None:
    give_up_at = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.02)


def pongs(app: Celery) -> list[Any]:
    return [answer for worker in app.control.ping(timeout=1) for answer in worker.values()]


def put(channel: Channel, queue: str, body: object) -> None:
    channel._put(queue, {"body": body})


def get(channel: Channel, queue: str) -> Any:
    try:
        message = channel._get(queue)
    except Empty:
        return None
    return message["body"]


def declare(channel: Channel, queue: Queue) -> None:
    queue(channel).declare()


def broadcast(channel: Channel, exchange: Exchange, body: object) -> None:
    channel._put_fanout(exchange.name, {"body": body}, "")


def an_hour_later(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = time.time() + filesystem.ABANDONED_AFTER + 60
    monkeypatch.setattr(filesystem.time, "time", lambda: moment)
    monkeypatch.setattr(filesystem.time, "time_ns", lambda: int(moment * 1e9))
