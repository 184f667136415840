"""Every word on a page is marked for translation, or is data.

Found by asking for every page in a language that puts what is marked into brackets. Breaks that turned these
red: a heading without ``translate``; ``status`` shown in place of its label; a verb's message not marked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils.timezone import now

from pm_celery import bulks, publish
from pm_celery.models import BulkAction, DeadLetter, InboxMessage, Instance, Pause, Timer, Wakeup
from pm_celery.operations import bulk, dead_letters, instances, pauses, timers
from tests.benchmarks.paging.visits import Visit, Visitor
from tests.driving import Time, advance_all, drain
from tests.orders import Broken, Paid, Placed, Plan, Shipped
from tests.pseudo_locale import Reader, data_of, pseudo_locale
from tests.test_admin import (
    ACTIONS,
    REASON,
    act,
    list_url,
    make_command,
    make_instance,
    make_letter,
    make_message,
    make_timer,
    make_transition,
    page_url,
    row_for,
    told,
)

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]

# Names; and what Django has not marked.
NAMES = {"ID", "JSON", "UTC", "SQLite", "Django", "Search"}


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with pseudo_locale(monkeypatch):
        yield


def data() -> set[str]:
    ours = apps.get_app_config("pm_celery").get_models()
    return data_of([*ours, User]) | NAMES


def order(*events: Any) -> UUID:
    order_id = uuid4()
    for declared in (Placed, *events):
        publish(declared(order_id=order_id))
        drain()
    return order_id


def fill(time: Time) -> None:
    """Rows of every status that has words of its own on some page."""
    order(Paid, Shipped)
    by_command = order()
    Plan.raise_in = {"ship": Broken("no van")}
    publish(Paid(order_id=by_command))
    drain()
    time.elapse("10s")
    Plan.raise_in = {"paid": Broken("no card")}
    backs_off = order()
    publish(Paid(order_id=backs_off))
    advance_all()
    Plan.raise_in = {"paid": KeyError("no card")}
    failed = [order(Paid) for _ in range(4)]
    publish(Shipped(order_id=failed[0]))
    drain()
    letters = list(DeadLetter.objects.filter(status="open").order_by("-pk"))
    dead_letters.annotate(letters[0].pk, "asked the bank", by="ann", reason=REASON)
    dead_letters.discard(letters[1].pk, resume=False, by="ann", reason=REASON)
    dead_letters.retry(letters[2].pk, by="ann")
    drain()
    Plan.raise_in = {}
    instances.cancel(Instance.objects.get(key=str(order())).pk, by="ann", reason=REASON)
    timers.fire(Timer.objects.filter(fired_at=None).first().pk, by="ann", reason=REASON)
    pauses.pause("tests.Order", by="ann", reason=REASON)
    Pause.objects.create(process="gone.Process", paused_at=now(), resumed_at=now())
    stranger = make_instance("order-9", status="failed", ended_at=now())
    make_transition(stranger, 1)
    make_transition(stranger, 2, state="no JSON", status="failed", kind="given_up")
    for status in ("pending", "waiting", "skipped", "unmatched", "handled", "discarded"):
        make_message(stranger, status=status)
    for status in ("pending", "dispatched", "done", "dead", "cancelled", "discarded"):
        make_command(stranger, status=status, dispatches=1, attempts=2)
    make_timer(stranger)
    make_instance("order-11", process="tests.Order", state_version=99)
    make_letter("order-10", place="correlate")
    Wakeup.objects.get_or_create(lane=1, defaults={"outstanding_until": now()})
    stopped = bulk.start("retry", {"process": "tests.Order"}, by="ann", reason=REASON)
    bulk.stop(stopped.pk, by="bob")
    bulk.start("discard_for_good", {"place": "correlate"}, by="ann", reason=REASON)


class ReadingVisitor(Visitor):
    """Reads what it visits."""

    def __init__(self, client: Client) -> None:
        super().__init__(client, times=0)
        self.reader = Reader(data())
        #: Each text, with the title of the first page that shows it.
        self.forgotten: dict[str, str] = {}

    def _ask(self, visit: Visit) -> Any:
        answer = super()._ask(visit)
        self._look_at(answer, visit.title)
        return answer

    def _on_the_page(self, visit: Visit, answer: Any) -> None:
        super()._on_the_page(visit, answer)
        # What a filter finds is said in the words of the whole list.
        self._found = [(title, url) for title, url in self._found if ": " not in title]

    def read(self, url: str) -> None:
        self._look_at(self.client.get(url), url)

    def _look_at(self, answer: Any, title: str) -> None:
        for text in self.reader.unmarked_on(answer.text):
            self.forgotten.setdefault(text, title)


@pytest.mark.django_db(transaction=True)
def test_every_page_says_nothing_but_data_and_what_is_marked(
    admin_client: Client,
    time: Time,
    spoken: None,
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
) -> None:
    settings.PM_CELERY = {
        "HEALTH": {"OPEN_LETTERS": 0, "INBOX": "1s", "OUTBOX": "1s", "TIMERS": "1s"}
    }
    monkeypatch.setattr(bulks, "send", lambda pk: None)
    fill(time)
    visitor = ReadingVisitor(admin_client)

    visits = list(visitor.visits())

    assert [visit.title for visit in visits if visit.status != 200] == []
    assert len(visits) > 100
    for row in (*Instance.objects.all(), *DeadLetter.objects.all()):
        visitor.read(page_url(row))
        visitor.read(page_url(row) + "?at=1")
    assert visitor.forgotten == {}


def test_whatever_an_operator_does_is_asked_and_answered_in_marked_words(
    admin_client: Client, spoken: None
) -> None:
    forgotten = {}
    for action in ACTIONS:
        for table in (DeadLetter, Timer, Pause, InboxMessage, Instance):
            table._default_manager.all().delete()
        row = row_for(action)
        asks = dict(action.asks)
        asked = act(admin_client, action.name, row, confirmed="", **asks)
        act(admin_client, action.name, row, **asks)
        # Nobody has read the first answer yet.
        texts = [text for _level, text in told(act(admin_client, action.name, row, **asks))]
        reader = Reader(data())
        assert texts, action
        forgotten[action] = reader.unmarked_on(asked.text) + reader.unmarked(texts)

    assert {action: found for action, found in forgotten.items() if found} == {}


def test_forms_and_what_is_wrong_with_them_are_in_marked_words(
    admin_client: Client, spoken: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter, timer = make_letter(), make_timer(make_instance("order-2"))
    send, letters = reverse("admin:pm_celery_inboxmessage_publish"), list_url(DeadLetter)
    note, edit = page_url(letter, "note"), page_url(letter, "edit")
    every = {"action": "retry", "_selected_action": letter.pk, "select_across": "1"}
    no_json = {"payload": "{", "reason": REASON}
    pages = [
        admin_client.get(send),
        admin_client.get(f"{send}?event=tests.Placed"),
        admin_client.post(f"{send}?event=tests.Placed", {"payload-order_id": "", "reason": ""}),
        admin_client.get(f"{send}?event=tests.Placed&as_json=1"),
        admin_client.post(f"{send}?event=tests.Placed&as_json=1", {"payload": "{"}),
        admin_client.get(note),
        admin_client.get(edit),
        admin_client.post(letters, every),
        admin_client.post(f"{letters}?status__exact=open&place=handler", every),
        act(admin_client, "move", timer, due_at="2001-01-01T12:00"),
        act(admin_client, "cancel", timer, reason=""),
    ]
    settings.PM_CELERY = {"EDIT_PAYLOADS": True}
    pages += [admin_client.get(edit), admin_client.post(edit, no_json)]
    monkeypatch.setattr(bulks, "send", lambda pk: None)
    answers = [
        admin_client.post(f"{letters}?status__exact=retried", every),
        admin_client.post(f"{letters}?died_at__gte=2001-01-01", every),
        admin_client.post(letters, {**every, "confirmed": "yes", "reason": REASON}),
        admin_client.post(note, {"note": "asked the bank"}),
        admin_client.post(list_url(Pause), {"action": "pause"}),
        act(admin_client, "stop", BulkAction.objects.get()),
    ]
    # pydantic's own words, and the parser's, are of no language but English.
    theirs = {"Field required", "Input should be a valid UUID"}
    theirs |= {"Expecting property name enclosed in double quotes", "line", "column", "char"}
    fields = {"order_id", "total", "died_at__gte"}
    reader = Reader(data() | theirs | fields)

    assert [page.status_code for page in pages] == [200] * len(pages)
    assert [found for page in pages if (found := reader.unmarked_on(page.text))] == []
    assert [answer.status_code for answer in answers] == [302] * len(answers)
    texts = {text for answer in answers for _level, text in told(answer)}
    assert len(texts) == len(answers)
    assert reader.unmarked(texts) == []
