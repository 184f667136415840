"""The overview in a browser: what it shows, and how it refreshes itself."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from playwright.sync_api import Page, expect

from pm_celery import clock, publish, signs, tallies, ticks
from pm_celery.operations import pauses
from tests.browser.conftest import Look, Staff
from tests.driving import Time, drain
from tests.orders import Paid, Placed, Plan, Shipped

OVERVIEW = "/admin/pm_celery/"
SEES_ALL = (
    "view_instance",
    "view_inboxmessage",
    "view_outboxcommand",
    "view_deadletter",
    "view_timer",
)


def place_order() -> None:
    publish(Placed(order_id=uuid4()))
    drain()


def a_week_went_by() -> None:
    """Entries of the last week, for the lines: more by day, and an hour in which much failed."""
    now = clock.now()
    for quarter in range(7 * 96):
        at = now - timedelta(minutes=15 * quarter)
        counted = tallies.Tallies()
        counted.add("tests.Order", tallies.HANDLED, 20 + 3 * abs(12 - at.hour) + quarter % 5)
        if 30 < quarter < 36:
            counted.add("tests.Order", tallies.RUN_FAILED, 4 + quarter % 3)
        tallies.write("default", counted, at)
    for minute in range(55):
        counted = tallies.Tallies()
        counted.add("tests.Order", tallies.HANDLED, 3 + minute * minute % 11)
        tallies.write("default", counted, now - timedelta(minutes=minute))


@pytest.fixture
def orders(time: Time, monkeypatch: pytest.MonkeyPatch, commands_with_handlers: None) -> None:
    """Two that run, one that was shipped, one that failed, and a process that is paused."""
    time.go_on_to_noon()
    place_order()
    time.elapse("2h")
    place_order()
    shipped, failed = uuid4(), uuid4()
    for order_id in (shipped, failed):
        publish(Placed(order_id=order_id))
        drain()
    publish(Shipped(order_id=shipped))
    Plan.raise_in = {"paid": KeyError("no card")}
    publish(Paid(order_id=failed))
    drain()
    Plan.raise_in = {}
    a_week_went_by()
    pauses.pause("tests.Order", by="ann", reason="the warehouse burns")
    ticks.tick()
    for worker in ("celery@orders-1", "celery@orders-2"):
        monkeypatch.setattr(signs, "_next", 0.0)
        signs.give(worker)


def cell(page: Page, heading: str) -> str:
    """What stands in the row of tests.Order under a heading."""
    table = page.locator("table.pm-processes")
    # Not as it is painted, for the theme writes headings in capitals.
    headings = table.locator("thead th").all_text_contents()
    row = table.locator("tbody tr", has_text="tests.Order")
    return row.locator("th, td").nth(headings.index(heading)).inner_text().strip()


def test_the_overview_tells_what_runs_what_failed_and_what_is_late(
    orders: None, staff: Staff, look: Look
) -> None:
    page = staff(*SEES_ALL)
    page.goto(OVERVIEW)

    counts = {
        name: cell(page, name) for name in ("Started", "Completed", "Failed", "Started today")
    }
    assert counts == {"Started": "2", "Completed": "1", "Failed": "1", "Started today": "4"}
    assert cell(page, "Oldest running").startswith("2 h")
    assert cell(page, "Open dead letters") == "1"
    assert "paused by ann: the warehouse burns" in cell(page, "Process")
    expect(page.locator(".pm-banner")).to_have_count(0)
    expect(page.locator(".pm-signs")).to_contain_text("celery@orders-2 (")
    lines = page.get_by_role("img", name="tests.Order: messages handled")
    assert lines.locator("polyline").get_attribute("points").count(",") == 60  # type: ignore[union-attr]
    week = page.get_by_role("img", name="Last week: failed runs")
    box = week.bounding_box()
    assert box is not None
    assert box["width"] > 100
    look(page, "overview")

    page.locator("table.pm-processes").get_by_role("link", name="1", exact=True).first.click()
    expect(page.get_by_text("1 process instance")).to_be_visible()


def test_a_banner_tells_what_is_wrong(orders: None, staff: Staff, look: Look, time: Time) -> None:
    publish(Placed(order_id=uuid4()))
    time.enter_context(clock.travel(timedelta(minutes=5)))
    page = staff(*SEES_ALL)
    page.goto(OVERVIEW)

    banner = page.get_by_role("alert")
    expect(banner).to_contain_text("Beat's tick has not run for 30")
    expect(banner).to_contain_text("Messages wait to be handled for 30")
    look(page, "overview-banner")


def test_it_refreshes_itself_at_the_chosen_pace_and_not_while_it_is_hidden(
    orders: None, staff: Staff
) -> None:
    page = staff(*SEES_ALL)
    page.clock.install()
    page.goto(OVERVIEW)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    page.clock.run_for(600_000)
    assert asked == []

    pauses.resume("tests.Order")
    page.get_by_label("Refresh").select_option("5")
    place_order()
    with page.expect_response(f"**{OVERVIEW}"):
        page.clock.run_for(5_000)
    expect(page.locator("table.pm-processes")).not_to_contain_text("paused")
    assert cell(page, "Started") == "3"

    show(page, hidden=True)
    asked.clear()
    page.clock.run_for(600_000)
    assert asked == []

    place_order()
    with page.expect_response(f"**{OVERVIEW}"):
        show(page, hidden=False)
    expect(page.locator("table.pm-processes")).to_contain_text("4")

    page.reload()
    expect(page.get_by_label("Refresh")).to_have_value("5")


def show(page: Page, *, hidden: bool) -> None:
    """What a browser tells a page whose tab is hidden or shown; a headless one never hides it."""
    page.evaluate(
        """(hidden) => {
            Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_a_refresh_that_fails_is_told_and_tried_again(orders: None, staff: Staff) -> None:
    page = staff(*SEES_ALL)
    page.clock.install()
    page.goto(OVERVIEW)
    page.get_by_label("Refresh").select_option("5")
    page.context.clear_cookies()
    page.clock.run_for(5_000)
    expect(page.get_by_text("Not refreshed")).to_be_visible()
    expect(page.locator("table.pm-processes")).to_be_visible()

    staff(*SEES_ALL)
    page.clock.run_for(5_000)
    expect(page.get_by_text("Not refreshed")).to_be_hidden()
