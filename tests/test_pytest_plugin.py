"""The pytest plugin in projects of others: a fresh one with Django, and one without."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.any_database

PAGE = Path(__file__).parent.parent / "docs/how-to/test-with-a-database.md"
SETTINGS = """
SECRET_KEY = "only for tests"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["pm_celery", "shop"]
CELERY_BROKER_URL = "redis://127.0.0.1:%d/0"
"""
CELERY = """
from celery import Celery

app = Celery("mysite")
app.config_from_object("django.conf:settings", namespace="CELERY")
"""

MISTAKEN = """
from pm_celery import publish
from shop.processes import Dunning, InvoiceSent

def test_that_fails(process_managers):
    publish(InvoiceSent(number="7", email="ada@example.com"))
    process_managers.elapse("1d")
    assert process_managers.state(Dunning, "7").reminders == 1
"""
REPORT = """-+ Process managers -+
It is 2.* UTC.
shop.Dunning 7: started after 1 transition
next: the timer reminder of shop.Dunning 7, due at 2.* UTC
next: the timeout of shop.Dunning 7, due at 2"""


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    plain = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DJANGO_", "PM_TEST_", "PYTEST_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=plain | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_the_page_s_tests_pass_in_a_fresh_project_whose_broker_never_answers(
    tmp_path: Path,
) -> None:
    """Its snippets are the project; the broker accepts, and says nothing to anybody."""
    with socket.create_server(("127.0.0.1", 0)) as broker:
        files = dict(re.findall(r"```(?:python|ini)\n# (\S+)\n(.*?)```", PAGE.read_text(), re.S))
        assert set(files) == {
            "shop/processes.py",
            "pytest.ini",
            "shop/test_dunning.py",
            "shop/tests.py",
        }
        files |= {
            "mysite/settings.py": SETTINGS % broker.getsockname()[1],
            "mysite/celery.py": CELERY,
            "mysite/__init__.py": "from mysite.celery import app",
            "shop/__init__.py": "",
            "shop/test_mistaken.py": MISTAKEN,
        }
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)

        done = run_pytest(tmp_path, "-q", "--no-migrations")

        assert "1 failed, 5 passed" in done.stdout, done.stdout + done.stderr
        assert re.search(REPORT, done.stdout), done.stdout
        broker.setblocking(False)
        with pytest.raises(BlockingIOError):
            broker.accept()


def test_a_project_without_django_pays_nothing_and_is_told_what_is_missing_if_it_asks(
    tmp_path: Path,
) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_nothing_is_loaded():\n"
        "    known = ('pm_celery', 'django', 'celery', 'kombu', 'pydantic')\n"
        "    loaded = {name for name in sys.modules if name.split('.')[0] in known}\n"
        "    assert loaded == {'pm_celery', 'pm_celery.testing', 'pm_celery.testing.plugin'}\n"
        "def test_somebody_asks(process_managers): ...\n"
    )

    done = run_pytest(tmp_path, "-p", "no:django")

    assert "1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "install pytest-django" in done.stdout
