"""`make test-all`: what runs, what is left out, and what the table and the exit status say."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest

from tests import matrix
from tests.matrix import Outcome, Run

pytestmark = pytest.mark.any_database

GREEN = {"passed": 3, "failed": 0, "skipped": 1}
RED = {"passed": 2, "failed": 1, "skipped": 1}
SQLITE, POSTGRES = Run("3.11", "django52", "sqlite"), Run("3.12", "django60", "postgres")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Run]:
    """The runs that would be made, on a machine with Python 3.11 only; each is green."""
    runs: list[Run] = []

    def execute(run: Run, python: str, sources: str, extra: Sequence[str]) -> Outcome:
        runs.append(run)
        (tmp_path / f"{run.name}.sources").write_text(f"{sources} 7")
        (tmp_path / f"{run.name}.xml").write_text(
            '<testsuites><testsuite tests="4" failures="0" errors="0" skipped="1"/></testsuites>'
        )
        return matrix.read(run)

    monkeypatch.setattr(matrix, "RESULTS", tmp_path)
    monkeypatch.setattr(matrix, "execute", execute)
    monkeypatch.setattr(matrix, "digest_of_sources", lambda: "digest")
    monkeypatch.setattr(
        matrix, "interpreter", lambda version: "python" if version == "3.11" else None
    )
    return runs


def test_it_runs_in_every_environment_that_tox_knows() -> None:
    tox = tomllib.loads((matrix.ROOT / "pyproject.toml").read_text())["tool"]["tox"]
    known: set[str] = set()
    for entry in tox["env_list"]:
        known |= (
            {entry} if isinstance(entry, str) else set(map("-".join, product(*entry["product"])))
        )

    assert {run.environment for run in matrix.all_runs()} == known
    for database in ("sqlite", "postgres"):
        found = {run.environment for run in matrix.all_runs() if run.database == database}
        assert found == known


def test_a_python_that_is_missing_is_named_and_fails_nothing(
    ran: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    status = matrix.run_all([SQLITE, POSTGRES], again=False, extra=[])

    assert (status, ran) == (0, [SQLITE])
    said = capsys.readouterr().out
    assert "No Python 3.12 on this machine" in said
    assert "py312-django60-postgres       -       -        -        -  no Python 3.12" in said


def test_what_was_green_for_the_same_sources_is_kept(
    ran: list[Run], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix.run_all([SQLITE], again=False, extra=[])
    capsys.readouterr()

    assert matrix.run_all([SQLITE], again=False, extra=[]) == 0
    assert ran == [SQLITE]
    assert "py311-django52-sqlite       3       0        1        7  from before" in (
        capsys.readouterr().out
    )

    monkeypatch.setattr(matrix, "digest_of_sources", lambda: "another")
    matrix.run_all([SQLITE], again=False, extra=[])
    assert ran == [SQLITE, SQLITE]


@pytest.mark.parametrize("counts", [RED, {}, {**GREEN, "passed": 0}])
def test_a_run_that_failed_or_told_nothing_is_red(
    ran: list[Run],
    counts: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(matrix, "ROOT", matrix.RESULTS)
    monkeypatch.setattr(
        matrix, "execute", lambda *_: Outcome(counts, 9.0, ["tests.test_x::test_y"])
    )

    assert matrix.run_all([SQLITE], again=False, extra=[]) == 1
    said = capsys.readouterr().out
    assert "FAILED tests.test_x::test_y" in said
    assert "RED: py311-django52-sqlite.log" in said
