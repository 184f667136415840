"""German words are longer: pages still fit the window, and one finds one's way by what they say."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from pm_celery.models import DeadLetter, InboxMessage, Instance
from pm_celery.operations import bulk, pauses
from tests.browser.conftest import Look, Staff
from tests.browser.test_operating import ADMIN, dead_orders, placed, stays_in_its_width

__all__ = ["dead_orders"]

REASON = "Der Kartenanbieter ist wieder da"


@pytest.fixture(autouse=True)
def german(settings: Any) -> None:
    """The server's own language; the test's thread stays English, so that nothing here is German by it."""
    settings.LANGUAGE_CODE = "de"


def test_an_operator_discards_a_dead_letter_in_german(
    dead_orders: list[int], staff: Staff, look: Look
) -> None:
    page = staff(superuser=True)
    page.goto(f"{ADMIN}deadletter/{dead_orders[0]}/change/")
    expect(page.get_by_role("heading", name="Gescheiterte Versuche")).to_be_visible()
    look(page, "de-letter")
    stays_in_its_width(page)

    page.get_by_role("button", name="Verwerfen und die Instanz fortsetzen").click()
    look(page, "de-confirm")
    page.get_by_role("button", name="Ja, ich bin sicher").click()
    expect(page.locator(".errorlist")).to_have_text("Dieses Feld ist zwingend erforderlich.")
    page.get_by_label("Grund").fill(REASON)
    page.get_by_role("button", name="Ja, ich bin sicher").click()

    expect(page.locator(".messagelist")).to_have_text("1 verworfen.")
    page.goto(f"{ADMIN}deadletter/{dead_orders[0]}/history/")
    history = page.locator("#change-history")
    expect(history).to_contain_text(f"Verworfen; die Instanz wird fortgesetzt. Grund: {REASON}")


def test_every_sort_of_page_fits_the_window_in_german(
    dead_orders: list[int],
    staff: Staff,
    look: Look,
) -> None:
    placed(paid=True)
    pauses.pause("tests.Order", by="ann", reason=REASON)
    asked = bulk.start("discard_for_good", {"exception": "KeyError"}, by="ann", reason=REASON)
    failed = DeadLetter.objects.get(pk=dead_orders[0]).instance_id
    running = Instance.objects.filter(status="started").last()
    assert running is not None
    message = InboxMessage.objects.latest("pk").pk
    page = staff(superuser=True)
    for name, url in (
        ("overview", ""),
        ("instance-failed", f"instance/{failed}/change/"),
        ("instance-as-of", f"instance/{running.pk}/change/?at=1"),
        ("inbox", "inboxmessage/"),
        ("inbox-message", f"inboxmessage/{message}/change/"),
        ("letters", "deadletter/"),
        ("groups", "deadletter/groups/"),
        ("bulk", f"bulkaction/{asked.pk}/change/"),
        ("processes", "pause/"),
        ("send", "inboxmessage/publish/?event=tests.Placed"),
    ):
        page.goto(ADMIN + url)
        assert page.url.endswith(ADMIN + url)
        expect(page.locator("html")).to_have_attribute("lang", "de")
        look(page, f"de-{name}")
        stays_in_its_width(page)
