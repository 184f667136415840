"""``manage.py pm``: what admins do on pages, from a shell, for people and for scripts."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from pm_celery import clock, command, publish
from pm_celery.management.commands.pm import Command
from pm_celery.models import (
    BulkAction,
    DeadLetter,
    InboxMessage,
    Instance,
    Intervention,
    OutboxCommand,
    Pause,
    Timer,
)
from pm_celery.operations.diagram import diagram, road
from pm_celery.operations.overview import overview
from pm_celery.shell import asking, printing
from tests.driving import Worker, advance_all, drain
from tests.orders import Paid, Placed, Plan, Shipped

pytestmark = pytest.mark.django_db(transaction=True)

ORDER = "tests.Order"
HOSTILE = "no \x1b[31mmoney\n\u202emore"


class Hostile(KeyError):
    """An error that is never retried; a KeyError's own text is a repr."""

    def __str__(self) -> str:
        return HOSTILE


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


def pm(*args: object, **options: Any) -> Ran:
    out, err = io.StringIO(), io.StringIO()
    code = 0
    try:
        call_command("pm", *map(str, args), stdout=out, stderr=err, **options)
    except SystemExit as ended:
        code = int(ended.code or 0)
    except CommandError as error:
        code = error.returncode
        err.write(str(error))
    return Ran(code, out.getvalue(), err.getvalue())


def orders(count: int, *, fail: int = 0) -> list[UUID]:
    """So many orders, of which the last ones failed. One drain for all: it goes through all partitions."""
    keys = [uuid4() for _ in range(count)]
    for key in keys:
        publish(Placed(order_id=key))
    drain()
    if fail:
        Plan.raise_in = {"paid": Hostile()}
        for key in keys[-fail:]:
            publish(Paid(order_id=key))
        advance_all()
        Plan.raise_in = {}
    return keys


def placed() -> UUID:
    return orders(1)[0]


def failed() -> UUID:
    return orders(1, fail=1)[0]


def instance(order_id: UUID) -> Instance:
    return Instance.objects.get(process=ORDER, key=str(order_id))


# -- how things stand -------------------------------------------------------------------------------


def test_status_tells_the_numbers_of_the_overview_and_what_is_wrong() -> None:
    orders(3, fail=1)
    Pause.objects.create(process=ORDER, paused_at=clock.now())

    status = pm("status", "--json").document
    shown = pm("status").out

    (row,) = [row for row in status["processes"] if row["process"] == ORDER]
    (seen,) = [row for row in overview().processes if row.process == ORDER]
    assert seen.oldest is not None
    assert row == {
        "process": ORDER,
        "kind": "process",
        "started": 2,
        "completed": 0,
        "timed_out": 0,
        "failed": 1,
        "cancelled": 0,
        "began_today": 3,
        "open_letters": 1,
        "oldest": {"key": seen.oldest.key, "began": seen.oldest.started_at.isoformat()},
        "handled_last_hour": sum(seen.last_hour.handled),
        "failed_last_hour": 1,
        "paused": True,
    }
    assert row["handled_last_hour"] >= 3
    assert {"timers_due", "ok", "problems", "lag", "last_tick", "workers"} < set(status)
    (line,) = [line for line in shown.splitlines() if line.startswith(ORDER)]
    assert line.split()[:8] == [ORDER, "2", "0", "0", "1", "0", "3", "1"]
    assert f"{row['handled_last_hour']} messages handled, 1 runs failed" in shown
    assert line.split()[-1] == "paused"
    (listed,) = [row for row in pm("list", "processes", "--json").lines if row["process"] == ORDER]
    assert (listed["failed"], listed["paused_at"] is not None) == (1, True)


@pytest.mark.usefixtures("commands_with_handlers")
def test_health_ends_with_1_only_for_what_is_grave_and_says_what_it_is(settings: Any) -> None:
    never = pm("health", "--json")
    assert never.code == asking.REFUSED
    assert [(one["code"], one["grave"]) for one in never.document["problems"]] == [("tick", True)]
    failed()
    assert (pm("health").code, pm("health").out) == (asking.DONE, "All is well.\n")

    settings.PM_CELERY = {"HEALTH": {"OPEN_LETTERS": 0}}
    ran = pm("health")
    assert (ran.code, ran.out) == (asking.REFUSED, "open_letters: 1 dead letter is open.\n")
    assert ran.out in pm("status").out

    settings.PM_CELERY = {}

    @command(name="shop.Forgotten")
    class Forgotten:
        pass

    ran = pm("health", "--json")
    assert (ran.code, ran.document["ok"]) == (asking.DONE, True)
    assert [one["code"] for one in ran.document["problems"]] == ["unhandled_commands"]


def test_check_runs_the_packages_checks_and_ends_with_1_for_an_error(
    settings: Any, commands_with_handlers: None
) -> None:
    placed()
    assert pm("check", "--json").code == asking.DONE
    settings.PM_CELERY = {"RETENTION": {"tests.Oder": "1d"}}
    warned = pm("check", "--json")
    assert (warned.code, "pm_celery.W050" in {m["id"] for m in warned.document}) == (0, True)
    assert pm("check", "--fail-level", "warning").code == asking.REFUSED

    settings.PM_CELERY = {"RETENTON": "1d"}
    ran = pm("check")
    assert ran.code == asking.REFUSED
    assert "Did you mean 'RETENTION'?" in ran.out
    assert pm("list").code == asking.USAGE


def test_lists_are_filtered_and_capped_and_say_that_there_is_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where each portion of a table holds few that match."""
    monkeypatch.setattr("pm_celery.walking.RANGE", 2)
    bad = orders(6, fail=1)[-1]
    # Which partition comes first is chance, and with it which instance does.
    newest = list(Instance.objects.order_by("-pk").values_list("key", flat=True))
    running = [key for key in newest if key != str(bad)]

    assert [row["key"] for row in pm("list", "--json").lines] == newest
    assert [row["key"] for row in pm("list", "--status", "failed", "--json").lines] == [str(bad)]
    assert [row["key"] for row in pm("list", "--key", running[3], "--json").lines] == [running[3]]
    capped = pm("list", "--status", "started", "--limit", 2, "--json")
    assert [row["key"] for row in capped.lines] == running[:2]
    assert "There may be more" in capped.err
    for options in (["--process", ORDER], ["--exception", "Hostile"], ["--place", "handler"], []):
        (letter,) = pm("list", "letters", "--json", *options).lines
        assert (letter["key"], letter["exception"]) == (str(bad), "Hostile")
    assert pm("list", "letters", "--exception", "ValueError").out == ""
    unmatched = DeadLetter.objects.get()
    unmatched.pk, unmatched.key, unmatched.instance = None, "4711", None
    unmatched.save(force_insert=True)
    (letter,) = pm("list", "letters", "--process", ORDER, "--key", "4711", "--json").lines
    assert letter["id"] == unmatched.pk
    assert pm("list", "letters", "--status", "retried", "--json").lines == []
    timers = pm("list", "timers", "--json", "--process", ORDER, "--key", bad).lines
    assert [row["name"] for row in timers] == ["reminder"]
    commands = pm("list", "outbox", "--json", "--name", "tests.Reserve").lines
    assert {row["status"] for row in commands} == {"done"}
    assert len(pm("list", "inbox", "--json", "--status", "dead").lines) == 1
    assert pm("list", "--since", "1h", "--json").lines != []
    with clock.travel(timedelta(hours=2)):
        assert pm("list", "--since", "1h", "--json").lines == []


def test_an_instance_is_shown_with_its_state_and_all_that_happened_in_order() -> None:
    order_id = failed()
    pm("timers", "cancel", Timer.objects.get().pk, "--by", "ann", "--reason", "not needed")

    by_key, by_id = pm("show", ORDER, order_id), pm("show", instance(order_id).pk)
    told = pm("show", ORDER, order_id, "--json").document

    assert by_key.code == 0
    assert by_id.out.splitlines()[0] == by_key.out.splitlines()[0] == f"{ORDER} {order_id}"
    lines = by_key.out.splitlines()
    happened = [
        "#1 event tests.Placed (placed()",
        "sent tests.Reserve (command ",
        "set timer reminder to",
        "run 1 of tests.Paid failed: Hostile",
        "dead letter",
        "ann: cancel timer, because not needed",
    ]
    at = [next(n for n, line in enumerate(lines) if text in line) for text in happened]
    assert at == sorted(at)
    assert any("total = 9.90, was 0" in line for line in lines)
    assert "  total: 9.90 Decimal" in lines
    assert (told["status"], told["state"]["total"]) == ("failed", "9.90")
    sorts = [entry["sort"] for entry in told["timeline"]]
    assert (sorts[0], set(sorts)) == ("step", {"step", "failed_run", "letter", "act"})
    assert told["timeline"][0]["payload"]["order_id"] == str(order_id)


def test_an_instance_is_shown_with_the_events_that_it_could_still_take() -> None:
    order_id = placed()
    publish(Paid(order_id=order_id))
    drain()

    shown = pm("show", ORDER, order_id).out
    told = pm("show", ORDER, order_id, "--json").document
    before = pm("show", ORDER, order_id, "--at", "1")

    line = next(line for line in shown.splitlines() if line.startswith("  waits for"))
    events = line.removeprefix("  waits for").strip().split(", ")
    assert events[0] == "tests.Shipped"
    assert set(events[1:]) == {
        "tests.Placed (again)",
        "tests.Paid (again)",
        "tests.Reserved (again)",
    }
    assert {"name": "tests.Shipped", "handled": False} in told["awaited"]
    assert "waits for" not in before.out


def test_an_instance_is_shown_as_it_was_after_a_transition_and_the_last_ones_only() -> None:
    order_id = placed()
    publish(Shipped(order_id=order_id))
    drain()
    last = instance(order_id).number

    now, then = (pm("show", ORDER, order_id, *at, "--json").document for at in ([], ["--at", 1]))
    assert (now["status"], then["status"]) == ("completed", "started")
    assert [entry["number"] for entry in then["timeline"]] == [1]
    assert [entry["number"] for entry in now["timeline"]] == [*range(1, last + 1)]
    few = pm("show", ORDER, order_id, "--limit", 1).out
    assert f"#{last} event tests.Shipped" in few
    assert "tests.Placed" not in few
    assert f"{last - 1} earlier transitions: --at {last - 1}" in few
    assert pm("show", ORDER, order_id, "--at", last + 1).code == asking.USAGE


def test_a_process_is_drawn_in_mermaid_with_the_road_of_an_instance() -> None:
    order_id = placed()

    plain, taken = pm("diagram", ORDER), pm("diagram", ORDER, "--instance", order_id)

    assert plain.out == diagram(ORDER)
    assert taken.out == diagram(ORDER, road(instance(order_id))) != plain.out
    assert pm("diagram", ORDER, "--json").document["mermaid"] == plain.out
    assert pm("diagram", ORDER, "--instance", "4711").code == asking.USAGE


def test_an_instance_is_found_by_key_number_and_the_ids_of_what_belongs_to_it() -> None:
    order_id = placed()
    row, issued = instance(order_id), OutboxCommand.objects.get()

    terms = {
        "key": order_id,
        "instance id": row.pk,
        "event id": InboxMessage.objects.get(name="tests.Placed").message_id,
        "command id": issued.command_id,
        "correlation id": row.correlation_id,
    }
    for meaning, term in terms.items():
        found = {(line["found_by"], line["id"]) for line in pm("find", term, "--json").lines}
        assert (meaning, row.pk) in found, meaning
    assert str(order_id) in pm("find", row.pk).out
    assert (pm("find", "nothing").out, pm("find", "nothing").err) == ("", "None.\n")
    assert pm("find", f"state.order_id:{order_id}").code == asking.REFUSED


@pytest.mark.postgresql
def test_an_index_of_a_field_is_made_listed_searched_by_and_dropped() -> None:
    order_id = placed()
    assert pm("index").err == "None.\n"
    made = pm("index", ORDER, "order_id", "--by", "ann", "--json").document
    try:
        assert pm("index", ORDER, "order_id").code == asking.REFUSED
        (listed,) = pm("index", "--json").document
        assert listed == {**made, "is_valid": True}
        (found,) = pm("find", f"state.order_id:{order_id}", "--json").lines
        assert (found["found_by"], found["key"]) == ("state", str(order_id))
    finally:
        assert pm("index", ORDER, "order_id", "--drop").code == asking.DONE
    assert pm("index", "--json").document == []
    assert pm("index", ORDER).code == pm("index", "--drop").code == asking.USAGE


def test_a_database_that_is_not_migrated_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Instance._meta, "db_table", "nowhere")

    ran = pm("list")

    assert (ran.code, ran.out) == (asking.REFUSED, "")
    assert re.match(r"The database: .*nowhere.*pm check may tell more\.$", ran.err)


def test_what_rows_hold_cannot_colour_a_terminal_or_begin_a_line() -> None:
    order_id = failed()
    for args in (("list", "letters"), ("show", ORDER, order_id), ("list", "letters", "--json")):
        out = pm(*args).out
        assert "money" in out
        assert not {"\x1b", "\u202e"} & set(out)
    assert len(pm("list", "letters").out.splitlines()) == 2


def test_values_that_are_not_to_be_shown_are_hidden_here_too(settings: Any) -> None:
    settings.PM_CELERY = {"REDACT": ["total"]}
    order_id = placed()
    for args in (
        ("show", ORDER, order_id),
        ("show", ORDER, order_id, "--json"),
        ("list", "inbox", "--json"),
        ("export",),
    ):
        out = pm(*args).out
        assert "9.90" not in out, args
        assert str(order_id) in out
    assert "9.90" in pm("export", "--raw").out


# -- verbs ------------------------------------------------------------------------------------------


def test_an_event_is_published_from_a_text_a_file_or_the_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = [json.dumps({"order_id": str(uuid4())}) for _ in range(3)]
    (tmp_path / "event.json").write_text(payloads[1])
    monkeypatch.setattr("sys.stdin", io.StringIO(payloads[2]))

    first = pm("publish", "tests.Placed", payloads[0], "--id", "one", "--by", "ann", "--json")
    pm("publish", "tests.Placed", f"@{tmp_path / 'event.json'}")
    pm("publish", "tests.Placed", "-")
    advance_all()

    told = first.document
    assert (told["event"], told["event_id"], told["correlation_id"]) == (
        "tests.Placed",
        "one",
        "one",
    )
    assert [(route["process"], route["key"], route["error"]) for route in told["routes"]] == [
        (ORDER, json.loads(payloads[0])["order_id"], None)
    ]
    assert {row.key for row in Instance.objects.all()} == {
        json.loads(text)["order_id"] for text in payloads
    }
    entry = Intervention.objects.order_by("pk")[0]
    assert (entry.verb, entry.by, entry.subject) == ("publish event", "ann", "tests.Placed one")
    again = pm("publish", "tests.Placed", payloads[0], "--id", "one")
    assert (again.code, "its id was used before" in again.err) == (asking.REFUSED, True)
    shown = pm("publish", "tests.Placed", payloads[0], "--occurred-at", "2020-01-01T00:00:00Z").out
    assert f"  {ORDER} {json.loads(payloads[0])['order_id']}\n" in shown
    assert InboxMessage.objects.latest("pk").occurred_at.year == 2020


def test_letters_are_retried_by_id_and_what_is_refused_is_told() -> None:
    keys = orders(2, fail=2)
    letters = list(DeadLetter.objects.order_by("pk"))
    ids = [letter.pk for letter in letters]

    ran = pm("retry", ids[0], "--by", "ann", "--reason", "deployed", "--json")
    assert ran.lines == [
        {
            "id": ids[0],
            "process": ORDER,
            "key": letters[0].key,
            "name": "tests.Paid",
            "done": True,
            "refused": None,
        }
    ]
    again = pm("retry", *ids)
    assert again.code == asking.REFUSED
    assert "refused: already settled" in again.out
    assert "1 retried, 1 refused." in again.err
    assert {instance(key).status for key in keys} == {"started"}
    assert Intervention.objects.filter(
        verb="retry dead letter", by="ann", reason="deployed"
    ).exists()


def test_all_letters_that_match_are_a_bulk_action_that_is_worked_off_here_and_counted() -> None:
    keys = orders(3, fail=3)
    one = DeadLetter.objects.get(key=str(keys[0])).pk
    (group,) = pm("list", "groups", "--json").lines
    assert (group["open"], group["died"], group["exception"]) == (3, 3, "Hostile")
    assert "Hostile" in pm("list", "groups", "--process", ORDER).out
    in_group = pm("list", "letters", "--group", group["id"], "--limit", 2, "--json")
    newest = DeadLetter.objects.order_by("-pk").values_list("pk", flat=True)[:2]
    assert [row["id"] for row in in_group.lines] == list(newest)
    assert "There may be more" in in_group.err
    for listed in (["letters", "--group", group["id"]], ["letters"], ["timers", "--key", keys[0]]):
        with CaptureQueriesContext(connection) as asked:
            pm("list", *listed, "--process", ORDER, "--limit", 1)
            pm("list", *listed, "--limit", 1)
        rows = [one["sql"] for one in asked if "JOIN" in one["sql"] or "deadletter" in one["sql"]]
        assert all(" LIMIT " in sql or " IN (" in sql or " <= " in sql for sql in rows), listed
    assert pm("list", "letters", "--group", "none", "--json").lines == []

    for condition in (["--exception", "ValueError"], ["--until", "1h"], ["--handler", "placed"]):
        ran = pm("retry", "--all", "--process", ORDER, *condition, "--json")
        assert (ran.code, ran.document["total"]) == (0, 0), condition
    dry = pm("retry", "--all", "--exception", "Hostile", "--dry-run", "--json").document
    assert (dry["total"], DeadLetter.objects.open().count()) == (3, 3)
    assert not BulkAction.objects.exists()
    pm("retry", one)
    ran = pm("retry", "--all", "--group", group["id"], "--by", "ann", "--reason", "deployed")
    assert (ran.code, ran.out.endswith(": 2 retried\n")) == (asking.DONE, True)
    assert {instance(key).status for key in keys} == {"started"}
    assert pm("list", "groups").err == "None.\n"
    assert pm("list", "groups", "--status", "any", "--json").lines[0]["open"] == 0

    (told,) = pm("list", "bulks", "--json").lines
    assert (told["verb"], told["done"], told["left"], told["by"]) == ("retry", 2, 0, "ann")
    assert told["conditions"] == {"group": group["id"]}
    assert pm("bulks", "stop", told["id"]).code == asking.REFUSED


def test_a_bulk_action_is_left_to_the_workers_and_stopped() -> None:
    orders(2, fail=2)
    ran = pm("discard", "--all", "--leave-failed", "--background", "--json")
    told = ran.document
    assert (ran.code, told["verb"], told["left"]) == (asking.DONE, "discard_for_good", 2)
    assert "2 to come" in pm("list", "bulks").out
    assert pm("bulks", "stop", told["id"], "--by", "ann").code == asking.DONE
    assert "2 left alone" in pm("list", "bulks").out
    assert DeadLetter.objects.open().count() == 2

    assert pm("discard", "--all").out.endswith(": 2 discarded\n")
    assert set(Instance.objects.values_list("status", flat=True)) == {"started"}


@pytest.mark.postgresql
def test_a_bulk_action_that_a_worker_is_at_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    orders(2, fail=2)
    is_locked, goes_on = threading.Event(), threading.Event()
    workers = []

    def hold(bulk_id: int) -> None:
        with transaction.atomic():
            list(BulkAction.objects.select_for_update().filter(pk=bulk_id))
            is_locked.set()
            assert goes_on.wait(30)

    def send(bulk_id: int) -> None:
        workers.append(Worker(partial(hold, bulk_id)))
        assert is_locked.wait(30)

    def pause(_seconds: float) -> None:
        goes_on.set()
        workers[0].finish()

    monkeypatch.setattr("pm_celery.bulks.send", send)
    monkeypatch.setattr("pm_celery.shell.bulks.time", SimpleNamespace(sleep=pause))

    ran = pm("retry", "--all")

    assert (ran.code, ran.out.endswith(": 2 retried\n")) == (asking.DONE, True)
    assert goes_on.is_set()


def test_a_bulk_action_ends_where_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    orders(2, fail=2)
    step = printing.Bar.step
    monkeypatch.setattr(printing.Bar, "step", _interrupting(step))

    ran = pm("retry", "--all")

    assert (ran.code, "what was done stays done" in ran.err) == (130, True)
    (told,) = pm("list", "bulks", "--json").lines
    assert (told["done"], told["left"], told["ended_at"] is not None) == (1, 1, True)


def _interrupting(step: Any) -> Any:
    def interrupted(*args: Any) -> None:
        step(*args)
        raise KeyboardInterrupt

    return interrupted


def test_a_letter_gets_a_note_and_another_payload(settings: Any, tmp_path: Path) -> None:
    order_id = failed()
    letter = DeadLetter.objects.get()
    assert pm("note", letter.pk, "the shop will mend it", "--by", "ann").code == 0
    assert DeadLetter.objects.get().note == "the shop will mend it"
    assert "the shop will mend it" in pm("show", ORDER, order_id).out

    odd = {"order_id": str(order_id), "note": "a\u00a0b\U000e0001\x1b"}
    InboxMessage.objects.filter(pk=letter.message_id).update(
        payload=json.dumps(odd, ensure_ascii=False)
    )
    payload = pm("edit", letter.pk).out
    assert (json.loads(payload), payload.strip().isprintable()) == (odd, True)
    (tmp_path / "payload.json").write_text(payload)
    edited = ("edit", letter.pk, f"@{tmp_path / 'payload.json'}")
    refused = pm(*edited)
    assert (refused.code, "EDIT_PAYLOADS" in refused.out) == (asking.REFUSED, True)
    settings.PM_CELERY = {"EDIT_PAYLOADS": True}
    assert "no JSON" in pm("edit", letter.pk, "{").out
    assert pm(*edited).code == asking.DONE
    assert DeadLetter.objects.get().status == "retried"


def test_a_letter_is_discarded_and_its_instance_goes_on_or_is_left_failed() -> None:
    goes_on, stays = orders(2, fail=2)
    ids = {letter.key: letter.pk for letter in DeadLetter.objects.all()}

    pm("discard", ids[str(goes_on)])
    pm("discard", ids[str(stays)], "--leave-failed")

    assert instance(goes_on).status == "started"
    assert instance(stays).ended_at is not None


def test_a_failed_instance_is_retried_by_its_key() -> None:
    order_id = failed()
    assert pm("retry-instance", ORDER, order_id, "--by", "ann").code == asking.DONE
    assert (instance(order_id).status, DeadLetter.objects.get().status) == ("started", "retried")
    again = pm("retry-instance", ORDER, order_id)
    assert (again.code, "it has not failed" in again.out) == (asking.REFUSED, True)


def test_a_command_is_dispatched_by_its_number_or_id_and_one_that_never_was_is_cancelled() -> None:
    publish(Placed(order_id=uuid4()))
    advance_all()
    (row,) = OutboxCommand.objects.all()
    before = row.dispatches

    ran = pm("commands", "dispatch", row.command_id, "--by", "ann", "--json")
    assert (ran.code, ran.lines[0]["id"], ran.lines[0]["name"]) == (0, row.pk, "tests.Reserve")
    assert OutboxCommand.objects.get().dispatches == before + 1
    assert pm("commands", "cancel", row.pk).code == asking.REFUSED
    OutboxCommand.objects.update(status="pending", dispatches=0)
    assert pm("commands", "cancel", row.pk, "--reason", "twice").code == asking.DONE
    assert OutboxCommand.objects.get().status == "cancelled"
    verbs = Intervention.objects.order_by("pk").values_list("verb", "by", "reason")
    dispatched, cancelled = verbs
    assert dispatched == ("dispatch command", "ann", "")
    assert cancelled[::2] == ("cancel command", "twice")


def test_instances_are_ended_by_id_by_key_or_by_process_and_status() -> None:
    one, two, three, four, bad = orders(5, fail=1)

    assert pm("cancel", instance(one).pk).code == 0
    assert pm("complete", ORDER, two, three, "--reason", "delivered by hand").code == 0
    refused = pm("cancel", ORDER, two, four)
    assert (refused.code, "refused: already completed" in refused.out) == (asking.REFUSED, True)
    assert pm("cancel", "--process", ORDER, "--status", "failed").code == 0
    assert {key: instance(key).status for key in (one, two, three, four, bad)} == {
        one: "cancelled",
        two: "completed",
        three: "completed",
        four: "cancelled",
        bad: "cancelled",
    }
    waits = placed()
    assert pm("fire-timeout", ORDER, waits).code == 0
    drain()
    assert instance(waits).status == "timed_out"


def test_timers_fire_move_and_are_cancelled() -> None:
    order_id = placed()
    timer = Timer.objects.get()
    moved = pm("timers", "move", timer.pk, "--to", "2h", "--json")
    assert moved.lines[0]["name"] == "reminder"
    due_in = Timer.objects.get().due_at - clock.now()
    assert timedelta(minutes=119) < due_in < timedelta(minutes=121)
    pm("timers", "move", timer.pk, "--to", "2099-01-01T00:00:00Z")
    assert Timer.objects.get().due_at.year == 2099

    assert pm("timers", "fire", timer.pk).code == 0
    drain()
    assert json.loads(instance(order_id).state)["reminded"] == 1
    assert pm("timers", "fire", timer.pk).code == asking.USAGE


def test_a_process_is_paused_and_resumed() -> None:
    order_id = placed()
    assert pm("pause", ORDER, "--reason", "the warehouse burns").code == 0
    assert pm("pause", ORDER).code == asking.REFUSED
    publish(Shipped(order_id=order_id))
    drain()
    assert instance(order_id).status == "started"
    assert pm("resume", ORDER).code == 0
    drain()
    assert instance(order_id).status == "completed"


def test_a_message_that_backs_off_is_woken_and_without_one_all_that_is_due() -> None:
    assert pm("wake").out == "Nothing is due.\n"
    publish(Placed(order_id=uuid4()))
    (partition,) = InboxMessage.objects.values_list("partition", flat=True)
    assert pm("wake", "--json").document["partitions"] == [partition]

    later = clock.now() + timedelta(hours=1)
    InboxMessage.objects.update(due_at=later, attempts=1)
    message = InboxMessage.objects.get()
    assert pm("wake").out == "Nothing is due.\n"
    (told,) = pm("wake", message.pk, "--by", "ann", "--json").lines
    assert (told["id"], told["name"], told["done"]) == (message.pk, "tests.Placed", True)
    assert InboxMessage.objects.get().due_at < later
    assert Intervention.objects.get().verb == "wake message"
    advance_all()
    assert pm("wake", message.pk).code == asking.REFUSED


def test_prune_says_what_would_go_removes_it_and_tells_how_many_were_spared(settings: Any) -> None:
    keys = orders(3)
    for key in keys:
        publish(Shipped(order_id=key))
    drain()
    assert pm("prune").code == asking.USAGE  # all is kept for ever
    with clock.travel(timedelta(days=31)):
        dry = pm("prune", "--older-than", "30d", "--process", ORDER, "--dry-run", "--json").document
        assert dry["instances"] == [{"process": ORDER, "status": "completed", "count": 3}]
        assert Instance.objects.count() == 3
        settings.PM_CELERY = {"RETENTION": "30d"}
        assert pm("prune", "--status", "cancelled", "--json").document["total"] == 0
        ran = pm("prune", "--json").document
    assert (ran["total"], ran["spared"], ran["dry_run"]) == (3, 0, False)
    assert not Instance.objects.exists()


# -- what was not meant -----------------------------------------------------------------------------


# They write nothing, so nothing has to be flushed after each.
@pytest.mark.django_db(transaction=False)
@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["show", "tests.Oder", "1"], "Did you mean 'tests.Order'?"),
        (["show", "order", "1"], "Did you mean 'tests.Order'?"),
        (["show", ORDER, "1"], f"{ORDER} has no instance '1'"),
        (["show", ORDER], "Give keys behind it"),
        (["show", "9" * 30], "There is no instance 9999"),
        (["cancel"], "Which instances?"),
        (["cancel", "1", "--process", ORDER], "not both"),
        (["retry"], "Which letters?"),
        (["retry", "--process", ORDER], "Which letters?"),
        (["retry", "77"], "There is no letter 77"),
        (["retry", "77", "--all"], "not both"),
        (["discard", "9" * 30], "There is no letter 9999"),
        (["retry", "77", "--background"], "not both"),
        (["note", "77", "text"], "There is no letter 77"),
        (["edit", "77", "{}"], "There is no letter 77"),
        (["wake", "77"], "There is no message 77"),
        (["commands", "dispatch", "9" * 30], "There is no command '999"),
        (["commands", "cancel", "x"], "There is no command 'x'"),
        (["timers", "fire", "1"], "There is no timer 1"),
        (["publish", "tests.Plced", "{}"], "Did you mean 'tests.Placed'?"),
        (["publish", "tests.Reserve", "{}"], "Did you mean 'tests.Reserved'?"),
        (["publish", "tests.Placed", "{"], "The payload is no JSON"),
        (["publish", "tests.Placed", "{}"], "order_id"),
        (["publish", "tests.Placed", "@/nowhere"], "/nowhere: No such file"),
        (["list", "outbox", "--status", "open"], "they have: pending, dispatched"),
        (["list", "--since", "yesterday"], "'yesterday' is no moment"),
        (["list", "--since", "2026-02-31"], "is no moment"),
        (["list", "--exception", "X"], "--exception is for letters"),
        (["list", "inbox", "--group", "X"], "--group is for letters"),
        (["list", "groups", "--key", "1"], "--key is not for groups"),
        (["list", "groups", "--status", "dead"], "they have: open, any"),
        (["prune", "--older-than", "30"], "no duration"),
        (["pause", "tests.Typo"], "There is no process"),
        (["zzz"], "invalid choice"),
        (["timers"], "required"),
    ],
)
def test_what_cannot_be_meant_ends_with_2_and_names_the_remedy(args: list[str], told: str) -> None:
    if args[0] == "zzz" or args == ["timers"]:
        with pytest.raises(CommandError, match=told):
            call_command("pm", *args)
        return
    ran = pm(*args)
    assert (ran.code, ran.out) == (asking.USAGE, "")
    assert told in ran.err


def test_a_table_fits_a_narrow_terminal_and_is_whole_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "40")
    rows = [["tests.Order", "k" * 80, 7], ["tests.Other", "short", 123]]
    terminal, pipe = Terminal(), io.StringIO()
    for out in (terminal, pipe):
        printing.Output(_lines(out), _lines(out), as_json=False, colour=False).table(
            ["process", "key", "n"], rows
        )

    assert {len(line) for line in terminal.getvalue().splitlines()} == {40}
    assert "…" in terminal.getvalue()
    assert "k" * 80 in pipe.getvalue()
    # Of a header a part is enough, as long as what is below it is whole.
    terminal.truncate(terminal.seek(0))
    shown = printing.Output(_lines(terminal), _lines(terminal), as_json=False, colour=False)
    shown.table(["process", "discontinued"], [["tests.Order.of.a.very.long.name", 7]])
    assert terminal.getvalue().splitlines()[1].split() == ["tests.Order.of.a.very.long.name", "7"]


def test_progress_is_shown_on_a_terminal_only_and_not_in_the_colour_of_errors() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = []
    for out in (Terminal(), io.StringIO()):
        wrapper = _lines(out)
        wrapper.style_func = lambda text: f"error {text}"
        with printing.Bar("retried", 4, err=wrapper) as bar:
            bar.step(3)
        shown.append(out.getvalue())

    assert "retried [###############.....] of 4 3" in shown[0]
    assert "error" not in shown[0]
    assert shown[1] == ""


def _lines(out: io.StringIO) -> Any:
    from django.core.management.base import OutputWrapper

    return OutputWrapper(out)


@pytest.mark.any_database
def test_every_verb_is_documented_and_none_besides() -> None:
    page = (Path(__file__).parent.parent / "docs/reference/commands.md").read_text()
    table = page.split("| verb |")[1].split("\n\n")[0]
    documented = {
        verb
        for row in re.findall(r"^\| (`.*?`) \|", table, re.M)
        for verb in re.findall(r"`([\w-]+(?: [a-z]+)?)", row)
    }

    assert documented == set(_verbs(Command().create_parser("manage.py", "pm")))


def _verbs(parser: Any, before: str = "") -> Iterator[str]:
    inner = [action for action in parser._actions if isinstance(action.choices, dict)]
    if not inner:
        yield before.strip()
    for action in inner:
        for name, its_parser in action.choices.items():
            yield from _verbs(its_parser, f"{before} {name}")


# -- a shell of its own -----------------------------------------------------------------------------


COMMAND = [sys.executable, "-m", "django", "pm"]


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PM_TEST_DEFAULT_NAME": str(connection.settings_dict["NAME"]),
        "TERM": "xterm",
    }


def on_a_terminal(*args: object, answer: str) -> tuple[int, str]:
    """``manage.py pm`` as a process whose terminal somebody writes an answer on."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *map(str, args)], env=environment(), stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # Linux' way to say that the other end is closed
            pass
        os.close(ours)
        code = process.wait(timeout=60)
    return code, shown.decode()


def test_on_a_terminal_there_are_colours_and_a_question_before_what_cannot_be_undone() -> None:
    order_id = failed()

    code, shown = on_a_terminal("cancel", ORDER, order_id, answer="n")

    assert (code, instance(order_id).status) == (asking.REFUSED, "failed")
    assert f"Cancel: {ORDER} {order_id}" in shown
    assert "Nothing was done." in shown
    assert "\x1b[" in shown


def test_whoever_reads_an_export_may_stop_before_its_end() -> None:
    """Break: BrokenPipeError not caught."""
    now = clock.now()
    Instance.objects.bulk_create(
        Instance(
            process="archive.Loan",
            key=str(number),
            partition=0,
            status="completed",
            state=json.dumps("x" * 2000),
            number=0,
            correlation_id="c",
            started_at=now,
            changed_at=now,
            ended_at=now,
        )
        for number in range(200)
    )
    with subprocess.Popen(
        [*COMMAND, "export"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["key"] == "0"
        process.stdout.close()
        told = process.stderr.read().decode()
    assert (process.returncode, told) == (0, "")
