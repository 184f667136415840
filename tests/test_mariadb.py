"""What MariaDB lacks or limits, and what nobody shall notice of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.db import connection

from pm_celery import ProcessManager, clock, event, handle, publish_many
from pm_celery.models import InboxMessage, OutboxCommand
from pm_celery.statements import statements
from tests.driving import drain
from tests.test_plans import QUESTIONS

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.mariadb]

ORDER = UUID(int=7)


@event(name="mariadb.Reported")
class Reported:
    key: str
    text: str


@event(name="mariadb.Filled")
class Filled:
    key: str


class Report(ProcessManager):
    text: str = ""

    @handle(Reported, start=True, correlate="key")
    def reported(self, event: Reported) -> None: ...

    @handle(Filled, start=True, correlate="key")
    def filled(self, event: Filled) -> None:
        self.text = "x" * 400_000


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


def test_what_was_settled_is_not_read_again() -> None:
    """Its indexes hold settled rows too, for it has no partial ones. With the status not in front of them,
    each question reads all 500 rows that were settled, and would read a million."""
    long_ago = clock.now() - timedelta(days=1)
    InboxMessage.objects.bulk_create(
        InboxMessage(
            message_id=f"paid {number}",
            kind="event",
            name="tests.Paid",
            payload="{}",
            process="tests.Order",
            key=str(ORDER),
            partition=3,
            status="handled",
            due_at=long_ago,
            correlation_id="c",
            occurred_at=long_ago,
            published_at=long_ago,
            handled_at=long_ago,
        )
        for number in range(500)
    )
    OutboxCommand.objects.bulk_create(
        OutboxCommand(
            command_id=uuid4(),
            kind="command",
            name="tests.Ship",
            payload="{}",
            status="done",
            due_at=long_ago,
            correlation_id="c",
            issued_at=long_ago,
            settled_at=long_ago,
        )
        for _ in range(500)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE TABLE pm_celery_inboxmessage, pm_celery_outboxcommand")
        cursor.fetchall()

    of_instance = [("tests.Order", str(ORDER))]
    questions: dict[str, Callable[[], object]] = {
        "what is due in a partition": QUESTIONS["pm_inbox_due"],
        "what an instance has to handle": lambda: statements("default").read_open(
            "default", of_instance, clock.now(), 100, None
        ),
        "which commands are to be dispatched": QUESTIONS["pm_outbox_due"],
    }
    read = {name: rows_read(question) for name, question in questions.items()}
    assert max(read.values()) < 50, read


@pytest.fixture
def small_packets() -> Iterator[None]:
    """The server takes no statement of more than 4 MiB; its default is 16."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@GLOBAL.max_allowed_packet")
        [[before]] = cursor.fetchall()
        cursor.execute("SET GLOBAL max_allowed_packet = 4194304")
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
    """Counted by a thousand to a statement, events of 17 KB each would be refused by a server as it comes."""
    publish_many([Reported(str(number), "x" * 100_000) for number in range(100)])

    assert InboxMessage.objects.count() == 100


@pytest.mark.usefixtures("small_packets")
def test_a_batch_whose_states_are_more_than_one_statement_may_hold_is_recorded() -> None:
    """The server hangs up on a statement that is too long, which looks like a lost connection: repeated as
    such for ever, it would hold up all that comes after it."""
    publish_many([Filled(str(number)) for number in range(60)])
    drain()

    assert set(InboxMessage.objects.values_list("status", flat=True)) == {"handled"}
