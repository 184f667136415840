"""The example's shop has tests of its own, with its own settings: they run in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.example_project.requirements import needs_beat

pytestmark = needs_beat

REPOSITORY = Path(__file__).resolve().parents[2]


def manage(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the example's manage.py, with a folder of its own for its data."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("EXAMPLE_")},
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "EXAMPLE_BROKER": "memory://",
        "EXAMPLE_DATA": str(tmp_path),
        "PYTHONPATH": str(REPOSITORY),
    }
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=REPOSITORY / "example_project",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_shop_passes_its_own_tests(tmp_path: Path) -> None:
    done = manage(tmp_path, "test", "shop")

    assert done.returncode == 0, done.stderr
    assert "OK" in done.stderr


@pytest.mark.any_database
def test_mistakes_in_the_shops_processes_are_found_by_exploring_them(tmp_path: Path) -> None:
    """Conformance 48: tests/example_project/faulty.py."""
    done = manage(tmp_path, "test", "tests.example_project.faulty")

    assert done.returncode == 0, done.stderr
    assert "Ran 4 tests" in done.stderr


def test_the_example_passes_the_system_checks(tmp_path: Path) -> None:
    done = manage(tmp_path, "check", "--fail-level", "WARNING")

    assert done.returncode == 0, done.stderr


def test_the_example_has_no_model_change_without_a_migration(tmp_path: Path) -> None:
    done = manage(tmp_path, "makemigrations", "--check", "--dry-run")

    assert done.returncode == 0, done.stdout + done.stderr
