"""``manage.py pm``: what admins do on pages, from a shell, for people and for scripts."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from pm_celery import clock, publish
from pm_celery.management.commands.pm import Command
from pm_celery.models import DeadLetter, InboxMessage, Instance, Intervention, Pause, Timer
from pm_celery.shell import asking, printing
from tests.driving import advance_all, drain
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


def placed() -> UUID:
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    return order_id


def failed() -> UUID:
    order_id = placed()
    Plan.raise_in = {"paid": Hostile()}
    publish(Paid(order_id=order_id))
    drain()
    Plan.raise_in = {}
    return order_id


def instance(order_id: UUID) -> Instance:
    return Instance.objects.get(process=ORDER, key=str(order_id))


# -- how things stand -------------------------------------------------------------------------------


def test_status_counts_each_process_and_says_what_is_late_and_what_is_paused() -> None:
    placed(), placed(), failed()
    Pause.objects.create(process=ORDER, paused_at=clock.now())

    status = pm("status", "--json").document
    shown = pm("status").out

    (row,) = [row for row in status["processes"] if row["process"] == ORDER]
    assert {name: row[name] for name in row if name != "process"} == {
        "started": 2,
        "completed": 0,
        "timed_out": 0,
        "failed": 1,
        "cancelled": 0,
        "began_today": 3,
        "open_letters": 1,
        "paused": True,
    }
    assert set(status) == {"processes", "lag", "last_tick"}
    (line,) = [line for line in shown.splitlines() if line.startswith(ORDER)]
    assert line.split() == [ORDER, "2", "0", "0", "1", "0", "3", "1", "paused"]


def test_health_ends_with_1_and_says_why_where_a_letter_is_open_or_nothing_ticks() -> None:
    assert pm("health").code == asking.REFUSED  # no tick yet
    placed()
    assert (pm("health").code, pm("health").out) == (asking.DONE, "All is well.\n")
    failed()

    ran = pm("health", "--json")

    assert ran.code == asking.REFUSED
    assert ran.document["problems"] == ["1 dead letters are open."]


def test_check_runs_the_packages_checks_and_ends_with_1_for_an_error(settings: Any) -> None:
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
    keys = [placed() for _ in range(5)]
    bad = failed()

    assert [row["key"] for row in pm("list", "--json").lines] == [
        str(key) for key in (bad, *reversed(keys))
    ]
    assert [row["key"] for row in pm("list", "--status", "failed", "--json").lines] == [str(bad)]
    assert [row["key"] for row in pm("list", "--key", keys[0], "--json").lines] == [str(keys[0])]
    capped = pm("list", "--status", "started", "--limit", 2, "--json")
    assert [row["key"] for row in capped.lines] == [str(keys[4]), str(keys[3])]
    assert "There may be more" in capped.err
    for options in (["--process", ORDER], ["--exception", "Hostile"], ["--place", "handler"], []):
        (letter,) = pm("list", "letters", "--json", *options).lines
        assert (letter["key"], letter["exception"]) == (str(bad), "Hostile")
    assert pm("list", "letters", "--exception", "ValueError").out == ""
    assert pm("list", "letters", "--status", "retried", "--json").lines == []
    timers = pm("list", "timers", "--json", "--process", ORDER, "--key", bad).lines
    assert [row["name"] for row in timers] == ["reminder"]
    commands = pm("list", "outbox", "--json", "--name", "tests.Reserve").lines
    assert {row["status"] for row in commands} == {"done"}
    assert len(pm("list", "inbox", "--json", "--status", "dead").lines) == 1
    assert pm("list", "--since", "1h", "--json").lines != []
    with clock.travel(timedelta(hours=2)):
        assert pm("list", "--since", "1h", "--json").lines == []


def test_an_instance_is_shown_by_id_or_key_with_its_state_and_timeline() -> None:
    order_id = failed()
    pm("timers", "cancel", Timer.objects.get().pk, "--by", "ann", "--reason", "not needed")

    by_key, by_id = pm("show", ORDER, order_id), pm("show", instance(order_id).pk)
    told = pm("show", ORDER, order_id, "--json").document

    assert by_key.code == 0
    for text in ("tests.Placed", "failed", "cancel timer", "ann", "not needed", "Hostile"):
        assert text in by_key.out
    assert by_id.out.splitlines()[0] == by_key.out.splitlines()[0] == f"{ORDER} {order_id}"
    assert told["state"]["total"] == "9.90"
    assert told["transitions"][0]["name"] == "tests.Placed"
    assert [entry["by"] for entry in told["interventions"]] == ["ann"]


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

    assert first.document == {"event": "tests.Placed", "event_id": "one"}
    assert {row.key for row in Instance.objects.all()} == {
        json.loads(text)["order_id"] for text in payloads
    }
    entry = Intervention.objects.order_by("pk")[0]
    assert (entry.verb, entry.by, entry.subject) == ("publish", "ann", "tests.Placed one")


def test_letters_are_retried_by_id_or_all_that_match_and_what_is_refused_is_told() -> None:
    first, second = failed(), failed()
    ids = list(DeadLetter.objects.order_by("pk").values_list("pk", flat=True))

    dry = pm("retry", "--all", "--exception", "Hostile", "--dry-run", "--json")
    assert [line["id"] for line in dry.lines] == ids
    assert DeadLetter.objects.open().count() == 2
    assert pm("retry", "--all", "--process", ORDER, "--exception", "ValueError").code == 0
    assert DeadLetter.objects.open().count() == 2

    ran = pm("retry", ids[0], "--by", "ann", "--reason", "deployed", "--json")
    assert ran.lines == [
        {
            "id": ids[0],
            "process": ORDER,
            "key": str(first),
            "name": "tests.Paid",
            "done": True,
            "refused": None,
        }
    ]
    again = pm("retry", *ids)
    assert again.code == asking.REFUSED
    assert "refused: already settled" in again.out
    assert "1 retried, 1 refused." in again.err
    drain()
    assert {instance(key).status for key in (first, second)} == {"started"}
    assert Intervention.objects.filter(
        verb="retry dead letter", by="ann", reason="deployed"
    ).exists()


def test_a_letter_is_discarded_and_its_instance_goes_on_or_is_left_failed() -> None:
    goes_on, stays = failed(), failed()
    ids = {letter.key: letter.pk for letter in DeadLetter.objects.all()}

    pm("discard", ids[str(goes_on)])
    pm("discard", ids[str(stays)], "--leave-failed")

    assert instance(goes_on).status == "started"
    assert instance(stays).ended_at is not None


def test_instances_are_ended_by_id_by_key_or_by_process_and_status() -> None:
    one, two, three, four = (placed() for _ in range(4))
    bad = failed()

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


def test_wake_says_in_how_many_partitions_something_is_due() -> None:
    assert pm("wake").out == "Nothing is due.\n"
    publish(Placed(order_id=uuid4()))
    (partition,) = InboxMessage.objects.values_list("partition", flat=True)
    assert pm("wake", "--json").document["partitions"] == [partition]


def test_prune_says_what_would_go_removes_it_and_tells_how_many_were_spared(settings: Any) -> None:
    keys = [placed() for _ in range(3)]
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


def _lines(out: io.StringIO) -> Any:
    from django.core.management.base import OutputWrapper

    return OutputWrapper(out)


@pytest.mark.any_database
def test_every_verb_is_documented_and_none_besides() -> None:
    page = (Path(__file__).parent.parent / "docs/shell.md").read_text()
    table = page.split("| verb |")[1].split("\n\n")[0]
    documented = {
        word
        for row in re.findall(r"^\| (`.*?`) \|", table, re.M)
        for word in re.findall(r"`([\w-]+)", row)
    }
    parser = Command().create_parser("manage.py", "pm")
    (verbs,) = [
        action for action in parser._actions if action.choices and not action.option_strings
    ]

    assert documented == set(verbs.choices)


# -- a shell of its own -----------------------------------------------------------------------------


COMMAND = [sys.executable, "-m", "django", "pm"]


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PM_TEST_DEFAULT_NAME": str(connection.settings_dict["NAME"]),
        "TERM": "xterm",
    }


def in_a_shell(*args: object, answer: str | None = None) -> tuple[int, str, str]:
    """``manage.py pm`` as a process: in a pipe, or on a terminal where it is to be answered."""
    command, env = [*COMMAND, *map(str, args)], environment()
    if answer is None:
        done = subprocess.run(
            command,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return done.returncode, done.stdout, done.stderr
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:
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
    return code, shown.decode(), ""


def test_on_a_terminal_there_are_colours_and_a_question_and_in_a_pipe_there_are_none() -> None:
    order_id = failed()

    code, shown, _ = in_a_shell("cancel", ORDER, order_id, answer="n")
    assert (code, instance(order_id).status) == (asking.REFUSED, "failed")
    assert f"Cancel: {ORDER} {order_id}" in shown
    assert "Nothing was done." in shown
    code, shown, _ = in_a_shell("list", answer="")
    assert (code, "\x1b[" in shown) == (0, True)

    code, shown, told = in_a_shell("cancel", ORDER, order_id)
    assert (code, told) == (0, "")
    assert shown == f"{ORDER} {order_id} ({instance(order_id).pk}): cancelled\n"
    assert instance(order_id).status == "cancelled"


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
