"""The README's steps, taken as a new user takes them, in a project that startproject made."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time as wall_clock
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.any_database

README = (Path(__file__).parent.parent / "README.md").read_text()
HOMES = {"settings.py": "mysite", "celery.py": "mysite", "__init__.py": "mysite"}


def blocks() -> list[tuple[str, str]]:
    """The README's Python files: (name, text)."""
    found = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", README, re.DOTALL)
    assert [name for name, _ in found] == [
        "shop/processes.py",
        "settings.py",
        "celery.py",
        "__init__.py",
        "settings.py",
    ]
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    def django(*args: str) -> None:
        subprocess.run([sys.executable, "-m", "django", *args], cwd=tmp_path, env=env(), check=True)

    django("startproject", "mysite", ".")
    django("startapp", "shop")
    for name, text in blocks():
        home = tmp_path / HOMES.get(name, "")
        with (home / name).open("a") as file:
            file.write(text)
    return tmp_path


def env() -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("DJANGO_", "PM_TEST_"))}
    return plain | {"PYTHONPATH": ""}


def manage(project: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *args],
        cwd=project,
        env=env(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def shell_line() -> str:
    found = re.search(r'shell -c "(.*)"', README)
    assert found
    return found[1]


@pytest.mark.sqlite
@pytest.mark.workers
def test_the_readmes_steps_take_an_order_to_its_end_in_a_fresh_project(project: Path) -> None:
    migrated = manage(project, "migrate")
    assert migrated.returncode == 0, migrated.stderr
    assert "pm_celery" not in migrated.stderr
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "mysite", "worker", "--beat", "-c", "2"],
        cwd=project,
        env=env(),
        stdout=(project / "worker.log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        published = manage(project, "shell", "-c", shell_line())
        assert published.returncode == 0, published.stderr
        question = "from pm_celery.models import Instance; print([i.status for i in Instance.objects.all()])"
        deadline = wall_clock.monotonic() + 40
        while wall_clock.monotonic() < deadline:
            answer = manage(project, "shell", "-c", question).stdout
            if "completed" in answer:
                break
        assert "['completed']" in answer, (project / "worker.log").read_text()[-4000:]
    finally:
        worker.terminate()
        try:
            worker.wait(20)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)


@pytest.mark.sqlite
def test_the_readmes_project_passes_djangos_checks(project: Path) -> None:
    manage(project, "migrate")

    checked = manage(project, "check", "--database", "default")

    assert checked.returncode == 0, checked.stderr
    assert "pm_celery.W044" in checked.stderr
    assert checked.stderr.count("pm_celery.W") == 1, checked.stderr


@pytest.mark.sqlite
def test_a_typo_in_a_process_names_class_method_and_remedy(project: Path) -> None:
    path = project / "shop" / "processes.py"
    path.write_text(
        path.read_text().replace('correlate="order_id", end', 'correlate="oder_id", end')
    )

    checked = manage(project, "check")

    assert checked.returncode == 1
    assert "shop.processes.OrderFulfilment.paid()" in checked.stderr
    assert "Did you mean 'order_id'?" in checked.stderr
    assert "pm_celery.E005" in checked.stderr


@pytest.mark.sqlite
def test_without_migrating_the_check_says_what_to_run(project: Path) -> None:
    checked = manage(project, "check", "--database", "default")

    assert checked.returncode == 1
    assert "manage.py migrate pm_celery" in checked.stderr
