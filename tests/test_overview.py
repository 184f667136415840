"""The overview: what it tells, and to whom."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib import admin
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import path

from pm_celery import clock, oldest, policy, publish, tallies, ticks
from pm_celery.admin import DeadLetterAdmin, InstanceAdmin
from pm_celery.admin.overview import page_of
from pm_celery.models import DeadLetter, Heartbeat, Instance
from pm_celery.operations import health, instances
from pm_celery.operations.overview import ProcessRow, overview
from tests.driving import Time, drain
from tests.orders import Paid, Placed, Plan, Shipped
from tests.test_admin import staff

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("commands_with_handlers"),
]

PROCESS = "tests.Order"
URL = "/admin/pm_celery/"

own_site = admin.AdminSite(name="operations")
own_site.register(Instance, InstanceAdmin)
own_site.register(DeadLetter, DeadLetterAdmin)
urlpatterns = [path("admin/", admin.site.urls), path("operations/", own_site.urls)]


def place_order() -> UUID:
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    return order_id


def fail_order() -> UUID:
    order_id = place_order()
    Plan.raise_in = {"paid": KeyError("no card")}
    publish(Paid(order_id=order_id))
    drain()
    Plan.raise_in = {}
    return order_id


def row_of(process: str = PROCESS) -> ProcessRow:
    return next(row for row in overview().processes if row.process == process)


# -- what it tells ----------------------------------------------------------------------------------


def test_each_process_with_what_runs_what_ended_and_what_began_today(time: Time) -> None:
    time.go_on_to_noon()
    place_order()
    time.outage("25h")  # its reminder comes an hour late
    shipped = place_order()
    publish(Shipped(order_id=shipped))
    drain()
    fail_order()

    row = row_of()

    assert {status: count for status, count in row.counts.items() if count} == {
        "started": 1,
        "completed": 1,
        "failed": 1,
    }
    assert (row.began_today, row.open_letters, row.pause, row.kind) == (2, 1, None, "process")
    assert sum(row.last_hour.failed) == 1
    # Besides, a reminder, what commands published, and what the failure handler heard.
    assert sum(row.last_hour.handled) == 7


def test_today_begins_at_midnight_where_the_reader_is(time: Time, settings: Any) -> None:
    now = clock.now()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    time.elapse(midnight - now + timedelta(minutes=5))
    place_order()
    time.elapse("30m")
    assert row_of().began_today == 1
    settings.TIME_ZONE = "Europe/Berlin"
    assert row_of().began_today == 1
    time.elapse("23h")
    assert row_of().began_today == 0  # it is 00:35 of the next day there
    settings.TIME_ZONE = "UTC"
    assert row_of().began_today == 1


def test_a_policy_and_a_process_of_another_release_have_their_rows_too() -> None:
    @policy(Placed, name="shop.thank")
    def thank(event: Placed, reaction: object) -> None: ...

    counted = tallies.Tallies()
    counted.add("shop.Gone", "started")
    tallies.write("default", counted, clock.now())
    place_order()

    assert row_of("shop.thank").kind == "policy"
    assert sum(row_of("shop.thank").last_hour.handled) == 1
    assert row_of("shop.Gone").kind == ""
    page = staff("view_instance").get(URL).text
    assert "not declared in this release" in page


def test_courses_end_now_and_hold_all_that_happened_in_their_time(time: Time) -> None:
    for _ in range(3):
        place_order()  # with what its command publishes, two messages
        time.elapse("20m")
    for course, points, handled in zip(overview().courses, (60, 96, 168), (4, 6, 6), strict=True):
        assert (len(course.handled), len(course.failed)) == (points, points)
        assert sum(course.handled) == handled
    time.outage("2d")  # three reminders come late
    assert [sum(course.handled) for course in overview().courses] == [3, 3, 9]


# -- the oldest -------------------------------------------------------------------------------------


def ticked_later(time: Time) -> None:
    time.enter_context(clock.travel(timedelta(minutes=11)))
    ticks.tick()


def test_the_oldest_is_the_first_that_runs_or_waits_for_somebody(time: Time) -> None:
    first, failed, last = place_order(), fail_order(), place_order()
    assert row_of().oldest == Instance.objects.get(key=first)

    ticked_later(time)
    for gone, next_one in ((first, failed), (failed, last)):
        instances.cancel(Instance.objects.get(key=gone).pk)
        assert row_of().oldest == Instance.objects.get(key=next_one)
        ticked_later(time)
        assert row_of().oldest == Instance.objects.get(key=next_one)
    instances.cancel(Instance.objects.get(key=last).pk)
    assert row_of().oldest is None


def test_the_oldest_is_found_at_its_mark_however_many_ended_before_it(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marks move up a portion at a time; a page reads no more than its own portion."""
    monkeypatch.setattr(oldest, "_ROWS_AT_ONCE", 3)
    monkeypatch.setattr(oldest, "_ROWS_ON_A_PAGE", 2)
    orders = [place_order() for _ in range(8)]
    for order_id in orders[:-1]:
        instances.cancel(Instance.objects.get(key=order_id).pk)
    assert row_of().oldest is None

    for _ in range(4):
        ticked_later(time)

    assert row_of().oldest == Instance.objects.get(key=orders[-1])
    assert oldest._marks([PROCESS]) == {PROCESS: row_of().oldest.pk}  # type: ignore[union-attr]


def test_a_mark_does_not_pass_rows_beside_which_others_may_still_be_committed(time: Time) -> None:
    order_id = place_order()
    instances.cancel(Instance.objects.get(key=order_id).pk)
    place_order()
    Heartbeat.objects.filter(name=oldest.OLDEST).delete()
    ticks.tick()
    assert oldest._marks([PROCESS]) == {}
    ticked_later(time)
    assert oldest._marks([PROCESS]) == {PROCESS: Instance.objects.get(status="started").pk}


def test_a_mark_goes_over_a_gap_that_pruning_left_behind_a_row_that_is_kept(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [place_order() for _ in range(6)]
    for order_id in orders[:-1]:
        instances.cancel(Instance.objects.get(key=order_id).pk)
    Instance.objects.filter(key__in=orders[1:-1]).delete()
    monkeypatch.setattr(oldest, "_ROWS_AT_ONCE", 3)
    monkeypatch.setattr(oldest, "_ROWS_ON_A_PAGE", 2)

    for _ in range(3):
        ticked_later(time)

    assert row_of().oldest == Instance.objects.get(key=orders[-1])


# -- who sees what ----------------------------------------------------------------------------------


def test_somebody_sees_what_is_of_the_tables_that_he_may_see() -> None:
    order_id = fail_order()

    texts = {
        "Cancelled": "view_instance",
        "Oldest running": "view_instance",
        "Open dead letters": "view_deadletter",
        "Failed runs": "view_deadletter",
        "Messages handled": "view_inboxmessage",
        "Lag of the inbox": "view_inboxmessage",
        "Lag of the outbox": "view_outboxcommand",
        "Timers due": "view_timer",
    }
    for permission in set(texts.values()):
        page = staff(permission).get(URL).text
        told = {text for text in texts if text in page}
        assert told == {text for text, needed in texts.items() if needed == permission}
        assert str(order_id) not in page
    assert staff().get(URL).status_code == 404
    assert staff("retry_deadletter").get(URL).status_code == 404


def test_a_table_that_a_projects_admin_lets_somebody_not_view_is_not_told_of() -> None:
    shown = {"model": Instance, "perms": {"view": True}, "admin_url": "/instances/"}
    hidden = {"model": DeadLetter, "perms": {"view": False}, "admin_url": "/letters/"}
    page = page_of([{"models": [shown, hidden]}], "admin")
    assert page is not None
    assert "Open dead letters" not in [figure.name for figure in page.figures]
    assert page_of([{"models": [hidden]}], "admin") is None


def test_somebody_is_told_of_problems_with_what_he_may_see(time: Time) -> None:
    ticks.tick()
    publish(Placed(order_id=uuid4()))
    time.enter_context(clock.travel(timedelta(minutes=2)))

    assert 'data-problem="inbox_lag"' in staff("view_inboxmessage").get(URL).text
    page = staff("view_timer").get(URL).text
    assert 'data-problem="inbox_lag"' not in page
    assert 'data-problem="tick"' in page


@pytest.mark.stock_theme
def test_a_projects_own_site_has_the_overview_with_its_own_links(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    fail_order()
    client = staff("view_instance", "view_deadletter", "view_timer")

    page = client.get("/operations/pm_celery/").text

    assert f'href="/operations/pm_celery/instance/{Instance.objects.get().pk}/change/"' in page
    assert "/operations/pm_celery/instance/?process=tests.Order&amp;status__exact=failed" in page
    assert "Timers due" not in page
    assert "/admin/" not in page.partition("pm-overview-live")[2]


def test_where_the_tables_are_not_migrated_the_page_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "_is_migrated", lambda alias: False)
    page = staff("view_instance").get(URL)
    assert page.status_code == 200
    assert 'data-problem="unmigrated"' in page.text
    assert "pm-processes" not in page.text
    assert overview().processes == ()


def test_names_and_reasons_are_escaped() -> None:
    hostile = "<script>alert(1)</script>"
    counted = tallies.Tallies()
    counted.add(hostile, "started")
    counted.add(hostile, tallies.HANDLED)
    tallies.write("default", counted, clock.now())
    Heartbeat.objects.create(name=f"worker {hostile}", beat_at=clock.now())
    page = staff("view_instance", "view_inboxmessage").get(URL).text
    assert hostile not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3


def test_the_page_takes_as_many_statements_however_many_rows_there_are() -> None:
    def asked() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert client.get(URL).status_code == 200
        return len(queries)

    client = staff("view_instance", "view_inboxmessage", "view_deadletter", "view_timer")
    place_order()
    asked()
    few = asked()
    for _ in range(10):
        fail_order()
    assert asked() == few < 35
