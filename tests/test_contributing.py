"""What contributors type, and what git runs for them before a commit.

Breaks that turned these red: an entry that names no program; a hook from GitHub; ``ruff check`` as the hook
`format`; a check in .ci/run that the Makefile does not have; a target without a description.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.any_database

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / ".pre-commit-config.yaml"
TOOLS = ROOT / ".venv" / "bin"
COMMANDS = {
    "docs",
    "format",
    "hooks",
    "imports",
    "lint",
    "migrations-check",
    "package",
    "test",
    "types",
}


def targets() -> dict[str, str]:
    """The Makefile's targets with what `make help` says of them."""
    found = re.findall(r"^([a-z-]+):.*?(?:## (.*))?$", (ROOT / "Makefile").read_text(), re.M)
    return dict(found)


@pytest.fixture
def hooks() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="the group `hooks` is not in this environment")
    config = yaml.safe_load(CONFIG.read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    return [hook for repository in config["repos"] for hook in repository["hooks"]]


def test_each_chore_is_one_command_that_help_tells_of() -> None:
    described = {name for name, text in targets().items() if text}

    assert described >= COMMANDS
    assert set(targets()) - described <= {"help"}


def test_continuous_integration_runs_what_contributors_can_run() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    checks = re.findall(r"^for check in (.*); do$", script, re.M)[0].split()

    assert set(checks) <= targets().keys()
    assert {"lint", "types", "imports"} <= set(checks)


def test_hooks_run_the_programs_of_the_makefile_and_fetch_nothing(
    hooks: list[dict[str, Any]],
) -> None:
    if not TOOLS.exists():
        pytest.skip("there is no .venv: make venv")
    makefile = (ROOT / "Makefile").read_text()

    for hook in hooks:
        program = hook["entry"].split()[0]
        assert hook["language"] == "system", hook["id"]
        assert os.access(ROOT / program, os.X_OK), hook["id"]
        assert program.replace(".venv/bin/", "$(BIN)/") in makefile
        assert hook["id"] in targets()


def test_a_commit_of_code_out_of_form_is_stopped_and_the_code_mended(tmp_path: Path) -> None:
    program = TOOLS / "pre-commit"
    if not program.exists():
        pytest.skip("there is no .venv with the group `hooks`: make venv")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "ruff").symlink_to(TOOLS / "ruff")
    for name in (CONFIG.name, "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    file = tmp_path / "shop.py"
    file.write_text("import sys\nimport os\nprint( os, sys )  # noqa: T201\n")

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        own = {"PRE_COMMIT_HOME": str(tmp_path / "cache"), "GIT_CONFIG_GLOBAL": os.devnull}
        return subprocess.run(
            command, check=False, cwd=tmp_path, env=kept | own, capture_output=True, text=True
        )

    run("git", "init", "-q")

    for hook in ("lint", "format"):
        run("git", "add", "shop.py")
        assert run(str(program), "run", hook).returncode == 1

    assert file.read_text() == "import os\nimport sys\n\nprint(os, sys)  # noqa: T201\n"
    assert run(str(program), "run", "format", "--all-files").returncode == 0
