"""`make test`: what runs beside what, and what its status says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import suites

pytestmark = pytest.mark.any_database

RUN = """
import os, sys
from tests import suites
suites.subprocess.run = lambda command, **options: __import__("subprocess").CompletedProcess(
    command, STATUS.get(options["env"]["PM_TEST_DB"], 0)
)
sys.exit(suites.main(sys.argv[1:]))
"""


def run(statuses: dict[str, int], *arguments: str) -> subprocess.CompletedProcess[str]:
    """`make test`, whose runs of pytest end with these statuses."""
    return subprocess.run(
        [sys.executable, "-c", f"STATUS = {statuses}\n{RUN}", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=suites.ROOT,
    )


def test_every_database_has_a_run_and_one_lane_does_not_mix_with_the_other() -> None:
    done = run({})

    titles = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert titles == [f"== The suite on {name}" for name in ("sqlite", "mariadb", "postgres")]
    assert done.returncode == 0


def test_arguments_choose_the_tests_on_all_of_them() -> None:
    done = run({}, "tests/test_time.py", "-k", "timeout")

    chosen = {line.split(": ", 1)[1] for line in done.stdout.splitlines()}
    assert chosen == {"tests/test_time.py -k timeout"}


@pytest.mark.parametrize("red", ["sqlite", "mariadb", "postgres"])
def test_one_red_run_makes_all_of_it_red_and_the_others_run_all_the_same(red: str) -> None:
    done = run({red: 1})

    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 3


def test_a_test_that_is_for_one_database_only_is_no_failure_elsewhere() -> None:
    none = suites.NO_TESTS_COLLECTED

    assert run({"mariadb": none, "postgres": none}).returncode == 0
    assert run(dict.fromkeys(("sqlite", "mariadb", "postgres"), none)).returncode == none


def test_what_is_left_out_somewhere_exists() -> None:
    named = [*suites.MARIADB_PART, *suites.NOT_ON_POSTGRES]

    assert [
        name for name in named if not Path(f"{suites.ROOT}/tests/test_{name}.py").exists()
    ] == []
