"""System checks of settings, database, broker and Celery. Tests are named after the ids."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import current_app
from celery.exceptions import WorkerShutdown
from celery.signals import celeryd_after_setup
from django.conf import settings as django_settings
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.recorder import MigrationRecorder
from django.db.utils import ConnectionHandler

from pm_celery import clock, command, command_handler, registry, ticks
from pm_celery.checks import (
    check_database,
    check_declarations,
    check_environment,
    check_events,
    check_settings,
)
from pm_celery.checks.database import _check_journal
from pm_celery.messages import message_type
from tests.test_checks import text_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True, scope="module")
def _configured() -> None:
    """Celery reads its settings when it is first asked for one, and would forget what a test sets before."""
    assert current_app.conf.broker_url


def environment() -> dict[str, str]:
    return {
        str(message.id).removeprefix("pm_celery."): text_of(message)
        for message in check_environment()
    }


def database(*aliases: str) -> dict[str, str]:
    return {
        str(message.id).removeprefix("pm_celery."): text_of(message)
        for message in check_database(databases=aliases or ("default",))
    }


# -- settings and environment ------------------------------------------------------------------------


def test_e030_the_settings_are_unusable(settings: Any) -> None:
    settings.PM_CELERY = {"BATCHSIZE": 10}

    found = check_settings()

    assert [m.id for m in found] == ["pm_celery.E030"]
    assert "Did you mean 'BATCH_SIZE'?" in found[0].msg


def test_e030_is_said_once_and_no_other_check_stumbles_over_the_settings(settings: Any) -> None:
    settings.PM_CELERY = "nonsense"

    found = [
        *check_settings(),
        *check_declarations(),
        *check_events(),
        *check_environment(),
        *check_database(databases=["default"]),
    ]

    assert [message.id for message in found if message.id != "pm_celery.E020"] == ["pm_celery.E030"]


def test_e030_is_silent_for_good_settings(settings: Any) -> None:
    settings.PM_CELERY = {"BATCH_SIZE": 10}

    assert check_settings() == []


@pytest.fixture
def another_database(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The options of a database of ours that nobody connects to, besides the real ones."""
    described = {
        **connections.settings["default"],
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": ":memory:",
        "OPTIONS": {},
    }
    monkeypatch.setitem(connections.settings, "another", described)
    monkeypatch.setitem(django_settings.DATABASES, "another", described)
    settings.PM_CELERY = {"DATABASE": "another"}
    yield described
    if hasattr(connections._connections, "another"):  # type: ignore[attr-defined]
        del connections["another"]


def test_w040_sqlite_is_used_without_immediate_transactions(
    another_database: dict[str, Any],
) -> None:
    text = environment()["W040"]

    assert "'another'" in text
    assert '"transaction_mode": "IMMEDIATE"' in text


@pytest.mark.parametrize("mode", ["DEFERRED", None, ""])
def test_w040_sqlite_is_used_with_another_mode(another_database: dict[str, Any], mode: Any) -> None:
    another_database["OPTIONS"]["transaction_mode"] = mode

    assert "W040" in environment()


@pytest.mark.parametrize("mode", ["IMMEDIATE", "immediate", "EXCLUSIVE"])
def test_w040_is_silent_with_immediate_transactions(
    another_database: dict[str, Any], mode: str
) -> None:
    another_database["OPTIONS"]["transaction_mode"] = mode

    assert "W040" not in environment()


def test_w040_is_silent_for_the_databases_of_this_suite() -> None:
    assert "W040" not in environment()


@pytest.mark.parametrize(
    "url", ["redis://localhost:6379/0", "rediss://h", "redis+socket:///tmp/s", "sentinel://h:26379"]
)
def test_w042_a_redis_broker_has_no_socket_timeout(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setitem(current_app.conf.changes, "broker_url", url)
    monkeypatch.setitem(current_app.conf.changes, "broker_transport_options", {})

    assert "socket_timeout" in environment()["W042"]
    assert "CELERY_BROKER_TRANSPORT_OPTIONS" in environment()["W042"]


def test_w042_is_silent_with_a_socket_timeout_or_another_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(current_app.conf.changes, "broker_url", "redis://localhost")
    monkeypatch.setitem(current_app.conf.changes, "broker_transport_options", {"socket_timeout": 5})
    with_timeout = environment()
    monkeypatch.setitem(current_app.conf.changes, "broker_url", "amqp://localhost")
    monkeypatch.setitem(current_app.conf.changes, "broker_transport_options", {})
    rabbit = environment()

    assert "W042" not in with_timeout
    assert "W042" not in rabbit


def test_w043_celery_opens_a_connection_for_every_task(
    another_database: dict[str, Any], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    another_database["ENGINE"] = "django.db.backends.postgresql"
    without = environment()
    another_database["OPTIONS"]["pool"] = True
    with_pool = environment()
    another_database["OPTIONS"].clear()
    settings.CELERY_DB_REUSE_MAX = 1000
    with_reuse = environment()

    assert "CELERY_DB_REUSE_MAX = 1000" in without["W043"]
    assert "W043" not in with_pool
    assert "W043" not in with_reuse


def test_w043_is_silent_for_sqlite(another_database: dict[str, Any]) -> None:
    assert "W043" not in environment()


def test_w047_a_listener_needs_postgresql(settings: Any, another_database: dict[str, Any]) -> None:
    settings.PM_CELERY = {"DATABASE": "another", "LISTEN": True}

    assert "needs PostgreSQL" in environment()["W047"]


@pytest.mark.needs("NOTIFY")
def test_w047_a_listener_needs_a_direct_connection(settings: Any) -> None:
    settings.PM_CELERY = {"LISTEN": True}
    direct = environment()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(connections["default"].settings_dict, "DISABLE_SERVER_SIDE_CURSORS", True)
        pooled = environment()

    assert "W047" not in direct
    assert "DISABLE_SERVER_SIDE_CURSORS" in pooled["W047"]


def test_w044_beat_s_tick_never_ran() -> None:
    text = database()["W044"]

    assert "never" in text
    assert "beat" in text


def test_w044_beat_s_tick_stopped() -> None:
    ticks.tick()

    with clock.travel(timedelta(minutes=2)):
        assert "last at" in database()["W044"]


def test_w044_is_silent_while_beat_ticks() -> None:
    ticks.tick()

    assert database() == {}


def test_e045_the_tables_are_not_migrated() -> None:
    connection = connections["default"]
    recorder = MigrationRecorder(connection)
    applied = [name for app, name in recorder.applied_migrations() if app == "pm_celery"]
    for name in applied:
        recorder.record_unapplied("pm_celery", name)
    try:
        found = database()
    finally:
        for name in applied:
            recorder.record_applied("pm_celery", name)

    assert found.keys() == {"E045"}
    assert "manage.py migrate pm_celery --database default" in found["E045"]


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_e045_is_about_the_database_that_the_settings_name(settings: Any) -> None:
    settings.PM_CELERY = {"DATABASE": "other"}
    connection = connections["other"]
    recorder = MigrationRecorder(connection)
    applied = [name for app, name in recorder.applied_migrations() if app == "pm_celery"]
    for name in applied:
        recorder.record_unapplied("pm_celery", name)
    try:
        found = database("default", "other")
    finally:
        for name in applied:
            recorder.record_applied("pm_celery", name)

    assert "--database other" in found["E045"]


def test_e045_is_silent_while_migrate_runs_and_where_databases_are_not_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["manage.py", "migrate"])
    assert check_database(databases=["default"]) == []

    monkeypatch.setattr("sys.argv", ["manage.py", "check"])
    assert check_database(databases=None) == []
    assert check_database(databases=["other"]) == []


def test_w046_nothing_ticks(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.PM_CELERY = {"TICK_SECONDS": None}
    monkeypatch.setitem(current_app.conf.changes, "beat_schedule", {})

    assert "TICK_SECONDS" in environment()["W046"]


def test_w046_is_silent_where_the_project_schedules_the_tick_itself(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.PM_CELERY = {"TICK_SECONDS": None}
    entry = {"task": "pm_celery.tick", "schedule": 2.0}
    monkeypatch.setitem(current_app.conf.changes, "beat_schedule", {"mine": entry})
    scheduled = environment()
    settings.PM_CELERY = {}
    monkeypatch.setitem(current_app.conf.changes, "beat_schedule", {})
    by_default = environment()

    assert "W046" not in scheduled
    assert "W046" not in by_default


# -- what a worker accepts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "words"),
    [
        (["json", "pickle"], "has pickle"),
        (["application/json", "application/x-python-serialize"], "has pickle"),
        (["yaml", "json", "pickle"], "has pickle and yaml"),
        (["msgpack"], "lacks json"),
    ],
)
def test_w048_a_worker_accepts_what_can_run_code_or_lacks_json(
    accepted: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(current_app.conf.changes, "accept_content", accepted)

    assert words in environment()["W048"]


def test_w048_is_silent_where_json_alone_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    by_default = environment()
    monkeypatch.setitem(current_app.conf.changes, "accept_content", ["application/json"])

    assert "W048" not in by_default
    assert "W048" not in environment()


# -- time limits and the broker's patience -----------------------------------------------------------


def visibility(patch: pytest.MonkeyPatch, url: str, **options: Any) -> str:
    """What W041 says with this broker, or ""."""
    patch.setitem(current_app.conf.changes, "broker_url", url)
    patch.setitem(
        current_app.conf.changes, "broker_transport_options", {"socket_timeout": 5, **options}
    )
    return environment().get("W041", "")


@pytest.fixture
def slow_handler(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Declares a handler, the only one, in a project that acknowledges late or not; its command's name."""

    def declare(*, late: bool = True, **limits: float) -> str:
        # Celery's tasks take this from the settings when they are made, and keep their names for good.
        monkeypatch.setitem(current_app.conf.changes, "task_acks_late", late)
        registry.command_handlers.replace([])

        @command(name=f"checks.Slow{uuid4().hex}")
        class Slow:
            key: str

        @command_handler(Slow, **limits)  # type: ignore[arg-type]
        def slow(command: Slow) -> None: ...

        return message_type(Slow, "command").name

    return declare


def test_w041_a_handler_may_run_for_longer_than_its_message_stays_invisible(
    monkeypatch: pytest.MonkeyPatch, slow_handler: Callable[..., str]
) -> None:
    name = slow_handler(time_limit=700, soft_time_limit=650)

    text = visibility(monkeypatch, "redis://h", visibility_timeout=600)

    assert f"{name} may run for 700 seconds" in text
    assert "after 600 (visibility_timeout)" in text
    assert '"visibility_timeout": 1400' in text
    assert visibility(monkeypatch, "sentinel://h", visibility_timeout=600)
    assert not visibility(monkeypatch, "redis://h")  # an hour, as kombu comes


def test_w041_knows_celery_s_own_limits_and_sqs_s_half_hour(
    monkeypatch: pytest.MonkeyPatch, slow_handler: Callable[..., str]
) -> None:
    slow_handler()
    monkeypatch.setitem(current_app.conf.changes, "task_soft_time_limit", 2000)

    assert "may run for 2000 seconds" in visibility(monkeypatch, "sqs://")
    assert not visibility(monkeypatch, "rediss://h")
    monkeypatch.setitem(current_app.conf.changes, "task_time_limit", 4000)
    assert "may run for 4000 seconds" in visibility(monkeypatch, "rediss://h")


def test_w041_is_silent_where_a_message_is_acknowledged_first_or_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch, slow_handler: Callable[..., str]
) -> None:
    slow_handler()
    assert not visibility(monkeypatch, "redis://h", visibility_timeout=1)

    slow_handler(time_limit=4000)
    assert not visibility(monkeypatch, "amqp://h")
    assert not visibility(monkeypatch, "redis://h", visibility_timeout=4000)

    slow_handler(time_limit=4000, late=False)
    assert not visibility(monkeypatch, "redis://h", visibility_timeout=1)


# -- databases and brokers that lose or block --------------------------------------------------------


def sqlite(name: str) -> BaseDatabaseWrapper:
    """A connection beside those of the suite."""
    described = {"ENGINE": "django.db.backends.sqlite3", "NAME": name}
    return ConnectionHandler({"default": described})["default"]


def test_w051_readers_of_the_sqlite_file_keep_workers_from_writing(tmp_path: Path) -> None:
    connection = sqlite(str(tmp_path / "file.sqlite3"))
    with closing(connection):
        (found,) = _check_journal(connection)
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA journal_mode=WAL")
        after = list(_check_journal(connection))

    assert "journal_mode delete" in found.msg
    assert after == []


@pytest.mark.sqlite
def test_w051_is_silent_for_the_databases_of_this_suite_and_told_beside_the_others() -> None:
    ticks.tick()
    assert "W051" not in database()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "pm_celery.checks.database._check_journal", lambda connection: [connection.alias]
        )
        assert check_database(databases=["default"]) == ["default"]


def test_w051_is_silent_for_a_database_in_memory() -> None:
    with closing(sqlite(":memory:")) as connection:
        assert list(_check_journal(connection)) == []


def test_w052_the_broker_is_a_folder_of_kombu_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(current_app.conf.changes, "broker_url", "filesystem://")
    kombus = environment()
    monkeypatch.setitem(current_app.conf.changes, "broker_url", "pm-filesystem://")

    assert "pm-filesystem://" in kombus["W052"]
    assert "W052" not in environment()


def test_w053_handlers_run_inside_the_request_that_publishes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = environment()
    monkeypatch.setitem(current_app.conf.changes, "task_always_eager", True)
    monkeypatch.setattr("sys.argv", ["manage.py", "check"])
    eager = environment()
    monkeypatch.setattr("sys.argv", ["manage.py", "test"])

    assert "W053" not in usual
    assert "inside the request" in eager["W053"]
    assert "W053" not in environment()


# -- a worker that starts ----------------------------------------------------------------------------


@pytest.mark.workers
def test_a_worker_with_a_broken_process_tells_and_does_not_start(tmp_path: Path) -> None:
    """Conformance 3 and 6: Celery runs the checks, and throws away what they find."""
    (tmp_path / "broken.py").write_text(
        "from pm_celery import ProcessManager, event, handle\n"
        "@event\n"
        "class Left: room: str\n"
        "class Stay(ProcessManager):\n"
        "    @handle(Left, correlate='room', end=True)\n"
        "    def left(self, event): ...\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "tests.celery_app",
            "worker",
            "-P",
            "solo",
            "-I",
            "broken",
        ],
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp_path}:{Path(__file__).parent.parent}",
            "PM_TEST_BROKER": "memory://",
            "PM_TEST_PM_CELERY": '{"TICK_SECONDS": null}',
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    told = done.stdout + done.stderr
    assert done.returncode == 78, told
    assert "pm_celery.E001: broken.Stay has no start event" in told
    assert "pm_celery.W046: Nothing ticks" in told
    assert "The worker does not start" in told
    assert "ready." not in told


def worker_starts() -> None:
    celeryd_after_setup.send(sender="worker@here", instance=None, conf=current_app.conf)


def test_a_worker_whose_project_has_warnings_starts_and_tells_them(
    settings: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings.PM_CELERY = {"TICK_SECONDS": None}
    monkeypatch.setitem(current_app.conf.changes, "beat_schedule", {})
    registry.listeners.replace([])
    registry.messages.replace([])

    worker_starts()

    assert "pm_celery.W046: Nothing ticks" in caplog.text
    assert "Remove TICK_SECONDS" in caplog.text


@pytest.mark.usefixtures("commands_with_handlers")
def test_a_worker_says_nothing_of_what_is_silenced_or_where_checks_are_skipped(
    settings: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings.PM_CELERY = {"BATCHSIZE": 1}
    with pytest.raises(WorkerShutdown) as stopped:
        worker_starts()
    assert stopped.value.code == 78
    caplog.clear()

    settings.SILENCED_SYSTEM_CHECKS = ["pm_celery.E030"]
    worker_starts()
    settings.SILENCED_SYSTEM_CHECKS = []
    monkeypatch.setenv("CELERY_SKIP_CHECKS", "1")
    worker_starts()

    assert "E030" not in caplog.text
