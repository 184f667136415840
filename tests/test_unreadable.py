"""``pm check``: what this code could not read of what is stored."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from pm_celery import ProcessManager, clock, event, handle, on_timer, publish
from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand, Timer
from pm_celery.operations.unreadable import Unreadable, unreadable
from pm_celery.publishing import publish_named
from pm_celery.registry import isolated_registries
from pm_celery.shell import asking
from tests.driving import advance_all, drain
from tests.releases import release
from tests.test_shell import pm

pytestmark = pytest.mark.django_db(transaction=True)


def found(**options: Any) -> list[tuple[str, str, bool]]:
    return [(row.kind, row.key, row.waits) for row in unreadable(**options)]


def test_what_an_older_release_stored_well_is_no_news() -> None:
    with release(1) as old:
        publish(old.Placed(order="o-1", cents=990))
        advance_all()
        publish(old.Asked("o-1"))

    with release(3):
        assert found() == []


def test_instances_that_this_code_could_not_load_are_told_with_the_reason() -> None:
    with release(2) as old:
        for key in ("o-1", "o-2", "o-3", "o-4", "o-5"):
            publish(old.Placed(order=key, total=Decimal(1)))
        drain()
    change("o-1", state='{"asked": 0, "total": "many", "currency": "EUR"}', state_version=3)
    change("o-2", state='{"asked": 0, "cents": -5}', state_version=1)
    change("o-3", state_version=4)
    change("o-4", process="releases.gone")
    InboxMessage.objects.all().delete()

    with release(3):
        rows = {row.key: row for row in unreadable()}

    assert rows.keys() == {"o-1", "o-2", "o-3", "o-4"}
    assert {row.kind for row in rows.values()} == {"instance"}
    assert {key for key, row in rows.items() if row.waits} == {"o-3", "o-4"}
    assert "UndecodableState: The stored state no longer validates" in rows["o-1"].text
    assert "raised ValueError: -5 cents?" in rows["o-2"].text
    assert "up to version 3, and not version 4" in rows["o-3"].text
    assert rows["o-4"].text == "this release declares no process releases.gone"


def change(key: str, **values: Any) -> None:
    Instance.objects.filter(key=key).update(**values)


def test_ended_instances_are_tried_only_if_somebody_asks() -> None:
    with release(2) as old:
        publish(old.Placed(order="o-1", total=Decimal(1)))
        drain()
    change("o-1", status="completed", ended_at=clock.now(), state="{", state_version=3)

    with release(3):
        assert found() == []
        assert found(ended=True) == [("instance", "o-1", False)]


def test_open_messages_commands_and_timers_that_could_not_be_decoded_are_told() -> None:
    with isolated_registries():

        @event(name="releases.Rung")
        class Rung:
            order: str

        class Alarm(ProcessManager):
            class Meta:
                name = "releases.alarm"
                correlate = "order"

            @handle(Rung, start=True)
            def rung(self, event: Any) -> None:
                self.set_timer("numbered", "1h", payload="seven")
                self.set_timer("gone", "1h")

            @on_timer("numbered")
            def numbered(self, payload: int) -> None: ...

            @on_timer("gone")
            def gone(self) -> None: ...

        publish(Rung("t-1"))  # type: ignore[call-arg]
        drain()
        Alarm.definition.timer_handlers.pop("gone")
        assert found() == [("timer", "t-1", False), ("timer", "t-1", True)]

    Timer.objects.all().delete()
    Instance.objects.all().delete()
    with release(1) as old:
        publish(old.Placed(order="o-1", cents=990))
        advance_all()
        publish(old.Placed(order="o-2", cents=-5))
    InboxMessage.objects.filter(process="releases.count").delete()
    OutboxCommand.objects.update(payload='{"order": "o-1", "cents": -5}')
    publish_named("releases.Nobody", {}, "e-1")
    publish_named("releases.Later", {}, "e-2", version=7)

    with release(3):
        rows = list(unreadable())

    assert Counter((row.kind, row.name, row.waits) for row in rows) == {
        ("message", "releases.Placed", False): 1,
        ("message", "releases.Nobody", True): 1,
        ("message", "releases.Later", True): 1,
        ("command", "releases.Charge", False): 1,
    }


def test_what_is_parked_behind_a_failure_is_tried_too() -> None:
    with release(1, "asked") as old:
        publish(old.Placed(order="o-1", cents=990))
        drain()
        publish(old.Asked("o-1"))
        publish(old.Placed(order="o-1", cents=-5))
        drain()
    assert InboxMessage.objects.get(status="parked").name == "releases.Placed"

    with release(3):
        assert found() == [("message", "o-1", False)]
        assert found(process="releases.other") == []


def test_a_table_is_gone_through_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pm_celery.walking.PORTION", 3)
    monkeypatch.setattr("pm_celery.operations.unreadable._AT_ONCE", 2)
    with release(2) as old:
        for number in range(7):
            publish(old.Placed(order=f"o-{number}", total=Decimal(1)))
        drain()
        for number in range(7):
            publish(old.Asked(f"o-{number}"))
    Instance.objects.update(state="{")
    InboxMessage.objects.filter(name="releases.Asked").update(payload="{", partition=3)
    looked_at: list[int] = []

    with release(2), CaptureQueriesContext(connection) as queries:
        rows = list(unreadable(looked_at=looked_at.append))

    assert Counter(row.kind for row in rows) == {"instance": 7, "message": 7}
    assert len({(row.kind, row.id) for row in rows}) == 14
    assert sum(looked_at) == 14
    assert len(queries) < 40


def test_pm_check_lists_them_and_ends_with_1() -> None:
    with release(2) as old:
        for key in ("o-1", "o-2", "o-3"):
            publish(old.Placed(order=key, total=Decimal(1)))
        drain()
    assert DeadLetter.objects.count() == 0
    Instance.objects.update(state_version=9)

    with release(3):
        told = pm("check", "--process", "releases.order")
        listed = pm("check", "--json", "--limit", 2)
        without = pm("check", "--json", "--no-rows")
        unknown = pm("check", "--process", "releases.ordr")

    assert told.code == listed.code == asking.REFUSED
    assert told.out.count("and not version 9") == 3
    assert "It would wait for a release that knows it." in told.out
    rows = [one for one in listed.document if one["id"] == "unreadable"]
    assert len(rows) == 2
    assert rows[0]["level"] == "error"
    assert rows[0]["row"].keys() == set(Unreadable.__dataclass_fields__) - {"text"}
    assert "There may be more" in listed.err
    assert [one for one in without.document if one["id"] == "unreadable"] == []
    assert (unknown.code, "Did you mean 'releases.order'?" in unknown.err) == (asking.USAGE, True)
