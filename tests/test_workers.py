"""With real workers, a real Beat and a real broker: what no test in one process can show."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import pytest
from billiard.context import Process
from celery import current_app
from django.conf import settings
from django.db import connections

import pm_celery.broker
from pm_celery import publish, publish_many, signs
from pm_celery.broker import Post
from pm_celery.listener import ListenerStep
from pm_celery.models import (
    Batch,
    DeadLetter,
    Heartbeat,
    InboxMessage,
    Instance,
    OutboxCommand,
    Transition,
)
from tests.brokers import Broker
from tests.orders import Paid, Placed, Shipped
from tests.signatures import ErrandDone, ErrandGiven, ErrandKills
from tests.testapp.models import Effect

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [pytest.mark.workers, pytest.mark.django_db(transaction=True)]

# Short, so that what is lost is found while a test waits for it.
HASTY = {"TICK_SECONDS": 0.2, "COMMAND_LEASE": "0.5s", "WAKE_LEASE": "2s"}


class Celery:
    """Celery's processes, for one test. They know the test's database and broker."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker = broker
        self.pm_celery: dict[str, object] = dict(HASTY)
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def worker(self, *options: str, name: str = "worker", queues: str = "celery") -> None:
        """Start a worker; two processes that may be killed are its pool."""
        self._start(
            name,
            "worker",
            *("--pool=prefork", "--concurrency=2", f"--hostname={name}@%h", f"--queues={queues}"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat", *options),
        )

    def beat(self) -> None:
        self._start("beat", "beat", f"--schedule={self._folder / 'beat'}", "--pidfile=")

    def children(self, name: str = "worker") -> list[int]:
        """The processes that a worker has started."""
        pid = self._running[name].pid
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]

    def kill(self, name: str) -> None:
        """Kill a worker with all that it started, and wait for its end."""
        process = self._running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def ask_to_stop(self, name: str) -> None:
        """Ask a worker to end when it has finished what it has in hand, and wait for that."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGTERM)
        process.wait(20)

    def stop(self) -> None:
        for name, process in self._running.items():
            # Killed rather than asked, with its pool: that is quick, and rows survive it.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            sys.stdout.write(f"-- {name}\n{self._log(name).read_text(errors='replace')}\n")
        self._running = {}

    def _start(self, name: str, *arguments: str) -> None:
        databases = {
            f"PM_TEST_{alias.upper()}_NAME": str(connections[alias].settings_dict["NAME"])
            for alias in connections
        }
        environment = {
            **os.environ,
            **databases,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONPATH": str(ROOT),
            "PM_TEST_BROKER": self.broker.url,
            "PM_TEST_BROKER_OPTIONS": json.dumps(self.broker.options),
            "PM_TEST_PM_CELERY": json.dumps(self.pm_celery),
            "PM_TEST_WORKER": name,
        }
        with self._log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "celery",
                    "-A",
                    "tests.celery_app",
                    *arguments,
                    "-l",
                    "INFO",
                ],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


@pytest.fixture
def broker(any_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """An empty broker, which this process sends its wake-ups to."""
    # Before every other setting: Celery asks this variable first, whichever app is the current one.
    monkeypatch.setenv("CELERY_BROKER_URL", any_broker.url)
    monkeypatch.setitem(current_app.conf, "broker_transport_options", any_broker.options)
    # No process changes its broker, but this one does.
    monkeypatch.setattr(pm_celery.broker, "_pools", WeakKeyDictionary())
    any_broker.empty()
    return any_broker


@pytest.fixture
def celery(broker: Broker, tmp_path: Path, transactional_db: None) -> Iterator[Celery]:
    # After transactional_db, so that the workers are gone when the tables are emptied.
    celery = Celery(broker, tmp_path)
    try:
        yield celery
    finally:
        celery.stop()


def until(condition: Callable[[], object], seconds: float = 25.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def give(kind: str) -> str:
    """An errand of that kind; its key."""
    errand = f"{kind} {uuid4()}"
    publish(ErrandGiven(errand=errand, kind=kind))  # type: ignore[arg-type]
    return errand


def command_of(errand: str) -> OutboxCommand:
    return OutboxCommand.objects.get(key=errand)


def effects(name: str) -> int:
    return Effect.objects.filter(name=name).count()


def problem_of(errand: str) -> str:
    """What the instance was told of."""
    return str(json.loads(Instance.objects.get(key=errand).state)["problem"])


def test_orders_go_from_placement_to_delivery(celery: Celery) -> None:
    """Events and commands pass through real workers, each once, and every row is settled."""
    orders = [uuid4() for _ in range(20)]
    celery.worker()
    celery.beat()

    publish_many(Placed(order_id=order) for order in orders)
    until(lambda: Transition.objects.filter(handler="reserved").count() == 20)
    publish_many(Paid(order_id=order) for order in orders)
    until(lambda: OutboxCommand.objects.filter(status="done").count() == 40)
    publish_many(Shipped(order_id=order) for order in orders)
    until(lambda: Instance.objects.filter(status="completed").count() == 20)

    for verb in ("reserved", "paid", "shipped"):
        done = Effect.objects.filter(name__startswith=verb).values_list("name", flat=True)
        assert sorted(done) == sorted(f"{verb} {order}" for order in orders)
    assert set(InboxMessage.objects.values_list("status", flat=True)) == {"handled"}
    assert not OutboxCommand.objects.unsettled().exists()


def test_beat_ticks_once_the_app_is_installed(celery: Celery) -> None:
    """No entry in the settings is needed: delayed commands are dispatched, and the tick is on record."""
    assert not hasattr(settings, "CELERY_BEAT_SCHEDULE")
    celery.worker()
    celery.beat()

    errand = give("wait")
    until(lambda: effects(f"command {errand}"))

    first = Heartbeat.objects.get(name="tick").beat_at
    until(lambda: Heartbeat.objects.get(name="tick").beat_at > first)
    [sign] = signs.seen()
    assert sign.worker.startswith("worker@"), "two processes of one worker give one sign"


def test_what_became_of_a_signature_is_learnt_from_celery(celery: Celery) -> None:
    """One that succeeds runs once and is done; one that fails is a dead letter, and its instance hears."""
    # On a busy machine a task that is slow to begin would be dispatched again, as it should be.
    celery.pm_celery["COMMAND_LEASE"] = "60s"
    celery.worker()
    celery.beat()

    works, fails = give("signature"), give("failing signature")
    until(lambda: Instance.objects.filter(key=fails).exists() and problem_of(fails))
    until(lambda: command_of(works).status == "done")

    assert command_of(works).dispatches == 1
    assert effects(f"task {works}") == 1
    assert effects(f"tried {fails}") == 1
    letter = DeadLetter.objects.get()
    assert (letter.place, letter.name) == ("signature", "tests.fail_errand")
    assert (letter.exception, letter.error) == ("ErrandFailed", f"{fails} cannot be done")
    assert problem_of(fails) == f"tests.fail_errand: ErrandFailed: {fails} cannot be done"


FOREIGN = """
import sys
from celery import Celery

app = Celery("billing", broker=sys.argv[1])
for _ in range(2):
    app.send_task(
        "pm_celery.publish",
        args=["tests.ErrandGiven", {"errand": "from afar", "kind": "wait"}],
        kwargs={"id": "billing-1", "correlation_id": "conversation-1"},
    )
app.send_task("pm_celery.publish", ["tests.ErrandDone", {"errand": "from afar"}], task_id="t-2")
assert "pm_celery" not in sys.modules
"""


@pytest.mark.needs("clients without pm_celery")
def test_another_service_publishes_by_name(celery: Celery) -> None:
    """A Celery app without Django sends JSON; the event is published once for its id."""
    celery.worker()

    sent = subprocess.run(
        [sys.executable, "-c", FOREIGN, celery.broker.url],
        env={k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert sent.returncode == 0, sent.stderr
    until(lambda: InboxMessage.objects.filter(message_id="t-2").exclude(handled_at=None).exists())

    given = InboxMessage.objects.get(name="tests.ErrandGiven")
    assert (given.message_id, given.key) == ("billing-1", "from afar")
    assert (given.correlation_id, given.status) == ("conversation-1", "handled")


def test_celery_gets_the_options_of_a_command_handler(celery: Celery) -> None:
    """Queue, priority, rate and time limits are Celery's own, and the task's id is the command's."""
    celery.worker(queues="celery,special")

    errand = give("look")
    until(lambda: Effect.objects.exists())

    assert json.loads(Effect.objects.get().name) == {
        "queue": "special",
        "priority": 3,
        "rate_limit": "50/s",
        "time_limits": [30, 20],
        "id": str(command_of(errand).command_id),
    }


def test_a_command_that_its_time_limit_kills_becomes_a_dead_letter(celery: Celery) -> None:
    """Celery kills the process each time; after some runs the command is given up, without a trace."""
    celery.worker()
    celery.beat()

    errand = give("slow")
    until(lambda: DeadLetter.objects.exists())
    until(lambda: problem_of(errand))

    letter = DeadLetter.objects.get()
    assert (letter.place, letter.name, letter.exception) == (
        "command",
        "tests.Dawdle",
        "WorkerLost",
    )
    assert command_of(errand).status == "dead"
    assert problem_of(errand).startswith("tests.Dawdle: WorkerLost: ")
    assert effects(f"dawdled {errand}") == 0


def test_an_event_that_kills_its_worker_becomes_a_dead_letter(celery: Celery) -> None:
    """It does not loop for ever, and other instances go on, those of its own batch as well."""
    celery.worker()
    celery.beat()
    doomed, *others = [give("wait") for _ in range(40)]
    until(lambda: Instance.objects.filter(status="started").count() == 40)

    publish_many(
        [ErrandKills(errand=doomed), *(ErrandDone(errand=errand) for errand in [doomed, *others])]
    )
    until(lambda: Instance.objects.filter(status="completed").count() == 39)
    until(lambda: DeadLetter.objects.exists())
    until(lambda: problem_of(doomed))

    letter = DeadLetter.objects.get()
    assert (letter.place, letter.name, letter.key) == ("handler", "tests.ErrandKills", doomed)
    assert (letter.exception, letter.attempts) == ("WorkerLost", 3)
    assert Instance.objects.get(key=doomed).status == "failed"
    parked = InboxMessage.objects.get(key=doomed, name="tests.ErrandDone")
    assert parked.status == "parked"


def test_commands_that_the_broker_lost_are_dispatched_again(celery: Celery, broker: Broker) -> None:
    """What lay in the broker when it was emptied runs all the same, once."""
    celery.worker(name="first")
    celery.beat()
    errands = [give("later") for _ in range(20)]
    # Nobody consumes that queue yet.
    until(lambda: broker.waiting("later") >= 20)
    assert not Effect.objects.exists()

    broker.empty()
    celery.worker(name="second", queues="later")
    until(lambda: OutboxCommand.objects.filter(status="done").count() == 20)

    assert sorted(Effect.objects.values_list("name", flat=True)) == sorted(
        f"command {errand}" for errand in errands
    )
    assert all(command.dispatches > 1 for command in OutboxCommand.objects.all())


# -- the listener -----------------------------------------------------------------------------------


@pytest.fixture
def listening(celery: Celery, settings: Any) -> Celery:
    """Celery whose workers have a listener, and a publisher that tells it."""
    celery.pm_celery["LISTEN"] = True
    settings.PM_CELERY = {"LISTEN": True}
    return celery


def leaders() -> list[tuple[int, int]]:
    """Of a listener that leads: its own process, and the one of the database that serves it."""
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "SELECT application_name, pid FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'advisory'"
        )
        return [(int(name.removeprefix("pm_celery listener ")), pid) for name, pid in cursor]


def handled(errand: str) -> bool:
    return Instance.objects.filter(key=errand).exists()


@pytest.mark.needs("NOTIFY")
def test_a_listener_handles_what_is_published_without_a_celery_message(
    listening: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no Beat, nobody consumes the queue that wake-ups go to, and who publishes sends none there. (A
    listener may, on a slow machine: it leaves slow handlers to the pool.)"""
    sent: list[object] = []
    monkeypatch.setattr(Post, "send", lambda post, *message, **options: sent.append(message))
    listening.worker(queues="elsewhere")
    until(leaders)

    errands = [give("wait") for _ in range(20)]
    until(lambda: all(map(handled, errands)))

    assert sent == []


@pytest.mark.needs("NOTIFY")
def test_what_was_published_while_nobody_listened_is_handled_first(listening: Celery) -> None:
    errand = give("wait")
    listening.worker(queues="elsewhere")

    until(lambda: handled(errand))


@pytest.mark.needs("NOTIFY")
def test_a_listener_that_dies_or_loses_its_connection_begins_anew(listening: Celery) -> None:
    listening.worker(queues="elsewhere")
    until(leaders)

    [before] = leaders()
    os.kill(before[0], signal.SIGKILL)
    until(lambda: leaders() not in ([], [before]))
    first = give("wait")
    until(lambda: handled(first))

    [before] = leaders()
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [before[1]])
    until(lambda: leaders() not in ([], [before]))
    second = give("wait")
    until(lambda: handled(second))


@pytest.mark.needs("NOTIFY")
def test_of_two_listeners_one_leads_and_the_other_takes_over(listening: Celery) -> None:
    listening.worker(name="first", queues="elsewhere")
    until(leaders)
    listening.worker(name="second", queues="elsewhere")
    until(lambda: len(listening.children("second")) == 3)
    [before] = leaders()

    listening.kill("first")
    until(lambda: leaders() not in ([], [before]))
    errand = give("wait")

    until(lambda: handled(errand))


@pytest.mark.needs("NOTIFY")
def test_a_listener_ends_with_its_worker_and_finishes_its_batch(listening: Celery) -> None:
    listening.worker(queues="elsewhere")
    until(leaders)
    children = listening.children()

    errands = [give("wait") for _ in range(50)]
    listening.ask_to_stop("worker")

    until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    assert not Batch.objects.exists()
    settled = sum(map(handled, errands))
    assert settled == InboxMessage.objects.filter(status="handled").count()


@pytest.mark.needs("NOTIFY")
def test_where_nobody_listens_the_tick_wakes_a_worker(celery: Celery, settings: Any) -> None:
    settings.PM_CELERY = {"LISTEN": True}
    celery.worker()
    celery.beat()
    errand = give("wait")

    until(lambda: handled(errand))


def test_a_listener_that_was_asked_to_end_is_not_started_again() -> None:
    """Between its end and the worker's, Celery's timer may look after it once more."""
    step, worker = ListenerStep(SimpleNamespace()), SimpleNamespace()
    ended = Process(target=int)
    ended.start()
    ended.join()
    step._process = ended

    step.close(worker)
    step.look_after(worker)

    assert step._process is ended
