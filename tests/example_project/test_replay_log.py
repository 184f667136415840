"""``replay_log`` with real workers counts what an independent loop over the file counts."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import pytest

from tests.before_django import servers_are_required
from tests.example_project.requirements import needs_beat
from tests.servers import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
REAL_LOGS = ROOT / ".." / "shared" / "data"

pytestmark = [pytest.mark.workers, pytest.mark.timeout(300), needs_beat]

Run = Callable[..., subprocess.CompletedProcess[str]]


def event(activity: str, minute: int, transition: str = "complete") -> str:
    return (
        f'<event><string key="concept:name" value={quoteattr(activity)}/>'
        f'<date key="time:timestamp" value="2024-01-01T10:{minute:02}:00+02:00"/>'
        f'<string key="lifecycle:transition" value={quoteattr(transition)}/></event>'
    )


def trace(case: str, *events: str) -> str:
    name = f'<string key="concept:name" value={quoteattr(case)}/>'
    return f"<trace>{name}{''.join(events)}</trace>"


LONG = "a very long name, " * 30

LOG = "".join(
    [
        '<?xml version="1.0" encoding="UTF-8"?><log xmlns="http://www.xes-standard.org/">',
        trace("as planned", event("open", 0), event("work", 5), event("close", 9)),
        trace("no start", event("work", 1), event("close", 2), event("work", 3)),
        trace("late start", event("work", 1), event("reopen", 2), event("work", 3)),
        trace("never ends", event("open", 0), *[event("work", minute) for minute in range(20)]),
        trace("after the end", event("open", 0), event("close", 1), event("open", 2)),
        trace("two ends", event("open", 0), event("close", 1), event("close", 1)),
        trace(
            "one moment", event("open", 7), event("work", 7), event("close", 7), event("work", 7)
        ),
        trace("both", event("open and close", 4), event("work", 5)),
        trace(
            "transitions",
            event("open", 0, "START"),
            event("open", 0, "COMPLETE"),
            event("work", 1, "Complete"),
            event("close", 2, "schedule"),
            event("work", 3, "start"),
        ),
        trace("As Planned", event("open", 0)),
        trace("ÄÖ 案件 🚚 'quoted' \"twice\"", event("öffnen ✓", 0), event("OPEN", 1)),
        trace("long" * 100, event("open", 0), event(LONG, 1), event(LONG + "!", 2)),
        trace("no event at its end", event("open", 0), event("CLOSE", 1), event("close", 2)),
        "</log>",
    ]
)
STARTS = ["open", "reopen", "open and close", "öffnen ✓"]
ENDS = ["close", "open and close"]


def counted(
    file: Path, starts: list[str], ends: list[str], transition: str | None = None
) -> dict[str, int]:
    """The same numbers from a plain loop over the file."""
    counts = dict.fromkeys(("cases", "events", "ignored", "handled", "skipped", "unmatched"), 0)
    states: dict[str, str] = {}
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
        for trace in (
            ElementTree.parse(opened).getroot().iter("{http://www.xes-standard.org/}trace")
        ):
            said = {child.get("key"): child.get("value") for child in trace}
            case = said["concept:name"] or ""
            counts["cases"] += 1
            for event in trace.iter("{http://www.xes-standard.org/}event"):
                said = {child.get("key"): child.get("value") for child in event}
                activity = said["concept:name"]
                if (
                    transition
                    and (said["lifecycle:transition"] or "").lower() != transition.lower()
                ):
                    counts["ignored"] += 1
                    continue
                counts["events"] += 1
                state = states.get(case, "")
                if state == "completed":
                    counts["skipped"] += 1
                elif state or activity in starts:
                    counts["handled"] += 1
                    states[case] = "completed" if activity in ends else "started"
                else:
                    counts["unmatched"] += 1
    reached = list(states.values())
    return counts | {state: reached.count(state) for state in ("completed", "started")}


@pytest.fixture
def environment(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> dict[str, str]:
    """Of the example project on Redis, in a migrated database of the sort that this run tests."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("EXAMPLE_")},
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "PYTHONPATH": str(ROOT),
        "EXAMPLE_DATA": str(tmp_path / "data"),
        "EXAMPLE_BROKER": redis_url,
    }
    if os.environ.get("PM_TEST_DB") == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        name = f"replay_{abs(hash(str(tmp_path)))}"
        environment["EXAMPLE_DATABASE"] = server.create_database(name)
    return environment


@pytest.fixture
def manage(environment: dict[str, str]) -> Run:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", *map(str, arguments)],
            cwd=ROOT / "example_project",
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )

    return run


@pytest.fixture
def replay(manage: Run) -> Run:
    migrated = manage("migrate", "--verbosity", 0)
    assert migrated.returncode == 0, migrated.stderr
    return lambda *arguments: manage("replay_log", *arguments)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "log.xes"
    file.write_text(LOG, encoding="utf-8")
    return file


def options(starts: list[str], ends: list[str]) -> Iterator[str]:
    for start in starts:
        yield from ("--start", start)
    for end in ends:
        yield from ("--end", end)


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one JSON object on stdout, without the times, which are checked here."""
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert list(found)[-2:] == ["seconds", "events_per_second"]
    assert found.pop("seconds") > 0
    assert found.pop("events_per_second") > 0
    return found


def test_the_counts_are_those_of_a_loop_over_the_file_however_often_it_runs(
    replay: Run, log: Path
) -> None:
    """What real logs are like is counted right, and a second run in the same database as well."""
    expected = counted(log, STARTS, ENDS)

    first = result(replay(log, *options(STARTS, ENDS), "--json"))
    second = result(replay(log, *options(STARTS, ENDS), "--workers", 1, "--json"))

    assert first == expected
    assert second == expected
    assert min(expected[name] for name in ("skipped", "unmatched", "completed", "started")) > 0


def test_other_transitions_are_ignored(replay: Run, log: Path) -> None:
    """Transitions are compared without regard to case, and what is left out is counted."""
    expected = counted(log, STARTS, ENDS, "complete")

    found = result(replay(log, *options(STARTS, ENDS), "--transition", "cOMPLETE", "--json"))

    assert found == expected
    assert expected["ignored"] == 3


def test_the_help_desk_log_is_counted_right(replay: Run) -> None:
    """A real log of 21,348 events gives the counts of a plain loop over it."""
    file = REAL_LOGS / "helpdesk.xes.gz"
    if not file.exists():
        if servers_are_required():
            pytest.fail(f"{file} is missing. With CI set, this is an error.", pytrace=False)
        pytest.skip(f"{file} is not there")
    starts = ["Insert ticket", "Assign seriousness", "Take in charge ticket"]
    expected = counted(file, starts, ["Closed"])

    found = result(replay(file, *options(starts, ["Closed"]), "--json"))

    assert found == expected
    assert (found["cases"], found["events"]) == (4580, 21348)


def test_people_get_a_table(replay: Run, log: Path) -> None:
    """Without --json every number stands on a line of its own, and no bar where no terminal is."""
    done = replay(log, *options(STARTS, ENDS))

    assert done.returncode == 0, done.stderr
    numbers = {line[:30].strip(): line[30:].strip() for line in done.stdout.splitlines()}
    expected = counted(log, STARTS, ENDS)
    assert numbers["cases"] == str(expected["cases"])
    assert numbers["events published"] == str(expected["events"])
    assert numbers["instances completed"] == str(expected["completed"])
    assert len(numbers) == 10
    assert "█" not in done.stderr


def test_bad_input_is_refused_with_the_next_step(replay: Run, log: Path, tmp_path: Path) -> None:
    """Each mistake is one line on stderr that says what to do, and nothing on stdout."""
    no_log = tmp_path / "no.xes"
    no_log.write_text("<html/>", encoding="utf-8")
    good = list(options(STARTS, ENDS))

    for arguments, message in [
        ([tmp_path / "missing.xes", *good], "No such file"),
        ([no_log, *good], "no XES log"),
        ([log, "--end", "close"], "Give at least one --start"),
        ([log, "--start", "open"], "Give at least one --end"),
        ([log, "--start", "Opne", "--end", "close"], "Did you mean 'open' or 'reopen' or 'OPEN'?"),
        ([log, "--start", "zzz", "--end", "close"], "Its activities are: 'work', "),
        ([log, *good, "--transition", "done"], "'START', 'complete'"),
        ([log, *good, "--workers", "0"], "1 or more"),
    ]:
        done = replay(*arguments, "--json")

        assert done.returncode == 1, arguments
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_tables_that_are_not_there_are_told(manage: Run, log: Path) -> None:
    """Before the first migration, the command names the migration and touches nothing."""
    done = manage("replay_log", log, *options(STARTS, ENDS))

    assert done.returncode == 1
    assert "manage.py migrate" in done.stderr


@pytest.fixture
def long_log(tmp_path: Path) -> Path:
    """Enough events to do something to the processes meanwhile."""
    events = [event("open", 0), *[event("work", minute) for minute in range(8)], event("close", 9)]
    file = tmp_path / "long.xes"
    traces = "".join(trace(f"case {number}", *events) for number in range(2000))
    file.write_text(f'<log xmlns="http://www.xes-standard.org/">{traces}</log>', encoding="utf-8")
    return file


def children(parent: int) -> list[int]:
    """The processes that a process started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue  # it ended meanwhile
        # Behind the name, which may hold anything: the state and the parent.
        if int(text.rpartition(")")[2].split()[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc to look into")
@pytest.mark.parametrize(
    ("victim", "number", "status", "message"),
    [
        ("command", signal.SIGINT, 130, "Stopped."),
        ("command", signal.SIGTERM, 130, "Stopped."),
        ("command", signal.SIGKILL, -signal.SIGKILL, ""),
        ("worker", signal.SIGKILL, 1, "of 2 ended by itself, with status -9."),
    ],
)
def test_no_worker_outlives_its_command(
    replay: Run,
    environment: dict[str, str],
    long_log: Path,
    victim: str,
    number: signal.Signals,
    status: int,
    message: str,
) -> None:
    """Whoever is killed, and however: the workers are gone soon, and the command says what happened."""
    command = subprocess.Popen(
        [sys.executable, "manage.py", "replay_log", str(long_log), *options(["open"], ["close"])],
        cwd=ROOT / "example_project",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with command:
        try:
            until(lambda: len(children(command.pid)) == 2, "two workers")
            workers = children(command.pid)

            os.kill(command.pid if victim == "command" else workers[0], number)
            stdout, stderr = command.communicate(timeout=60)
        finally:
            command.kill()

    assert command.returncode == status
    assert message in stderr
    assert stdout == ""
    until(lambda: not any(map(is_alive, workers)), "the workers' end")
