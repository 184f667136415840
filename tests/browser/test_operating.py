"""What an operator does in the browser, from the page on which it begins to the one that tells the end."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from playwright.sync_api import Locator, Page, expect

from pm_celery import bulks, clock, publish
from pm_celery.models import BulkAction, DeadLetter, InboxMessage, Instance, Pause, Timer
from pm_celery.operations import bulk
from tests.browser.conftest import Look, Staff
from tests.driving import Time, drain
from tests.orders import Paid, Placed, Plan


class TillIsShut(KeyError):
    """Another cause."""


ADMIN = "/admin/pm_celery/"
REASON = "the card provider is back"


def placed(*, paid: bool = False) -> UUID:
    """An order, and its key."""
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    if paid:
        publish(Paid(order_id=order_id))
        drain()
    return order_id


def messages_of(page: Page) -> Locator:
    """What the admin tells after an action."""
    return page.locator(".messagelist")


def confirm(page: Page, reason: str = REASON) -> None:
    """Give the reason that is asked for, and go on."""
    page.get_by_label("Reason").fill(reason)
    page.get_by_role("button", name="Yes, I").click()


def stays_in_its_width(page: Page) -> None:
    """Nothing makes the page itself wider than the window: what is wide scrolls in a box of its own."""
    for width in (1400, 800):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 1280, "height": 900})


def test_an_order_is_found_by_its_key_and_one_steps_back_through_what_it_went_through(
    staff: Staff, look: Look, time: Time
) -> None:
    order_id = placed(paid=True)
    placed()
    page = staff("view_instance", "view_transition", "view_inboxmessage", "view_outboxcommand")

    page.goto(f"{ADMIN}instance/")
    expect(page.locator("#result_list tbody tr")).to_have_count(2)
    page.get_by_role("textbox", name="Search").fill(str(order_id))
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    page.locator("#result_list tbody th a").click()

    timeline = page.locator(".pm-timeline")
    steps = timeline.locator(".pm-entry-step strong")
    expect(steps).to_have_text(["tests.Placed", "tests.Reserved", "tests.Paid"])
    expect(timeline.locator(".pm-entry-step").first).to_contain_text("tests.Reserve done")
    expect(timeline).to_contain_text("timer reminder cancelled")
    paid = timeline.locator(".pm-entry-step").last
    payload = paid.get_by_text(f'"order_id":"{order_id}"').first
    expect(payload).to_be_hidden()
    paid.get_by_text("Payload", exact=True).click()
    expect(payload).to_be_visible()
    waits = page.locator(".pm-waits")
    expect(waits).to_contain_text("tests.Shipped")
    diagram = page.get_by_role("img", name="Diagram of the process")
    expect(diagram.locator(".pm-last")).to_contain_text("#3")
    look(page, "instance")
    stays_in_its_width(page)

    page.get_by_role("link", name="Step back in time").click()
    expect(page.get_by_role("navigation", name="Step through")).to_contain_text(
        "As of transition 2 of 3"
    )
    expect(page.locator(".pm-diagram .pm-last")).to_contain_text("#2")
    expect(page.locator(".pm-here")).to_contain_text("tests.Reserved")
    page.get_by_role("link", name="← earlier").click()
    expect(page.get_by_role("heading", name="State after transition 1")).to_be_visible()
    expect(page.locator(".pm-state")).to_contain_text("9.90")
    look(page, "instance-as-of")
    page.get_by_role("link", name="back to now").click()
    expect(page.locator(".pm-as-of")).to_have_count(0)


@pytest.fixture
def dead_orders(time: Time, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Three orders that died of a card in two hours, and one that died of the till: their letters' ids."""
    monkeypatch.setattr(bulks, "send", lambda pk: None)  # the test is the worker
    for error in (*[KeyError("no card")] * 3, TillIsShut()):
        Plan.raise_in = {"paid": error}
        placed(paid=True)
        time.elapse("40m")
    Plan.raise_in = {}
    return list(DeadLetter.objects.order_by("pk").values_list("pk", flat=True))


def test_dead_letters_are_followed_from_their_cause_to_the_end_of_a_bulk_action(
    dead_orders: list[int], staff: Staff, look: Look
) -> None:
    page = staff("view_deadletter", "retry_deadletter", "annotate_deadletter", "view_bulkaction")
    page.goto(f"{ADMIN}deadletter/")
    page.get_by_role("link", name="By cause").click()
    group = page.locator("table.pm-groups tbody tr", has_text="KeyError")
    expect(group.locator("td.pm-number")).to_have_text(["3", "3"])
    chart = group.get_by_role("img")
    expect(chart.locator("rect")).not_to_have_count(0)
    look(page, "letters-groups")
    stays_in_its_width(page)

    group.get_by_role("link", name="KeyError").click()
    rows = page.locator("#result_list tbody tr")
    expect(rows).to_have_count(3)
    stays_in_its_width(page)
    rows.last.locator("th a").click()
    expect(page.locator(".pm-letter")).to_contain_text("KeyError: 'no card'")
    expect(page.get_by_text("Traceback (most recent call last)")).to_be_visible()
    look(page, "letter")
    stays_in_its_width(page)
    letter = DeadLetter.objects.get(pk=dead_orders[0])
    page.get_by_role("button", name="Retry", exact=True).click()
    page.get_by_role("button", name="Yes, I").click()
    expect(page.locator(".errorlist")).to_have_text("This field is required.")
    letter.refresh_from_db()
    assert letter.status == "open"
    confirm(page)
    expect(messages_of(page)).to_have_text("1 retried.")
    page.goto(f"{ADMIN}deadletter/{letter.pk}/change/")
    expect(page.locator(".field-status .readonly")).to_have_text("retried")
    expect(page.locator(".pm-letter")).to_contain_text(REASON)
    expect(page.get_by_role("button", name="Retry", exact=True)).to_have_count(0)

    page.goto(f"{ADMIN}deadletter/?group={letter.group_id}&status__exact=open")
    expect(page.locator("#result_list tbody tr")).to_have_count(2)
    page.locator("#action-toggle").check()
    page.get_by_role("combobox", name="Action").select_option(label="Retry")
    # One page holds them all, so Django offers no link for it.
    page.locator("input[name=select_across]").first.evaluate("input => input.value = '1'")
    page.locator("button[name=index]").click()  # "Go", and "Run" from Django 6.1
    expect(page.get_by_text("2 open dead letters match.")).to_be_visible()
    look(page, "letters-question")
    confirm(page)
    expect(messages_of(page)).to_have_text("A worker begins with 2 dead letters.")
    expect(page.get_by_role("status")).to_have_text("0 retried, 2 to come.")
    asked = BulkAction.objects.get()
    bulk.work(asked.pk, seconds=0)
    # The page asks for itself again.
    expect(page.get_by_role("status")).to_have_text("1 retried, 1 to come.")
    look(page, "letters-bulk")
    bulk.work(asked.pk)
    expect(page.get_by_text("It has ended.")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("2 retried.")
    expect(page.get_by_role("progressbar", name="Progress")).to_have_attribute("value", "100")
    page.get_by_role("link", name="The letters that it acted on").click()
    expect(page.locator("#result_list .field-status")).to_have_text(["retried", "retried"])


def test_a_process_is_paused_with_a_reason_and_resumed(
    staff: Staff, look: Look, time: Time
) -> None:
    page = staff("view_pause", "pause_process", "view_instance", "view_transition")
    page.goto(f"{ADMIN}pause/")
    row = page.locator("#result_list tbody tr", has=page.get_by_text("tests.Order", exact=True))
    expect(row).to_contain_text("is handled")
    row.get_by_role("checkbox").check()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("heading", name="Pause these processes?")).to_be_visible()
    look(page, "pause-question")
    stays_in_its_width(page)
    confirm(page, "the warehouse burns")

    expect(messages_of(page)).to_have_text("1 paused.")
    order_id = placed()
    page.reload()
    expect(row.locator("td, th")).to_contain_text(
        ["", "tests.Order", "process", "paused", "", "staff-", "the warehouse burns", "1"]
    )
    assert not Instance.objects.exists()
    look(page, "processes")
    stays_in_its_width(page)

    row.get_by_role("checkbox").check()
    page.get_by_role("button", name="Resume").click()
    confirm(page, "it is put out")
    expect(messages_of(page)).to_have_text("1 resumed.")
    drain()
    page.reload()
    expect(row).to_contain_text("is handled")
    assert not Pause.objects.exists()
    assert Instance.objects.get().key == str(order_id)


def test_an_event_is_sent_by_hand_after_what_was_wrong_with_it_was_told(
    staff: Staff, look: Look, time: Time
) -> None:
    page = staff("view_inboxmessage", "publish_inboxmessage")
    page.goto(f"{ADMIN}inboxmessage/")
    page.get_by_role("link", name="Send an event").click()
    page.get_by_label("Event:").select_option("tests.Placed")
    page.get_by_role("button", name="Choose", exact=True).click()
    expect(page.get_by_role("heading", name="Send tests.Placed")).to_be_visible()
    page.get_by_label("order_id").fill("4711")
    page.get_by_label("Reason").fill(REASON)
    look(page, "admin-send-event")
    stays_in_its_width(page)
    page.get_by_role("button", name="Send the event").click()
    expect(page.locator(".errorlist")).to_contain_text("valid UUID")
    expect(page.get_by_label("order_id")).to_have_value("4711")
    look(page, "send-event-error")
    assert not InboxMessage.objects.exists()

    order_id = uuid4()
    page.get_by_label("order_id").fill(str(order_id))
    page.get_by_role("button", name="Send the event").click()
    expect(messages_of(page)).to_contain_text(f"was put into 1 inbox: tests.Order {order_id}.")
    expect(page.locator("#result_list .field-status")).to_have_text("pending")
    drain()
    page.reload()
    expect(page.locator("#result_list .field-status")).to_have_text("handled")
    assert Instance.objects.get().key == str(order_id)


def test_a_timer_is_moved_to_another_moment_and_fires_then(
    staff: Staff, look: Look, time: Time
) -> None:
    placed()
    page = staff(
        "view_timer", "move_timer", "view_instance", "view_transition", "view_intervention"
    )
    page.goto(f"{ADMIN}timer/")
    page.locator("#result_list tbody th a").click()
    page.get_by_role("button", name="Move").click()
    page.get_by_label("New moment").fill("2020-01-31T12:00")
    confirm(page)
    expect(page.locator(".errorlist")).to_contain_text("This moment has passed")
    look(page, "timer-question")
    stays_in_its_width(page)
    moment = (clock.now() + timedelta(days=3)).replace(second=0, microsecond=0)
    page.get_by_label("New moment").fill(f"{moment:%Y-%m-%dT%H:%M}")
    confirm(page, "they are on holiday")

    expect(messages_of(page)).to_have_text("1 moved.")
    assert Timer.objects.get().due_at == moment
    page.locator("#result_list .field-process_instance a").click()
    expect(page.locator(".pm-waits")).to_contain_text(f"reminder: {moment:%Y-%m-%d %H:%M:%S}")
    act = page.locator(".pm-entry-act")
    expect(act).to_contain_text("move timer")
    expect(act).to_contain_text("they are on holiday")

    time.elapse("25h")
    assert Timer.objects.exists()
    time.elapse("2d")
    page.reload()
    expect(page.locator(".pm-entry-step strong").last).to_have_text("reminder")
