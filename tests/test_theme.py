"""The pages under django-unfold, in short; all their tests run with it in `make test-all`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.matrix import ROOT

pytestmark = pytest.mark.any_database

# The overview, and the page of one instance: what has most of our own templates.
TESTS = (
    "tests/test_overview.py::test_each_process_with_what_runs_what_ended_and_what_began_today",
    "tests/test_instance_page.py::test_where_an_order_is_and_what_it_waits_for_stands_at_the_top",
    "tests/test_instance_page.py::test_a_step_back_in_time_shows_the_state_and_the_road_as_of_then",
)


def test_the_pages_tell_the_same_under_another_theme() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PM_TEST_DB": "sqlite", "PM_TEST_THEME": "unfold"},
    )

    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
