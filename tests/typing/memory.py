"""What the types say of the testing kit in memory. Never run; mypy reads it."""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

from pm_celery.testing import Report, Scenario, explore, given
from tests.typing.usage import Fulfilment, Paid, Reserve


def nobody_owes(order: Scenario[Fulfilment]) -> bool:
    return len(order.state.lines) == 0


def use() -> Report:
    order: Scenario[Fulfilment] = given(Fulfilment, raises=ValueError).when(Paid(uuid4()))
    order.failing(Reserve, times=2, error=OSError).elapse("7d").retry().expect(status="started")
    due: dict[str, datetime] = order.timers
    lines: list[str] = order.state.lines
    order.state.lnes  # type: ignore[attr-defined]  # noqa: B018
    given(Paid)  # type: ignore[type-var]
    print(due, lines)  # noqa: T201
    return explore(Fulfilment, [Paid(uuid4())], causes={Paid: Reserve}, invariants=[nobody_owes])
