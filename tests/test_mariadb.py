"""What MariaDB lacks or limits, and what nobody shall notice of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from django.db import connection
from django.db.models import F

from pm_celery import ProcessManager, clock, event, handle, publish, publish_many
from pm_celery.models import InboxMessage, OutboxCommand
from pm_celery.statements import statements
from tests.driving import drain
from tests.orders import Paid, Placed
from tests.test_plans import QUESTIONS

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.mariadb]

ORDER = UUID(int=7)


@event(name="mariadb.Reported")
class Reported:
    key: str
    text: str


class Report(ProcessManager):
    @handle(Reported, start=True, correlate="key")
    def reported(self, event: Reported) -> None: ...


def rows_read(question: Callable[[], object]) -> int:
    """How many rows and index entries the server looks at for it."""

    def so_far() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
            return sum(int(value) for _, value in cursor.fetchall())

    # Asking costs some reads of its own, always as many.
    first = so_far()
    asking = so_far() - first
    before = so_far()
    question()
    return so_far() - before - asking


@pytest.mark.parametrize("index", ["pm_inbox_due", "pm_inbox_of_instance", "pm_outbox_due"])
def test_what_was_settled_is_not_read_again(index: str) -> None:
    """Its indexes hold settled rows too, for it has no partial ones. With the status last in them, or not in
    them at all, 1,500 handled events of one order are read for every one that comes."""
    publish(Placed(order_id=ORDER))
    publish_many([Paid(order_id=ORDER) for _ in range(1500)])
    drain()
    assert not InboxMessage.objects.open().exists()
    # In one partition and due long ago, as what comes now is not.
    InboxMessage.objects.update(partition=3, due_at=F("due_at") - timedelta(days=1))
    OutboxCommand.objects.update(due_at=F("due_at") - timedelta(days=1))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE TABLE pm_celery_inboxmessage, pm_celery_outboxcommand")
        cursor.fetchall()
    questions = {
        **QUESTIONS,
        "pm_inbox_of_instance": lambda: statements("default").read_open(
            "default", [("tests.Order", str(ORDER))], clock.now(), 100, None
        ),
    }

    assert rows_read(questions[index]) < 100


@pytest.fixture
def small_packets() -> Iterator[None]:
    """The server takes no statement of more than 1 MiB; its default is 16."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@GLOBAL.max_allowed_packet")
        [[before]] = cursor.fetchall()
        cursor.execute("SET GLOBAL max_allowed_packet = 1048576")
    connection.close()
    try:
        yield
    finally:
        connection.close()
        with connection.cursor() as cursor:
            cursor.execute("SET GLOBAL max_allowed_packet = %s", [before])
        connection.close()


@pytest.mark.usefixtures("small_packets")
def test_more_events_are_published_at_once_than_one_statement_may_hold() -> None:
    """Counted by a thousand to a statement, events of 17 KB would be refused by a server as it comes."""
    publish_many([Reported(str(number), "x" * 20_000) for number in range(100)])

    assert InboxMessage.objects.count() == 100
