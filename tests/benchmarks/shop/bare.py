"""A Celery task per event that does nothing but leave its line: no row, no lock, no order."""

from __future__ import annotations

from celery import shared_task

from tests.benchmarks.shop import effects


@shared_task
def receive(order_id: str, sequence: int) -> None:
    effects.note(f"event-{sequence}", order_id)
