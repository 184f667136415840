"""Every word on a page is marked for translation, or is data.

Found by asking for every page in a language that puts what is marked into brackets. Breaks that turned these
red: a heading without ``translate``; ``status`` shown in place of its label; a verb's message that is no lazy one.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils.timezone import now

import pm_celery
from pm_celery import bulks, publish
from pm_celery.models import DeadLetter, InboxMessage, Instance, Pause, Timer, Wakeup
from pm_celery.operations import bulk, dead_letters, instances, pauses, timers
from tests.benchmarks.paging.visits import Visit, Visitor
from tests.driving import Time, advance_all, drain
from tests.orders import Broken, Paid, Placed, Plan, Shipped
from tests.pseudo_locale import Reader, data_of, pseudo_locale
from tests.test_admin import (
    ACTIONS,
    PROCESS,
    REASON,
    Action,
    act,
    every_action,
    list_url,
    make_command,
    make_instance,
    make_letter,
    make_message,
    make_timer,
    make_transition,
    row_for,
    told,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]

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
        for text in self.reader.unmarked_on(answer.text):
            self.forgotten.setdefault(text, visit.title)
        return answer


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
    assert visitor.forgotten == {}
