"""The order as a team writes it by hand: a task per event, a lock, a transition row, ``on_commit``.

Written to be quick: one locking read, one insert and one update for an event, and Celery's default of
acknowledging early. Events carry a number, because tasks have no order of their own. One that comes too
early is retried in a moment, which costs nothing as long as none does; keeping early events in the row
instead would cost every event a column and the code to go through it.
"""

from __future__ import annotations

from functools import partial

from celery import Task, shared_task
from django.db import transaction

from tests.benchmarks.shop import effects
from tests.benchmarks.shop.models import Order, OrderTransition

_RETRY_SECONDS = 0.05


@shared_task(bind=True, max_retries=None)
def order_placed(self: Task, order_id: str, sequence: int) -> None:
    with transaction.atomic():
        if order := _in_turn(self, order_id, sequence):
            _record(order, sequence, "placed")
            transaction.on_commit(partial(reserve_stock.delay, order_id))


@shared_task(bind=True, max_retries=None)
def order_paid(self: Task, order_id: str, sequence: int, amount: int) -> None:
    with transaction.atomic():
        if order := _in_turn(self, order_id, sequence):
            order.paid = amount
            _record(order, sequence, "paid")
            transaction.on_commit(partial(ship_order.delay, order_id))


@shared_task(bind=True, max_retries=None)
def order_delivered(self: Task, order_id: str, sequence: int) -> None:
    with transaction.atomic():
        if order := _in_turn(self, order_id, sequence):
            _record(order, sequence, "delivered")


@shared_task
def reserve_stock(order_id: str) -> None:
    effects.note("ReserveStock", order_id)


@shared_task
def ship_order(order_id: str) -> None:
    effects.note("ShipOrder", order_id)


def _in_turn(task: Task, order_id: str, sequence: int) -> Order | None:
    """The order under its lock, or None for an event that was applied before.

    Raises Celery's ``Retry``, which rolls back, for an event that came too early.
    """
    order, _ = Order.objects.select_for_update().get_or_create(order_id=order_id)
    if sequence in order.seen:
        return None
    if sequence != len(order.seen) + 1:
        effects.note_retry()
        raise task.retry(countdown=_RETRY_SECONDS)
    return order


def _record(order: Order, sequence: int, status: str) -> None:
    order.status = status
    order.seen.append(sequence)
    order.save(update_fields=["status", "paid", "seen", "changed_at"])
    OrderTransition.objects.create(
        order=order,
        number=sequence,
        event=status,
        state={"status": status, "paid": order.paid, "seen": order.seen},
    )
