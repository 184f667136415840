"""Rows: how many bytes of disk each takes, indexes included, once it is settled."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from django.db import connection
from django.db.models import Model

from pm_celery import clock, execution
from pm_celery.models import InboxMessage, Instance, OutboxCommand, Timer, Transition
from tests.benchmarks.checking import expect
from tests.benchmarks.growing.common import check_settled, drain
from tests.benchmarks.growing.figures import Figure, Sizes
from tests.benchmarks.stage import Stage
from tests.benchmarks.traffic import EVENTS_PER_ORDER, interleaved, order_ids
from tests.benchmarks.variants import PmCelery

__all__ = ["run"]

_ORDERS = 20_000
_COMMANDS_PER_ORDER = 2
_BLOCK = 100
_TEXTS = {InboxMessage: "payload", Instance: "state", Transition: "state", OutboxCommand: "payload"}


def run(stage: Stage, sizes: Sizes) -> Iterator[Figure]:
    orders = sizes(_ORDERS)
    effects = stage.reset()
    ids = order_ids("rows", orders)
    variant = PmCelery()
    variant.put_backlog(interleaved(ids, _BLOCK))
    drain()
    commands = OutboxCommand.objects.order_by("id").values_list("command_id", flat=True)
    for start in range(0, orders * _COMMANDS_PER_ORDER, 500):
        execution.run_each([str(found) for found in commands[start : start + 500]])
    check_settled()
    variant.check(ids, effects)
    _add_timers()
    total = 0.0
    for model, each in (
        (Instance, 1),
        (Transition, EVENTS_PER_ORDER),
        (InboxMessage, EVENTS_PER_ORDER),
        (OutboxCommand, _COMMANDS_PER_ORDER),
        (Timer, 1),
    ):
        rows = model._default_manager.count()
        expect(f"rows of {model.__name__}", orders * each, rows)
        table, indexes = _size(model)
        yield Figure("rows", f"{model.__name__}, its row", table / rows, "B")
        yield Figure("rows", f"{model.__name__}, its indexes", indexes / rows, "B")
        if column := _TEXTS.get(model):
            yield Figure(
                "rows", f"{model.__name__}, of that its {column}", _text(model, column), "B"
            )
        if model is not Timer:
            total += table + indexes
    yield Figure("rows", "an order, all rows", total / orders, "B")
    yield Figure("rows", "an event, all that it leaves", total / orders / EVENTS_PER_ORDER, "B")


def _add_timers() -> None:
    """One for each instance, as its handler would have set it."""
    due = clock.now() + timedelta(days=30)
    instances = Instance.objects.only("correlation_id")
    Timer.objects.bulk_create(
        [
            Timer(
                instance=instance,
                name="reminder",
                due_at=due,
                correlation_id=instance.correlation_id,
                causation_id=instance.correlation_id,
            )
            for instance in instances
        ],
        batch_size=1000,
    )


def _size(model: type[Model]) -> tuple[int, int]:
    """Bytes of a table and of its indexes, with the room that changed rows have left in them."""
    name = model._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"VACUUM {name}")
        cursor.execute("SELECT pg_table_size(%s), pg_indexes_size(%s)", [name, name])
        table, indexes = cursor.fetchone()
    return table, indexes


def _text(model: type[Model], column: str) -> float:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT avg(octet_length({column})) FROM {model._meta.db_table}")
        return float(cursor.fetchone()[0])
