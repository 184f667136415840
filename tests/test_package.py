"""What the package costs and shows before a project uses it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pm_celery


def in_a_fresh_interpreter(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_loads_no_models_and_reads_no_settings() -> None:
    code = (
        "import pm_celery, sys;"
        "print([name for name in sys.modules if name.startswith(('pm_celery.', 'django', 'celery'))])"
    )

    assert in_a_fresh_interpreter(code) == "[]"


def test_what_users_declare_can_be_imported_before_django_is_set_up() -> None:
    code = (
        "from pm_celery import ProcessManager, Retry, command, command_handler, event, handle, policy\n"
        "import sys\n"
        "assert 'pm_celery.models' not in sys.modules\n"
        "from django.conf import settings\n"
        "print(settings.configured)"
    )

    assert in_a_fresh_interpreter(code) == "False"


def test_every_public_name_can_be_imported() -> None:
    for name in pm_celery.__all__:
        assert getattr(pm_celery, name) is not None


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="publsh"):
        pm_celery.publsh  # noqa: B018
