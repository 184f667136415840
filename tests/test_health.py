"""Health and metrics: what monitors are told, and who is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.db import InterfaceError, OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse

from pm_celery import clock, command, engine, publish, signs, tallies, tasks, ticks
from pm_celery.conf import read_settings
from pm_celery.exceptions import SettingsError
from pm_celery.models import Heartbeat, InboxMessage, OutboxCommand, Timer
from pm_celery.operations import health as module
from pm_celery.operations import pauses
from pm_celery.operations.health import health
from pm_celery.publishing import publish_named
from tests.driving import Time, advance_all, drain
from tests.orders import Paid, Placed, Plan, Shipped

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("commands_with_handlers"),
]

HEALTH, METRICS = "/pm/health", "/pm/metrics"
TOKEN = "s3cret"
PROCESS = "tests.Order"


def place_order() -> UUID:
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    return order_id


def later(time: Time, seconds: int, *, ticking: bool = True) -> None:
    """Time goes by; nobody works, but the tick may."""
    time.enter_context(clock.travel(timedelta(seconds=seconds)))
    if ticking:
        Heartbeat.objects.filter(name=ticks.TICK).update(beat_at=clock.now())


def codes() -> list[str]:
    return [problem.code for problem in health().problems]


# -- what is wrong ----------------------------------------------------------------------------------


def test_where_everything_is_handled_and_the_tick_runs_all_is_well() -> None:
    place_order()
    found = health()
    assert found.is_ok
    assert found.problems == ()
    assert (found.lags.inbox, found.lags.outbox, found.lags.timers) == (0, 0, 0)


def test_a_tick_that_never_ran_or_stands_still_is_a_problem(time: Time) -> None:
    assert codes() == ["tick"]
    assert not health().is_ok
    ticks.tick()
    assert codes() == []
    later(time, 59, ticking=False)
    assert codes() == []
    later(time, 2, ticking=False)
    assert codes() == ["tick"]


def test_messages_that_nobody_handles_are_a_lag_of_the_inbox(time: Time) -> None:
    ticks.tick()
    publish(Placed(order_id=uuid4()))
    later(time, 30)
    publish(Placed(order_id=uuid4()))
    later(time, 31)

    found = health()

    # The longest overdue counts, whichever partition it is in.
    assert 61 <= found.lags.inbox < 70
    assert [problem.code for problem in found.problems] == ["inbox_lag"]


def test_commands_that_nobody_dispatches_are_a_lag_of_the_outbox(time: Time) -> None:
    ticks.tick()
    place_order()
    OutboxCommand.objects.update(status="pending", due_at=clock.now(), settled_at=None)
    later(time, 61)
    assert codes() == ["outbox_lag"]


def test_timers_and_timeouts_that_do_not_fire_are_a_lag_of_the_timers(time: Time) -> None:
    place_order()
    later(time, 24 * 3600 + 61)
    assert codes() == ["timers_lag"]
    Timer.objects.all().delete()
    assert codes() == []
    later(time, 7 * 24 * 3600)
    assert codes() == ["timers_lag"]


def test_what_a_pause_holds_back_is_not_late(time: Time) -> None:
    place_order()
    pauses.pause(PROCESS)
    publish(Placed(order_id=uuid4()))
    advance_all()
    later(time, 3600)
    assert codes() == []


def test_limits_are_settings(time: Time, settings: Any) -> None:
    Plan.raise_in = {"placed": KeyError("no")}
    place_order()
    later(time, 50)
    assert health().is_ok
    assert health().open_letters == 1

    settings.PM_CELERY = {"HEALTH": {"OPEN_LETTERS": 0}}
    assert codes() == ["open_letters"]

    publish(Placed(order_id=uuid4()))
    later(time, 11)
    settings.PM_CELERY = {"HEALTH": {"INBOX": "10s"}}
    assert codes() == ["inbox_lag"]
    settings.PM_CELERY = {"HEALTH": {"INBOX": "10m"}}
    assert codes() == []


def test_an_event_that_no_release_knows_is_told_but_is_not_grave(time: Time) -> None:
    ticks.tick()
    publish_named("shop.Unheard", {}, "event-1")
    engine.advance(InboxMessage.objects.get().partition)

    found = health()

    assert [problem.code for problem in found.problems] == ["unknown_messages"]
    assert "shop.Unheard" in found.problems[0].text
    assert found.is_ok
    InboxMessage.objects.all().delete()
    later(time, 400)
    assert codes() == []


def test_a_command_without_a_handler_is_told() -> None:
    ticks.tick()

    @command(name="shop.Forgotten")
    class Forgotten:
        pass

    assert codes() == ["unhandled_commands"]
    assert "shop.Forgotten" in health().problems[0].text


def test_tables_that_are_not_migrated_are_told_and_nothing_is_asked_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Executor(module.MigrationExecutor):
        def migration_plan(self, targets: Any, clean_start: bool = False) -> Any:
            return super().migration_plan(targets, clean_start=True)

    monkeypatch.setattr(module, "MigrationExecutor", Executor)
    monkeypatch.setattr(module, "_migrated", set())
    found = health()
    assert ([problem.code for problem in found.problems], found.is_readable) == (
        ["unmigrated"],
        False,
    )


def test_a_database_that_cannot_be_read_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no() -> None:
        raise OperationalError("connection refused\nSELECT what nobody need see")

    monkeypatch.setattr(ticks, "last_tick", no)
    found = health()
    assert not found.is_ok
    assert [problem.text for problem in found.problems] == [
        "The database cannot be read: connection refused"
    ]


def test_a_setting_of_the_health_that_is_misspelt_names_the_nearest() -> None:
    with pytest.raises(
        SettingsError, match=r"PM_CELERY\['HEALTH'\] has no setting 'TOCKEN'.*'TOKEN'"
    ):
        read_settings({"HEALTH": {"TOCKEN": "x"}})
    with pytest.raises(SettingsError) as raised:
        read_settings({"HEALTH": {"TOKEN": " s3cret"}})
    assert "s3cret" not in str(raised.value)


# -- workers' signs of life -------------------------------------------------------------------------


class Sent:
    """A task as a worker runs it, and not as a test that calls it."""

    class request:
        is_eager = False
        hostname = "celery@orders-1"

    name = "pm_celery.tick"


def test_a_worker_that_runs_our_tasks_writes_down_every_ten_seconds_that_it_is_there(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signs, "_next", 0.0)
    tasks._sign_of_life(task=Sent)
    assert [(sign.worker, sign.at <= clock.now()) for sign in signs.seen()] == [
        ("celery@orders-1", True)
    ]

    with CaptureQueriesContext(connection) as queries:
        for _ in range(100):
            tasks._sign_of_life(task=Sent)
    assert len(queries) == 0

    before = signs.seen()[0].at
    later(time, 11)
    monkeypatch.setattr(signs, "_next", 0.0)
    tasks._sign_of_life(task=Sent)
    assert len(signs.seen()) == 1
    assert signs.seen()[0].at > before

    def no(name: str) -> None:
        raise InterfaceError("the connection is closed")

    with monkeypatch.context() as patch:
        patch.setattr(signs, "_next", 0.0)
        patch.setattr(signs, "_write", no)
        tasks._sign_of_life(task=Sent)

    later(time, 3700)
    assert signs.seen() == []
    monkeypatch.setattr(signs, "_next_forgetting", 0.0)
    ticks.tick()
    assert not Heartbeat.objects.filter(name__startswith="worker").exists()
    assert ticks.last_tick() is not None


# -- who may ask ------------------------------------------------------------------------------------


def account(*permissions: str) -> Client:
    user = User.objects.create_user(f"user-{uuid4()}")
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.parametrize("url", [HEALTH, METRICS])
def test_a_token_or_the_permission_opens_and_nothing_else_does(url: str, settings: Any) -> None:
    ticks.tick()
    client = Client()
    refused = [{}, {"Authorization": "Bearer"}, {"Authorization": "Bearer "}]
    for headers in refused:
        assert client.get(url, headers=headers).status_code == 403

    settings.PM_CELERY = {"HEALTH": {"TOKEN": TOKEN}}
    refused += [
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer é\x00"},
        {"Authorization": TOKEN},
    ]
    for headers in refused:
        assert client.get(url, headers=headers).status_code == 403, headers
    assert client.get(f"{url}?token={TOKEN}").status_code == 403
    assert account("view_instance").get(url).status_code == 403

    opened = client.get(url, headers={"Authorization": f"bearer {TOKEN}"})
    assert opened.status_code == 200
    assert "no-store" in opened.headers["Cache-Control"]
    assert account("view_health").get(url).status_code == 200
    assert account("view_health").post(url).status_code == 405


def test_a_project_in_which_everybody_has_to_log_in_lets_monitors_in(settings: Any) -> None:
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE,
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
    settings.PM_CELERY = {"HEALTH": {"TOKEN": TOKEN}}
    ticks.tick()
    client = Client(headers={"Authorization": f"Bearer {TOKEN}"})
    assert client.get(HEALTH).status_code == 200


def test_a_load_balancer_gets_503_and_a_monitor_the_reasons(settings: Any) -> None:
    settings.PM_CELERY = {"HEALTH": {"TOKEN": TOKEN}}
    client = Client(headers={"Authorization": f"Bearer {TOKEN}"})

    answer = client.get(HEALTH)
    assert answer.status_code == 503
    assert answer.json()["ok"] is False
    assert [problem["code"] for problem in answer.json()["problems"]] == ["tick"]
    assert client.head(HEALTH).status_code == 503

    place_order()
    answer = client.get(HEALTH)
    assert (answer.status_code, answer.json()["ok"], answer.json()["problems"]) == (200, True, [])
    assert answer.json()["lag"] == {"inbox": 0, "outbox": 0, "timers": 0}


# -- metrics ----------------------------------------------------------------------------------------


@contextmanager
def scraped(accept: str = "text/plain") -> Iterator[dict[str, dict[tuple[str, ...], float]]]:
    """The samples by name and labels' values."""
    client = account("view_health")
    answer = client.get(METRICS, headers={"Accept": accept})
    assert answer.status_code == 200
    read = parse_openmetrics if "openmetrics" in accept else parse
    if "openmetrics" in accept:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in read(answer.content.decode()):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    yield found


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
def test_prometheus_reads_what_there_is(accept: str) -> None:
    first, second = place_order(), place_order()
    publish(Shipped(order_id=first))
    drain()
    Plan.raise_in = {"paid": KeyError("no")}
    publish(Paid(order_id=second))
    drain()
    pauses.pause(PROCESS)

    with scraped(accept) as found:
        instances = found["pm_celery_instances"]
        assert instances[PROCESS, "completed"] == 1
        assert instances[PROCESS, "failed"] == 1
        assert instances[PROCESS, "started"] == 0
        assert found["pm_celery_instances_begun_total"][(PROCESS,)] == 2
        handled = InboxMessage.objects.filter(process=PROCESS, status="handled").count()
        assert found["pm_celery_messages_total"]["handled", PROCESS] == handled
        assert found["pm_celery_runs_failed_total"][(PROCESS,)] == 1
        assert found["pm_celery_dead_letters_total"][(PROCESS,)] == 1
        assert found["pm_celery_dead_letters_open"]["handler", PROCESS] == 1
        assert found["pm_celery_process_paused"][(PROCESS,)] == 1
        assert found["pm_celery_lag_seconds"][("inbox",)] == 0
        assert found["pm_celery_healthy"][()] == 1
        assert found["pm_celery_last_tick_timestamp_seconds"][()] > 1e9
        ran = found["pm_celery_handler_duration_seconds_count"]
        assert ran["placed", PROCESS] == 2
        assert found["pm_celery_command_duration_seconds_count"]["tests.Reserve", PROCESS] == 2


def test_a_run_is_in_the_bucket_of_its_duration_and_in_all_above() -> None:
    counted = tallies.Tallies()
    for seconds in (0.0005, 0.001, 0.3, 99.0):
        counted.add_run(PROCESS, tallies.HANDLER, "placed", seconds)
    tallies.write("default", counted, clock.now())

    with scraped() as found:
        buckets = {
            labels[1]: count
            for labels, count in found["pm_celery_handler_duration_seconds_bucket"].items()
        }
        assert (buckets["0.001"], buckets["0.1"], buckets["0.5"], buckets["+Inf"]) == (2, 2, 3, 4)
        assert found["pm_celery_handler_duration_seconds_sum"]["placed", PROCESS] == pytest.approx(
            99.3015
        )


def test_without_the_extra_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pm_celery.metrics", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    answer = account("view_health").get(METRICS)
    assert (answer.status_code, answer.text) == (501, "Install pm-celery[prometheus].\n")


def test_names_that_hold_anything_are_escaped() -> None:
    counted = tallies.Tallies()
    counted.add('a "b"\\\n{c}', tallies.BEGAN)
    tallies.write("default", counted, clock.now())
    with scraped() as found:
        assert ('a "b"\\\n{c}',) in found["pm_celery_instances_begun_total"]


def test_where_the_database_cannot_be_read_the_metrics_say_that_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pm_celery import metrics

    monkeypatch.setattr(
        metrics,
        "health",
        lambda: module.Health((module.Problem("database", "no"),), is_readable=False),
    )
    with scraped() as found:
        assert found == {"pm_celery_healthy": {(): 0.0}}


def test_to_ask_takes_as_many_statements_however_many_rows_there_are() -> None:
    from pm_celery.metrics import exposition

    def asked() -> tuple[int, int]:
        with CaptureQueriesContext(connection) as queries:
            health()
            of_health = len(queries)
            exposition("")
        return of_health, len(queries)

    place_order()
    health()
    few = asked()
    for _ in range(10):
        place_order()
    assert asked() == few
    assert few[1] < 30
