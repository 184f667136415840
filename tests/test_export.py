"""The export: one line for each instance, with all that belongs to it, in the same memory for any number."""

from __future__ import annotations

import io
import json
import re
import tracemalloc
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command

from pm_celery import clock, export, publish
from pm_celery.models import Instance, Timer, Transition
from pm_celery.operations import timers
from tests.driving import Time, drain
from tests.orders import Paid, Placed, Plan, Shipped

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).parent.parent


def archived(number: int, size: int = 0) -> None:
    """So many instances, each with a transition and a state of so many bytes."""
    now = clock.now()
    rows = Instance.objects.bulk_create(
        Instance(
            process="archive.Loan",
            key=str(nth),
            partition=0,
            status="completed",
            state=json.dumps("x" * size),
            number=1,
            correlation_id="c",
            started_at=now,
            changed_at=now,
            ended_at=now,
        )
        for nth in range(number)
    )
    Transition.objects.bulk_create(
        Transition(
            instance=row,
            number=1,
            kind="event",
            name="archive.Begun",
            state=row.state,
            status="completed",
            correlation_id="c",
            attempt=1,
            recorded_at=now,
        )
        for row in rows
    )


def test_a_line_has_all_that_belongs_to_an_instance_with_the_keys_that_are_documented(
    time: Time,
) -> None:
    """Break: a key more, or less, than docs/how-to/retention.md says."""
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    timers.move(Timer.objects.get().pk, clock.now() + timedelta(days=3), by="ann")
    Plan.raise_in = {"paid": KeyError("x")}
    publish(Paid(order_id=order_id))
    drain()

    (found,) = export.exported()

    page = (ROOT / "docs/how-to/retention.md").read_text()
    told = {
        keys[0]: keys
        for keys in (
            re.findall(r"`(\w+)`", line) for line in page.splitlines() if line[:3] == "| `"
        )
    }
    own = told.pop("process")
    assert list(found) == [*own[: own.index("timeout_at") + 1], *told]
    for name, (_, *keys) in told.items():
        assert found[name], name
        for row in found[name]:
            assert list(row) == keys
    step = found["transitions"][0]
    assert step["payload"] == {"order_id": str(order_id), "total": "9.90"}
    assert step["state"]["total"] == "9.90"
    assert step["commands"][0] == [found["commands"][0]["command_id"], "tests.Reserve"]
    assert json.loads(export.as_line(found)) == found


def test_instances_are_chosen_by_process_status_and_when_they_changed() -> None:
    archived(3)
    orders = [uuid4() for _ in range(2)]
    for order_id in orders:
        publish(Placed(order_id=order_id))
    drain()
    publish(Shipped(order_id=orders[0]))
    drain()
    long_ago, now = clock.now() - timedelta(days=1), clock.now()

    def keys(**chosen: Any) -> list[str]:
        return [document["key"] for document in export.exported(**chosen)]

    assert keys(process="archive.Loan") == ["0", "1", "2"]
    assert keys(process="tests.Order", statuses=["completed"]) == [str(orders[0])]
    assert len(keys()) == len(keys(since=long_ago)) == len(keys(until=now)) == 5
    assert keys(until=long_ago) == keys(since=now + timedelta(hours=1)) == []


def test_an_export_takes_the_same_memory_for_any_number_of_instances() -> None:
    """Break: documents made into a list before the first one is written."""

    def peak() -> int:
        out = io.StringIO()
        out.write = lambda text: len(text)  # type: ignore[method-assign, assignment]
        tracemalloc.start()
        call_command("pm", "export", stdout=out, stderr=io.StringIO())
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    archived(200, size=4000)
    peak()  # what is imported and cached by the first one
    few = peak()
    Instance.objects.all().delete()
    Transition.objects.all().delete()
    archived(2000, size=4000)

    assert peak() < 1.5 * few + 200_000


@pytest.mark.parametrize(
    "text",
    ["[1e999]", "NaN", "not json", "[" * 100_000, "9" * 5000, "[" * 900 + "]" * 900],
    ids=["infinite", "nan", "text", "unclosed", "long", "deep"],
)
def test_what_json_cannot_write_again_is_exported_as_its_text(text: str) -> None:
    archived(1)
    Instance.objects.update(state=text)

    (found,) = export.exported()

    state = json.loads(export.as_line(found), parse_constant=pytest.fail)["state"]
    # How deep a nesting json reads but does not write differs from Python to Python.
    assert state == text or (text.startswith("[[") and json.dumps(state) == text)
    call_command("pm", "show", str(found["id"]), stdout=io.StringIO())
