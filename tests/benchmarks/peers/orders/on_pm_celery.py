"""The orders on pm_celery.

Used: a process manager and two command handlers; one Celery worker with two pool processes, a Beat,
Redis as broker and PostgreSQL; each event is published with a `publish` of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from orders.shop.celery import app
from orders.workload import Client, Job, measure

APP = "orders.shop.celery"


class PmCelery(Client):
    module = "orders.on_pm_celery"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        app.set_default()
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)

    def worker_commands(self) -> Sequence[Sequence[str]]:
        celery = ("-m", "celery", "-A", APP)
        schedule = Path(self.job.folder, "beat")
        return [
            (*celery, "worker", f"--concurrency={self.job.workers}", "--loglevel=WARNING"),
            (*celery, "beat", f"--schedule={schedule}", "--pidfile=", "--loglevel=WARNING"),
        ]

    def place(self, order_id: str) -> None:
        from orders.shop.processes import OrderPlaced

        from pm_celery import publish

        publish(OrderPlaced(UUID(order_id)))

    def pay(self, order_id: str) -> None:
        from orders.shop.processes import OrderPaid

        from pm_celery import publish

        publish(OrderPaid(UUID(order_id)))

    def deliver(self, order_id: str) -> None:
        from orders.shop.processes import OrderDelivered

        from pm_celery import publish

        publish(OrderDelivered(UUID(order_id)))

    def ended(self) -> int:
        from pm_celery.models import Instance

        return Instance.objects.filter(status="completed").count()


if __name__ == "__main__":
    measure(PmCelery(Job.given()))
