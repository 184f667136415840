"""The database uses the index that was made for each of the engine's questions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction

from pm_celery import clock, publish_many
from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand, Timer
from pm_celery.statements import statements
from tests.driving import advance_all, drain
from tests.orders import Placed

pytestmark = pytest.mark.django_db(transaction=True)

QUESTIONS: dict[str, Callable[[], object]] = {
    "pm_inbox_due": lambda: statements("default").claim(
        "default",
        16,
        [3, 4],
        [],
        clock.now(),
        100,
        [1],
        *[clock.now()] * 3,
    ),
    "pm_inbox_of_instance": lambda: statements("default").read_open(
        "default", [("tests.Order", "x")], clock.now(), 100, None
    ),
    "pm_inbox_skipped": lambda: list(InboxMessage.objects.skipped_of("tests.Order", "x")[:100]),
    "pm_instance_correlation": lambda: list(Instance.objects.filter(correlation_id="x")),
    "pm_outbox_due": lambda: list(OutboxCommand.objects.due(clock.now())[:100]),
    "pm_celery_outboxcommand_command_id_key": lambda: statements("default").take_commands(
        "default", [uuid4(), uuid4()]
    ),
    "pm_timer_due": lambda: list(Timer.objects.due(clock.now())[:100]),
    "pm_instance_timeout_passed": lambda: list(Instance.objects.timeout_passed(clock.now())[:100]),
    "pm_instance_ended_before": lambda: list(Instance.objects.ended_before(clock.now())[:100]),
    "pm_instance_key_once": lambda: statements("default").lock_instances(
        "default", [("tests.Order", "x", 3)], clock.now(), None
    ),
    "pm_letter_open": lambda: list(DeadLetter.objects.open().order_by("-died_at")[:100]),
}


# What others call the indexes that unique columns have of themselves.
ELSEWHERE = {
    "sqlite": {
        "pm_instance_key_once": "sqlite_autoindex_pm_celery_instance",
        "pm_celery_outboxcommand_command_id_key": "sqlite_autoindex_pm_celery_outboxcommand",
    },
    "mysql": {
        "pm_celery_outboxcommand_command_id_key": "command_id",
        # There the other one, with the status in front, does as well.
        "pm_inbox_skipped": "pm_inbox_",
    },
    "postgresql": {},
}


def plan_of(question: Callable[[], object]) -> str:
    """The plan of the last statement that the question asks, with its parameters as parameters: SQLite
    cannot use a partial index whose condition it gets as one."""
    asked: list[tuple[str, Any]] = []

    def listen(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        asked.append((sql, params))
        return execute(sql, params, many, context)

    with transaction.atomic(), connection.cursor() as cursor:
        with connection.execute_wrapper(listen):
            question()
        if connection.vendor == "postgresql":
            # Without what autovacuum has learnt from earlier tests, which TRUNCATE leaves; rolled back.
            for table in set(re.findall(r'FROM "(pm_celery_\w+)"', asked[-1][0])):
                cursor.execute("DELETE FROM pg_statistic WHERE starelid = %s::regclass", [table])
            # The tables are small here; what could not use the index would scan all the same.
            cursor.execute("SET LOCAL enable_seqscan TO off")
        explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
        cursor.execute(f"{explain} {asked[-1][0]}", asked[-1][1])
        if connection.vendor != "mysql":
            plan = str(cursor.fetchall())
            transaction.set_rollback(True)
            return plan
        # Of MariaDB's columns only the index that it uses, not those that it thought of.
        columns = [column[0] for column in cursor.description]
        rows = cursor.fetchall()
        return str([row[columns.index("key")] for row in rows])


@pytest.mark.parametrize("index", QUESTIONS)
def test_each_question_of_the_engine_uses_the_index_made_for_it(index: str) -> None:
    publish_many([Placed(order_id=uuid4()) for _ in range(50)])
    drain()

    plan = plan_of(QUESTIONS[index])

    assert ELSEWHERE[connection.vendor].get(index, index) in plan


@pytest.mark.postgresql
@pytest.mark.parametrize("index", ["pm_inbox_due", "pm_inbox_of_instance"])
def test_statistics_of_a_quiet_hour_lead_to_no_other_index(index: str) -> None:
    """Analyzed while nothing was open, both indexes seem empty; then a backlog comes."""
    publish_many([Placed(order_id=uuid4()) for _ in range(2000)])
    drain()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE pm_celery_inboxmessage")
    publish_many([Placed(order_id=uuid4()) for _ in range(2000)])

    assert index in plan_of(QUESTIONS[index])

    # Nor may it ever: costs are so near to each other then that chance decides.
    other = ({"pm_inbox_due", "pm_inbox_of_instance"} - {index}).pop()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"DROP INDEX {index}")
        plan = plan_of(QUESTIONS[index])
        transaction.set_rollback(True)
    assert other not in plan


@pytest.mark.postgresql
def test_statistics_of_a_quiet_hour_do_not_let_a_command_read_all_that_are_open() -> None:
    """Each of a thousand dispatched commands once read all thousand, by the index of what is due."""
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE pm_celery_outboxcommand")
    publish_many([Placed(order_id=uuid4()) for _ in range(300)])
    advance_all()
    question = QUESTIONS["pm_celery_outboxcommand_command_id_key"]

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "ALTER TABLE pm_celery_outboxcommand DROP CONSTRAINT "
            "pm_celery_outboxcommand_command_id_key"
        )
        plan = plan_of(question)
        transaction.set_rollback(True)

    assert "pm_outbox_due" not in plan
