"""Replay: the example project takes a real event log through a process manager.

What was measured with it stands in docs/understand/replay.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.benchmarks import checking
from tests.benchmarks.results import Result
from tests.benchmarks.stage import Stage
from tests.benchmarks.workers import ROOT, Stalled
from tests.servers import tail

__all__ = ["missing", "run"]

_VARIABLE = "PM_BENCH_REPLAY_LOG"
_NAME = "replay"
_SECONDS = 900.0
_ARGUMENTS = (
    *("--transition", "complete", "--start", "A_SUBMITTED"),
    *("--end", "A_DECLINED", "--end", "A_CANCELLED", "--end", "A_ACTIVATED"),
)

# What an independent loop over the file counts.
_EXPECTED = {
    "cases": 13_087,
    "events": 164_506,
    "handled": 152_837,
    "skipped": 11_669,
    "unmatched": 0,
    "completed": 12_688,
    "started": 399,
}


def missing(stage: Stage) -> str:
    """Why it cannot run here, or ""."""
    if stage.postgres is None:
        return "it is measured on PostgreSQL"
    if not _log().is_file():
        return f"there is no {_log()}; {_VARIABLE} names another place for bpic2012.xes.gz"
    return ""


def run(stage: Stage, orders: int, number: int) -> list[Result]:
    """The seconds that the command itself counts: from the first publish until nothing is due."""
    assert stage.postgres is not None
    stage.reset()
    stage.postgres.create_database(f"{_NAME}_{number}")
    _manage(stage, number, "migrate", "--verbosity=0")
    answer = _manage(stage, number, "replay_log", str(_log()), "--json", *_ARGUMENTS)
    found = json.loads(answer.splitlines()[-1])
    checking.expect("the replay's counts", _EXPECTED, {name: found[name] for name in _EXPECTED})
    return [Result("replay", "pm_celery", number, found["events"], found["seconds"], {})]


def _log() -> Path:
    default = ROOT.parent / "shared" / "data" / "bpic2012.xes.gz"
    return Path(os.environ.get(_VARIABLE, default))


def _manage(stage: Stage, number: int, *arguments: str) -> str:
    assert stage.postgres is not None
    server = stage.postgres
    address = f"postgres://{server.user}@{server.host}:{server.port}/{_NAME}_{number}"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "EXAMPLE_DATABASE": address,
        "EXAMPLE_BROKER": stage.redis.url,
        "EXAMPLE_DATA": str(stage.folder / "example"),
    }
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT / "example_project",
        env=environment,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        raise Stalled(f"manage.py {arguments[0]} failed:\n{tail(done.stderr)}")
    return done.stdout
