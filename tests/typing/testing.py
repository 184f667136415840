"""What the types say of the testing kit with a database. Never run; mypy reads it."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.test import TestCase

from pm_celery.testing import ProcessManagers, ProcessManagersMixin
from tests.typing.usage import Fulfilment, Paid, Reserve


def test_an_order(process_managers: ProcessManagers) -> None:
    process_managers.elapse("7d")
    process_managers.outage(timedelta(hours=1))
    reserved: list[Reserve] = process_managers.commands(Reserve, status="done")
    paid: list[Paid] = process_managers.events(Paid, process=Fulfilment, key=7)
    wrong: list[Paid] = process_managers.commands(Reserve)  # type: ignore[arg-type]
    process: Fulfilment = process_managers.state(Fulfilment, "7")
    timers: dict[str, datetime] = process_managers.timers("shop.OrderFulfilment", "7")
    process_managers.publish(Paid(process.order_id), event_id="e1")  # type: ignore[arg-type]
    print(reserved, paid, wrong, timers, len(process.lines))  # noqa: T201


class OrderTests(ProcessManagersMixin, TestCase):
    def test_an_order(self) -> None:
        self.process_managers.drain(most_rounds=10)
        assert self.process_managers.instance(Fulfilment, "7").ended_at is None
