"""Retention: what has ended goes when its time is over, with all that belongs to it, and nothing else does.

Breaks that turned these red are named in the tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from pm_celery import checks, clock, publish, publish_many, retention, walking
from pm_celery.conf import read_settings
from pm_celery.exceptions import SettingsError
from pm_celery.models import (
    DeadLetter,
    FailedAttempt,
    Heartbeat,
    InboxMessage,
    Instance,
    Intervention,
    OutboxCommand,
    Tally,
    Timer,
    Transition,
)
from pm_celery.operations import dead_letters, instances, pauses, pruning
from pm_celery.retention import prune
from tests.driving import Time, drain
from tests.orders import Paid, Placed, Plan, Shipped
from tests.test_plans import plan_of

pytestmark = pytest.mark.django_db(transaction=True)

ORDER = "tests.Order"
EVERYTHING = (
    DeadLetter,
    FailedAttempt,
    InboxMessage,
    Instance,
    Intervention,
    OutboxCommand,
    Timer,
    Transition,
)


def ended(
    number: int, process: str = "archive.Loan", status: str = "completed", apart: float = 0
) -> None:
    """So many instances that ended just now, so many seconds apart."""
    now = clock.now()
    Instance.objects.bulk_create(
        Instance(
            process=process,
            key=str(uuid4()),
            partition=0,
            status=status,
            state="{}",
            number=0,
            correlation_id="c",
            started_at=now,
            changed_at=now,
            ended_at=now + timedelta(seconds=apart * nth),
        )
        for nth in range(number)
    )


def left() -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for row in Instance.objects.values_list("process", "status"):
        found[row] = found.get(row, 0) + 1
    return found


def test_each_process_and_status_is_kept_for_as_long_as_its_rule_says(
    settings: Any, time: Time
) -> None:
    """Breaks: the process' own default before its status; `_is_due` that compares with any age."""
    settings.PM_CELERY = {
        "RETENTION": {
            "default": {"default": "90d", "failed": None},
            "archive.Loan": {
                "default": "2d",
                "completed": "365d",
                "cancelled": "1d",
                "failed": None,
            },
            "archive.Note": "7d",
            "archive.Deed": None,
        }
    }
    for process in ("archive.Loan", "archive.Note", "archive.Deed", "archive.Other"):
        for status in ("completed", "cancelled", "failed"):
            ended(2, process, status)

    removed = {}
    for age in ("25h", "8d", "91d", "366d"):
        with clock.travel(read_settings({"RETENTION": age}).retention.ages[0]):
            before = left()
            prune()
            removed[age] = sorted(before.keys() - left().keys())

    assert removed == {
        "25h": [("archive.Loan", "cancelled")],
        "8d": [("archive.Note", status) for status in ("cancelled", "completed", "failed")],
        "91d": [("archive.Other", "cancelled"), ("archive.Other", "completed")],
        "366d": [("archive.Loan", "completed")],
    }
    assert set(left()) == {
        *(("archive.Deed", status) for status in ("cancelled", "completed", "failed")),
        ("archive.Loan", "failed"),
        ("archive.Other", "failed"),
    }


@pytest.mark.parametrize("portion", [1, 7, 5000])
@pytest.mark.parametrize("batch", [1, 500])
def test_instances_that_ended_in_the_same_moment_are_all_removed_whatever_the_portion(
    portion: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break: `>` for `>=` behind a portion that ended among equals."""
    monkeypatch.setattr(walking, "PORTION", portion)
    for _ in range(3):
        ended(5)

    with clock.travel(timedelta(days=2)):
        assert prune("1d", batch=batch) == 15
    assert left() == {}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """How many rows of instances a prune looks at."""
    monkeypatch.setattr(walking, "PORTION", 10)

    def of_prune() -> int:
        with CaptureQueriesContext(connection) as captured:
            prune()
        asked = [q["sql"] for q in captured if "ended_at" in q["sql"] and "LIMIT 10" in q["sql"]]
        return len(asked)

    return of_prune


def test_what_is_kept_for_ever_is_not_looked_at_again_by_every_prune(
    settings: Any, time: Time, reads: Any
) -> None:
    """Break: no mark set after a portion."""
    settings.PM_CELERY = {"RETENTION": {"default": "30d", "archive.Loan": None}}
    ended(95, apart=1)
    time.enter_context(clock.travel(timedelta(days=31)))
    assert reads() == 10

    time.enter_context(clock.travel(timedelta(hours=1)))
    assert reads() <= 2
    ended(20, "archive.Note")
    time.enter_context(clock.travel(timedelta(hours=1)))
    assert reads() <= 2
    time.enter_context(clock.travel(timedelta(days=1)))
    assert reads() == 10

    settings.PM_CELERY = {"RETENTION": {"default": "30d", "archive.Loan": "20d"}}
    prune()
    assert left() == {("archive.Note", "completed"): 20}
    assert Heartbeat.objects.filter(name__startswith="prune ").count() <= 4


def test_an_instance_with_an_open_letter_or_an_unsettled_command_is_spared_until_these_are_settled(
    settings: Any, time: Time
) -> None:
    """Breaks: either of the two left out of `spared`; no walk through all of it each day."""
    settings.PM_CELERY = {"RETENTION": "30d"}
    with_letter, with_command = uuid4(), uuid4()
    publish_many([Placed(order_id=with_letter), Placed(order_id=with_command)])
    drain()
    Plan.raise_in["ship"] = KeyError("x")
    publish(Paid(order_id=with_letter))
    drain()
    time.elapse("1m")
    publish_many([Shipped(order_id=with_letter), Shipped(order_id=with_command)])
    drain()
    OutboxCommand.objects.filter(key=str(with_command)).update(
        status="dispatched", settled_at=None, due_at=clock.now() + timedelta(days=999)
    )
    time.enter_context(clock.travel(timedelta(days=31)))
    assert prune() == 0
    assert pruning.prune(dry_run=True).spared == 2

    dead_letters.discard(DeadLetter.objects.get().pk)
    OutboxCommand.objects.filter(status="dispatched").update(status="done", settled_at=clock.now())
    time.enter_context(clock.travel(timedelta(hours=25)))
    assert prune() == 2


def test_with_the_last_instance_nothing_is_left_of_what_belonged_to_it(time: Time) -> None:
    """Failed runs, letters, what operators did, skipped and unmatched events, a policy's command.

    Breaks: failed attempts, interventions without an instance, or sums of nothing left where they were.
    """
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    Plan.raise_in["reserve"] = ValueError("once")
    drain()
    Plan.raise_in = {"paid": KeyError("for good")}
    publish(Paid(order_id=order_id))
    drain()
    dead_letters.discard(DeadLetter.objects.get().pk, by="ann")
    publish(Shipped(order_id=uuid4()))  # unmatched
    Plan.raise_in = {}
    time.elapse("2m")
    instances.cancel(Instance.objects.get().pk, by="ann")
    publish(Paid(order_id=order_id))  # skipped
    pauses.pause(ORDER)
    pauses.resume(ORDER)
    drain()
    for letter in DeadLetter.objects.open():
        dead_letters.discard(letter.pk)
    assert FailedAttempt.objects.exists()
    assert Intervention.objects.filter(instance=None).exists()

    time.elapse("31d")
    retention.remove("30d")

    assert {model.__name__: model._default_manager.count() for model in EVERYTHING} == {
        model.__name__: 0 for model in EVERYTHING
    }
    assert not Tally.objects.filter(period=0, count=0, seconds=0).exists()


def test_a_dry_run_says_what_would_go_and_leaves_it(time: Time) -> None:
    ended(3), ended(2, status="failed"), ended(4, "archive.Note")
    time.elapse("2d")

    would = pruning.prune("1d", process="archive.Loan", dry_run=True)

    assert would.instances == {
        ("archive.Loan", "completed"): 3,
        ("archive.Loan", "failed"): 2,
    }
    assert Instance.objects.count() == 9
    assert not Intervention.objects.exists()
    assert pruning.prune("1d", process="archive.Loan", status="failed", by="ann").total == 2
    assert pruning.prune("1d", status="completed").total == 7
    told = Intervention.objects.order_by("pk")[0]
    assert (told.verb, told.by, told.subject) == ("prune", "ann", "2 instances and 0 other rows")


# -- exported before --------------------------------------------------------------------------------


def test_a_crash_between_export_and_removal_exports_again_and_loses_nothing(
    settings: Any, time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Breaks: the export after the removal's commit; a file that has its name before it is whole."""
    folder = tmp_path / "kept"
    settings.PM_CELERY = {"RETENTION": "1d", "EXPORT_BEFORE_PRUNE": str(folder)}
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    publish(Shipped(order_id=order_id))
    drain()
    ended(120)
    time.elapse("2d")

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pm_celery.removal._delete_all_of", dies)
        with pytest.raises(KeyboardInterrupt):
            prune()
    assert Instance.objects.count() == 121
    assert prune() == 121

    files = sorted(folder.rglob("*"))
    lines = [json.loads(line) for file in folder.rglob("*.jsonl") for line in file.open()]
    assert not [file for file in files if file.name.endswith(".unfinished")]
    assert len({line["id"] for line in lines}) == 121 < len(lines)
    order = next(line for line in lines if line["key"] == str(order_id))
    assert order["transitions"][0]["name"] == "tests.Placed"
    assert order["transitions"][0]["payload"]["order_id"] == str(order_id)
    assert [command["name"] for command in order["commands"]] == ["tests.Reserve"]


kept: list[dict[str, Any]] = []


def keep(found: list[dict[str, Any]]) -> None:
    kept.extend(found)


def refuse(found: list[dict[str, Any]]) -> None:
    raise OSError("the archive is full")


def test_an_instance_is_only_removed_once_the_projects_function_has_returned(
    settings: Any, time: Time
) -> None:
    kept.clear()
    ended(3)
    time.elapse("2d")
    settings.PM_CELERY = {"EXPORT_BEFORE_PRUNE": "tests.test_retention.refuse"}
    with pytest.raises(OSError, match="full"):
        prune("1d")
    assert Instance.objects.count() == 3

    settings.PM_CELERY = {"EXPORT_BEFORE_PRUNE": "tests.test_retention.keep"}
    assert prune("1d") == 3
    assert {document["process"] for document in kept} == {"archive.Loan"}
    assert len(kept) == 3


# -- the settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"default": "90"}, "no duration"),
        ({"shop.Loan": {"complete": "1d"}}, "did you mean 'completed'"),
        ({"shop.Loan": {"started": "1d"}}, "never removed"),
        ({"shop.Loan": {"zzz": "1d"}}, "completed, timed_out, failed, cancelled, default"),
        ({"completed": "1d"}, "'completed' is a status"),
        ({7: "1d"}, "no name of a process"),
    ],
)
def test_a_retention_that_is_mistyped_is_told_with_its_remedy(given: Any, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        read_settings({"RETENTION": given})


def test_checks_name_an_unknown_process_and_a_function_that_is_not_there(settings: Any) -> None:
    settings.PM_CELERY = {"RETENTION": {"tests.Oder": "1d"}}
    found = [m for m in checks.check_settings() if m.id == "pm_celery.W050"]
    assert [m.hint for m in found] == ["Did you mean 'tests.Order'?"]

    settings.PM_CELERY = {"EXPORT_BEFORE_PRUNE": "tests.test_retention.kepe"}
    (error,) = checks.check_settings()
    assert error.id == "pm_celery.E030"
    assert "kepe" in error.msg


WALKS: dict[str, tuple[Any, str]] = {
    "pm_instance_ended_before": (Instance, "ended_at"),
    "pm_inbox_settled_before": (InboxMessage, "handled_at"),
    "pm_outbox_settled_before": (OutboxCommand, "settled_at"),
}


@pytest.mark.parametrize("index", WALKS)
def test_each_portion_of_a_prune_is_read_by_the_index_made_for_it(index: str) -> None:
    """Break: portions in the order of ids."""
    ids = [uuid4() for _ in range(30)]
    publish_many([Placed(order_id=order_id) for order_id in ids])
    drain()
    publish_many([Shipped(order_id=order_id) for order_id in ids])
    drain()
    model, column = WALKS[index]

    def third_portion() -> None:
        rows = model._default_manager.filter(**{f"{column}__lt": clock.now()})
        walk = walking.portions(rows, column, "process", size=3)
        for _ in range(3):
            next(walk)

    plan = plan_of(third_portion)

    assert index in plan
    # SQLite's words for a sort of all that the index finds.
    assert "TEMP B-TREE FOR ORDER BY" not in plan
