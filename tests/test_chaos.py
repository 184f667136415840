"""The short form of the chaos: twenty seconds in which everything dies, and nothing is lost.

tests/chaos/__init__.py says what was broken in the package to see it fail.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [pytest.mark.workers, pytest.mark.postgresql]


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("redis_url")
def test_orders_survive_the_death_of_everything(tmp_path: Path) -> None:
    """Workers, Beats, Redis and PostgreSQL are killed while orders flow, and two workers' clocks differ by a
    minute; each event is handled once and in order, each command takes effect once, each order ends."""
    outcome = tmp_path / "chaos.json"
    short = ["--orders", "100", "--seconds", "20", "--under-way", "50", "--no-sync"]

    run = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *short, "--json", str(outcome)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=170,
    )

    assert run.returncode == 0, run.stdout
    told = json.loads(outcome.read_text())
    assert not any(told["faults"].values())
    assert told["quiet_after"] < 30
    # It was chaos: each kind of death came, and commands were lost on their way.
    assert all(told["disturbances"].get(kind) for kind in told["kinds"])
    assert told["counts"]["redispatched"] > 0
    assert told["clocks"]["worker-2"] - told["clocks"]["worker-1"] == pytest.approx(60, abs=2)
