"""Forged messages: whoever can write to the broker can ask our tasks for what cannot be. They do nothing
then, and say so in one line.

Breaks that turned these red: ``careful`` and ``JSON_ONLY`` removed from the tasks; no ``kind`` in the
conditions of ``settling``; ``_is_meant`` that is always true.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import current_app, signature
from django.apps import apps

import pm_celery
from pm_celery import ProcessManager, command, command_handler, event, handle, publish, tasks
from pm_celery.models import Instance, OutboxCommand
from pm_celery.settling import extend_signature, settle_signature
from tests.driving import advance_all, drain

pytestmark = pytest.mark.django_db(transaction=True)

HUGE = "x" * 10_000_000
NOT_ID = ["", "x", None, 7, -1, 1.5, True, [], {}, ["7"], {"a": [1]}, "\x00", "\ud800", HUGE]


def everything() -> list[Any]:
    models = apps.get_app_config("pm_celery").get_models()
    return [list(model._default_manager.order_by("pk").values()) for model in models]


@pytest.fixture
def in_one_line(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What is refused changes no row, raises nothing, and is one warning without a traceback."""
    before = everything()
    caplog.set_level(logging.INFO)
    yield
    assert everything() == before
    records = [r for r in caplog.get_records("call") if r.name == "pm_celery"]
    assert [record.levelname for record in records] == ["WARNING"]
    assert records[0].exc_info is None
    assert len(records[0].getMessage()) < 500
    assert "\n" not in records[0].getMessage()
    assert not [r for r in caplog.get_records("call") if r.levelno >= logging.ERROR]


def sent(task: Any, *arguments: Any, **named: Any) -> Any:
    """What Celery's own worker makes of such a message."""
    # Not `apply`'s own check of arguments: who forges a message has none.
    found = task.apply(args=arguments, kwargs=named, task_id=str(uuid4()))
    assert found.state == "SUCCESS", found.traceback
    return found.result


@command(name="forged.Hide")
class Hide:
    key: str


@command(name="forged.Seek")
class Seek:
    key: str


@event(name="forged.Begun")
class Begun:
    key: str


ran: list[object] = []


@pytest.fixture
def game() -> type[ProcessManager]:
    ran.clear()

    class Game(ProcessManager):
        @handle(Begun, start=True, correlate="key")
        def begun(self, event: Begun) -> None:
            self.send(Hide(key=event.key))
            self.send(signature("somewhere.else", args=[event.key]))

    @command_handler(Hide)
    def hide(command: Hide) -> None:
        ran.append(command)

    @command_handler(Seek)
    def seek(command: Seek) -> None:
        ran.append(command)

    publish(Begun(key="k"))
    advance_all()
    return Game


def id_of(kind: str) -> str:
    return str(OutboxCommand.objects.get(kind=kind).command_id)


# -- wrong arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lane", [*(x for x in NOT_ID if x != 7), "3", -17, 17, 10**30], ids=lambda lane: repr(lane)[:12]
)
def test_a_lane_that_is_none_is_refused(lane: Any, in_one_line: None) -> None:
    """``int("x")`` raised here, with a traceback for each message."""
    assert sent(tasks.advance, lane).startswith("refused: there is no lane")


def test_a_lane_of_more_queues_than_there_are_is_refused(settings: Any, in_one_line: None) -> None:
    settings.PM_CELERY = {"QUEUES": 3}
    assert sent(tasks.advance, 18) is None

    assert "0 to 18" in sent(tasks.advance, 19)


@pytest.mark.parametrize("command_id", NOT_ID, ids=lambda value: repr(value)[:12])
def test_an_id_that_is_none_runs_nothing(command_id: Any, game: Any, in_one_line: None) -> None:
    assert "no id of a command" in sent(tasks.run_command, command_id)


@pytest.mark.parametrize("of", ["run_command", "forged.Hide", "forged.Hide in a list"])
def test_an_id_that_no_command_has_runs_nothing(of: str, game: Any, in_one_line: None) -> None:
    if of == "run_command":
        sent(tasks.run_command, str(UUID(int=1)))
    else:
        task = current_app.tasks["pm_celery.command.forged.Hide"]
        sent(task, [str(UUID(int=1))] if "list" in of else str(UUID(int=1)))

    assert ran == []


@pytest.mark.parametrize("in_a_list", [False, True])
def test_another_command_s_id_runs_nothing(in_a_list: bool, game: Any, in_one_line: None) -> None:
    task = current_app.tasks["pm_celery.command.forged.Seek"]

    sent(task, [id_of("command")] if in_a_list else id_of("command"))

    assert ran == []


@pytest.mark.parametrize("name", ["pm_celery.run_command", "pm_celery.command.forged.Hide"])
def test_a_signature_s_id_runs_nothing(name: str, game: Any, in_one_line: None) -> None:
    sent(current_app.tasks[name], id_of("signature"))


def test_a_million_ids_run_nothing(game: Any, in_one_line: None) -> None:
    ids = [id_of("command"), *map(str, range(1_000_000))]

    sent(current_app.tasks["pm_celery.command.forged.Hide"], ids)

    assert ran == []


def test_a_right_id_among_wrong_ones_runs_once(game: Any) -> None:
    mine = id_of("command")

    sent(
        current_app.tasks["pm_celery.command.forged.Hide"],
        [mine, "x", [mine], mine, str(UUID(int=1))],
    )

    assert ran == [Hide(key="k")]


@pytest.mark.parametrize(
    "task", ["advance", "tick", "prune", "bulk", "publish", "run_command", "command.forged.Hide"]
)
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["a"] * 9, {}),
        ([], {"nonsense": HUGE}),
        ([1], {"self": 1, "lane": 2, "name": 3, "\x00": 4}),
    ],
    ids=["many", "unknown", "double"],
)
def test_arguments_that_no_task_has_do_nothing(
    task: str, arguments: list[Any], named: dict[str, Any], game: Any, in_one_line: None
) -> None:
    assert sent(current_app.tasks[f"pm_celery.{task}"], *arguments, **named).startswith("refused: ")


@pytest.mark.parametrize("name", [*NOT_ID[:1], *NOT_ID[2:]], ids=lambda value: repr(value)[:12])
def test_an_event_by_a_name_that_is_none_is_refused(name: Any, in_one_line: None) -> None:
    assert "wire name" in sent(tasks.publish, name, {})


@pytest.mark.parametrize(
    ("payload", "words"),
    [("\x00", "U\\+0000"), ({"a": HUGE}, "MAX_PAYLOAD_BYTES"), ("\ud800", "no JSON")],
    ids=["nul", "huge", "surrogate"],
)
def test_an_event_that_no_row_can_hold_is_refused(
    payload: Any, words: str, in_one_line: None
) -> None:
    assert re.search(words, sent(tasks.publish, "forged.Begun", payload))


# -- what became of signatures: Celery's signals ---------------------------------------------------------


def test_another_s_id_in_a_header_settles_nothing(game: Any) -> None:
    """A task that runs under a command's id, and says that it is ours, does not make the command done."""
    before = everything()
    mine = id_of("command")

    settle_signature(mine, None)
    settle_signature(mine, ValueError("forged"))
    extend_signature(mine, 1e9)

    assert everything() == before


@pytest.mark.parametrize(
    "command_id", ["x", "\x00", HUGE, 7, None, ["a"]], ids=lambda v: repr(v)[:9]
)
def test_a_header_that_is_no_id_is_passed_over(command_id: Any) -> None:
    request = type("Request", (), {"headers": {"pm_celery_command": command_id}, "id": command_id})
    task = type("Task", (), {"request": request})()

    assert tasks._ours(task) is None


# -- pickle ------------------------------------------------------------------------------------------------


def test_our_tasks_refuse_a_pickle_unread_in_a_worker_that_accepts_it() -> None:
    """The project's own task shows that the worker does read pickles. Without ``Strategy`` ours do too."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.pickles"],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert {"pm_celery.advance", "pm_celery.publish", "pm_celery.tick"} <= set(found["ours"])
    assert any(name.startswith("pm_celery.command.") for name in found["ours"])
    assert set(found["unpickled"]) == {"project.own"}
    assert "pm_celery.advance did nothing: its message is" in ran.stderr


def test_our_messages_are_json_whatever_the_project_s_serializer_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(current_app.conf.changes, "task_serializer", "pickle")

    for name, task in current_app.tasks.items():
        if name.startswith("pm_celery."):
            assert task.serializer == "json"


def test_no_module_of_the_package_reads_a_pickle() -> None:
    root = Path(pm_celery.__file__).parent
    sources = {path: path.read_text() for path in root.rglob("*.py")}
    harmful = (
        "import pickle",
        "import marshal",
        "yaml.load",
        "eval(",
        "exec(",
        "mark_safe",
        "|safe",
    )

    assert len(sources) > 40
    found = [
        (path.name, word) for path, text in sources.items() for word in harmful if word in text
    ]
    assert found == []
    templates = {path: path.read_text() for path in root.rglob("*.html")}
    assert templates
    assert not [
        path for path, text in templates.items() if "|safe" in text or "autoescape off" in text
    ]


def test_the_game_itself_goes_on(game: Any) -> None:
    drain()

    assert ran == [Hide(key="k")]
    assert Instance.objects.get().status == "started"
