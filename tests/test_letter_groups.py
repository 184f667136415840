"""Groups of dead letters, and what hangs on one letter: the same few queries however many there are.

Breaks that turned these red: `only_open` not heeded; the series begun one period late; the newest letter
asked of the open ones only; parked messages counted without regard to the letter's
status; a post without a note that empties it; an original payload shown as it is stored.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from pm_celery import bulks, clock, letters, publish
from pm_celery.models import BulkAction, DeadLetter, FailedAttempt, Intervention, LetterGroup
from pm_celery.operations import bulk, dead_letters, letter_groups
from tests.driving import Time, drain
from tests.orders import Paid, Placed, Plan, Shipped
from tests.test_admin import HTML, staff

pytestmark = pytest.mark.django_db(transaction=True)


def fail(number: int, error: Exception, *, at: str = "placed") -> list[UUID]:
    """Orders that die of an error in one of their handlers."""
    ids = [uuid4() for _ in range(number)]
    for order_id in ids:
        publish(Placed(order_id=order_id))
    if at == "paid":
        drain()
        for order_id in ids:
            publish(Paid(order_id=order_id))
    Plan.raise_in = {at: error}
    drain()
    Plan.raise_in = {}
    return ids


def counts(**asked: Any) -> list[tuple[str, int, int]]:
    return [
        (group.exception, group.open, group.died) for group in letter_groups.groups(**asked).shown
    ]


def test_letters_that_died_of_the_same_are_counted_together_the_most_open_first(
    time: Time,
) -> None:
    class Full(KeyError):
        pass

    fail(1, KeyError(1))
    fail(3, Full(2))
    first = DeadLetter.objects.order_by("pk")[0]
    dead_letters.discard(first.pk)

    assert [found[1:] for found in counts()] == [(3, 3)]
    assert [found[1:] for found in counts(only_open=False)] == [(3, 3), (0, 1)]
    assert counts(process="tests.Other") == []
    assert letter_groups.groups(only_open=False, most=1).total == 2
    settled = letter_groups.groups(only_open=False).shown[1]
    assert settled.last_at == settled.first_at == first.died_at


@pytest.mark.parametrize("span", ["hour", "day", "week"])
def test_a_series_tells_when_they_died(span: str, time: Time) -> None:
    fail(2, KeyError(1))
    period, periods = letter_groups.SPANS[span]
    time.enter_context(clock.travel(timedelta(seconds=3 * period)))
    fail(1, KeyError(1))

    series = letter_groups.groups(span=span).shown[0].series

    assert len(series) == periods
    assert (series[-1], series[-4], sum(series)) == (1, 2, 3)


def test_any_number_of_letters_is_asked_for_in_the_same_queries() -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as seen:
            letter_groups.groups()
        return len(seen)

    fail(1, KeyError(1))
    few = queries()
    for number in range(3):
        fail(2, type(f"Error{number}", (KeyError,), {})(1))

    assert letter_groups.groups().total == 4
    assert queries() == few


@pytest.fixture
def failed(time: Time) -> DeadLetter:
    """A letter of which a message is tried again after it died, with two messages parked behind it."""
    (order_id,) = fail(1, ValueError("no money"), at="paid")
    Plan.raise_in = {"paid": ValueError("no money")}
    for _ in range(4):
        time.elapse("2s")
    first = DeadLetter.objects.get()
    dead_letters.retry(first.pk, by="ann", reason="once more")
    drain()
    for _ in range(4):
        time.elapse("2s")
    for event in (Paid(order_id=order_id), Shipped(order_id=order_id)):
        publish(event)
    drain()
    return DeadLetter.objects.get(status="open")


def test_one_letter_tells_its_attempts_what_is_parked_behind_it_and_earlier_ones(
    failed: DeadLetter,
) -> None:
    parked = letter_groups.behind(failed)
    history = letter_groups.history(failed)
    earlier = history.others[0]

    assert [row.name for row in parked.first] == ["tests.Paid", "tests.Shipped"]
    assert (parked.count, parked.more) == (2, False)
    assert [row.number for row in history.attempts] == [4, 3, 2, 1, 4, 3, 2, 1]
    assert history.attempts[0].failed_at > history.attempts[-1].failed_at
    assert (earlier.status, earlier.settled_by) == ("retried", "ann")
    assert [row.reason for row in letter_groups.history(earlier).interventions] == ["once more"]
    assert letter_groups.behind(earlier).count == 0


def test_what_was_done_to_a_letter_without_an_instance_is_told_too() -> None:
    letter = letters.write(
        "default",
        DeadLetter(name="x.Y", message_ref="1", place="policy", payload="{}", attempts=1),
        ValueError("no"),
        trace="",
    )

    dead_letters.discard(letter.pk, by="ann", reason="a test's")

    assert [row.reason for row in letter_groups.history(letter).interventions] == ["a test's"]


# -- pages --------------------------------------------------------------------------------------------


def url(name: str, *args: int) -> str:
    return reverse(f"admin:pm_celery_deadletter_{name}", args=args)


def test_the_page_of_groups_shows_counts_and_a_chart_and_leads_to_the_group_s_open_letters(
    admin_client: Client,
) -> None:
    fail(2, KeyError(1))
    LetterGroup.objects.update(name=f"{HTML}")
    group = LetterGroup.objects.get()

    page = admin_client.get(url("groups"))
    listed = admin_client.get(url("changelist"), {"group": group.pk, "status__exact": "open"})
    elsewhere = admin_client.get(url("changelist"), {"group": "0" * 32})

    assert "1 group, 2 open." in page.text
    assert HTML not in page.text
    assert f"?group={group.pk}&amp;status__exact=open" in page.text
    assert "<desc" in page.text
    assert "<rect" in page.text
    assert "2 died in the last day" in page.text
    assert "style=" not in page.text.partition('id="content-main"')[2].partition("<footer")[0]
    assert listed.context["cl"].result_count == 2
    assert elsewhere.context["cl"].result_count == 0


def test_the_page_of_a_letter_answers_without_a_further_click(
    failed: DeadLetter, admin_client: Client
) -> None:
    dead_letters.annotate(failed.pk, f"ask the bank {HTML}", by="ann")

    page = admin_client.get(url("change", failed.pk)).text

    for text in ("Parked behind it: 2", "Failed attempts", "Other letters", "ask the bank"):
        assert text in page
    assert HTML not in page
    assert "Traceback" in page


def test_the_original_payload_is_shown_without_what_is_hidden(
    failed: DeadLetter, settings: Any, admin_client: Client
) -> None:
    DeadLetter.objects.filter(pk=failed.pk).update(original_payload='{"pin": "secret-4711"}')
    settings.PM_CELERY = {"REDACT": ["pin"]}

    page = admin_client.get(url("change", failed.pk)).text

    assert "before it was changed" in page
    assert "as it was changed" in page
    assert "secret-4711" not in page
    assert "•••" in page


def test_a_note_and_a_payload_need_a_permission_each(failed: DeadLetter, settings: Any) -> None:
    settings.PM_CELERY = {"EDIT_PAYLOADS": True}
    client = staff("view_deadletter", "annotate_deadletter")

    assert client.get(url("edit", failed.pk)).status_code == 403
    assert url("edit", failed.pk) not in client.get(url("change", failed.pk)).text
    answer = client.post(url("note", failed.pk), {"note": "ask the bank"})

    assert answer.status_code == 302
    failed.refresh_from_db()
    assert failed.note == "ask the bank"
    assert client.post(url("note", failed.pk), {"nonsense": "x"}).status_code == 200
    failed.refresh_from_db()
    assert failed.note == "ask the bank"


def test_the_form_for_a_payload_says_what_is_wrong_and_keeps_what_was_written(
    failed: DeadLetter, settings: Any, admin_client: Client
) -> None:
    off = admin_client.post(url("edit", failed.pk), {"payload": failed.payload, "reason": "x"})
    settings.PM_CELERY = {"EDIT_PAYLOADS": True}
    wrong = admin_client.post(url("edit", failed.pk), {"payload": '{"a": 1}', "reason": "typo"})
    silent = admin_client.post(url("edit", failed.pk), {"payload": failed.payload, "reason": " "})
    assert "EDIT_PAYLOADS" in off.text
    assert "Field required" in wrong.text
    assert "{&quot;a&quot;: 1}" in wrong.text
    assert "This field is required" in silent.text
    assert not DeadLetter.objects.exclude(original_payload="").exists()

    right = admin_client.post(url("edit", failed.pk), {"payload": failed.payload, "reason": "y"})

    assert right.status_code == 302
    failed.refresh_from_db()
    assert (failed.status, failed.original_payload) == ("retried", failed.payload)


def test_a_bulk_action_is_watched_until_it_ends_and_stopped_by_who_may(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulks, "send", lambda bulk_id: None)
    fail(3, KeyError(1))
    started = bulk.start("retry", {}, by="ann", reason="r")
    bulk.work(started.pk, seconds=0)
    page = reverse("admin:pm_celery_bulkaction_change", args=[started.pk])
    listed = reverse("admin:pm_celery_bulkaction_changelist")

    running = admin_client.get(page).text
    viewer = staff("view_bulkaction")
    stop = {
        "action": "stop",
        "_selected_action": started.pk,
        "confirmed": "yes",
        "reason": "enough",
    }
    viewer.post(listed, stop)
    staff("view_bulkaction", "discard_deadletter").post(listed, stop)
    admin_client.post(listed, stop | {"reason": ""})
    assert BulkAction.objects.get().ended_at is None
    admin_client.post(listed, stop)
    assert Intervention.objects.get(verb="stop bulk").reason == "enough"
    ended = admin_client.get(page).text

    assert 'http-equiv="refresh"' in running
    assert "1 retried, 2 to come." in " ".join(running.split())
    assert 'http-equiv="refresh"' not in ended
    assert "1 retried, 2 left alone." in " ".join(ended.split())
    assert "Stopped by admin." in ended


def test_all_that_match_are_retried_from_the_form_that_asks_for_the_reason(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulks, "send", lambda bulk_id: None)
    fail(2, KeyError(1))
    address = f"{url('changelist')}?group={LetterGroup.objects.get().pk}&status__exact=open"
    values = {"action": "retry", "_selected_action": "1", "select_across": "1"}
    asked = admin_client.post(address, values).text
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', asked))
    assert "2 open dead letters match." in asked

    silent = admin_client.post(address, form).text
    assert "This field is required" in silent
    assert not BulkAction.objects.exists()
    started = admin_client.post(address, {**form, "reason": "stock is back"})

    found = BulkAction.objects.get()
    assert started.headers["Location"].endswith(f"/bulkaction/{found.pk}/change/")
    assert (found.total, found.reason) == (2, "stock is back")


def test_what_the_list_shows_and_no_condition_says_is_refused(admin_client: Client) -> None:
    fail(1, KeyError(1))
    for query in ("?attempts__gt=0", "?status__exact=retried"):
        values = {"action": "retry", "_selected_action": "1", "select_across": "1"}
        answer = admin_client.post(url("changelist") + query, values, follow=True)
        assert "Nothing was done: " in answer.text
    assert not BulkAction.objects.exists()
    assert FailedAttempt.objects.exists()


def test_a_bulk_action_is_never_about_letters_that_its_list_does_not_show(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two values of one column exclude each other; and a search prefers what is declared."""
    monkeypatch.setattr(bulks, "send", lambda bulk_id: None)
    fail(2, KeyError(1))
    one, other = DeadLetter.objects.values_list("key", flat=True)
    gone = DeadLetter.objects.get(key=one)
    gone.pk, gone.process = None, "gone.Process"
    gone.save(force_insert=True)

    for query in (
        f"?key={one}&q={other}",
        f"?key={one}&key__exact={other}",
        f"?key={one}&key={other}",
        "?process=a&process__exact=tests.Order",
        f"?q={one}",
    ):
        values = {"action": "retry", "_selected_action": "1", "select_across": "1"}
        values |= {"confirmed": "yes", "reason": "r"}
        answer = admin_client.post(url("changelist") + query, values, follow=True)
        assert "Nothing was done: " in answer.text, query
    assert not BulkAction.objects.exists()
