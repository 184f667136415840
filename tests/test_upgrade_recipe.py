"""The recipes of docs/how-to/upgrades.md, tried; and what happens without them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pm_celery import ProcessManager, event, handle, publish
from pm_celery.checks import check_versions
from pm_celery.models import InboxMessage, Instance
from pm_celery.publishing import publish_named
from pm_celery.registry import isolated_registries
from tests.driving import drain

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]

PAGE = Path(__file__).parent.parent / "docs/how-to/upgrades.md"


def test_the_recipe_of_the_page_works(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    sent: list[tuple[Any, ...]] = []
    monkeypatch.setattr("celery.current_app.send_task", lambda *args: sent.append(args))
    names: dict[str, Any] = {"__name__": "shop.processes"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec", dont_inherit=True), names)
    order_id = str(uuid4())

    names["publish_from_elsewhere"]("e-1", order_id, 990)
    ((task, (name, payload, event_id), options),) = sent
    publish_named(name, payload, event_id, **options)
    drain()

    assert task == "pm_celery.publish"
    found = Instance.objects.get(process="shop.OrderFulfilment")
    assert (found.status, found.state_version) == ("completed", 2)
    assert json.loads(found.state) == {"order_id": order_id, "total": "9.9", "currency": "EUR"}
    assert check_versions() == []
    assert names["may_the_old_versions_go"]()
    InboxMessage.objects.update(version=1, status="dead")
    assert not names["may_the_old_versions_go"]()


def test_without_a_new_version_an_old_worker_drops_a_field_that_it_does_not_know() -> None:
    """Why the page says to raise it."""

    @event(name="recipe.Asked")
    class Asked:
        order: str

    def declare(*, knows: bool) -> None:
        class Order(ProcessManager):
            if knows:
                noted: str = ""

            class Meta:
                name = "recipe.order"
                correlate = "order"

            @handle(Asked, start=True)
            def asked(self, event: Any) -> None:
                if knows:
                    self.noted = "by the new release"

    states = []
    for knows in (True, False):
        with isolated_registries():
            declare(knows=knows)
            publish(Asked("o-1"))  # type: ignore[call-arg]
            drain()
            states.append(json.loads(Instance.objects.get().state))

    assert states == [{"noted": "by the new release"}, {}]
