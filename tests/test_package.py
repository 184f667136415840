"""What the package costs and shows before a project uses it, and that its door is the same everywhere.

Breaks that turned these red: ``from pm_celery import models`` at the door; a second of work in ``messages``;
no ``_explain``; a name left out of ``__all__``, of the page, or of tests/typing/usage.py.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pm_celery

pytestmark = pytest.mark.any_database

ROOT = Path(__file__).parent.parent
# What cannot be had before Django's models.
PUBLISHING = {"Envelope", "apublish", "publish", "publish_many"}
MOST_SECONDS = 0.15

PREPARED = """
import time
from celery import Celery, Task, current_app, shared_task, signals
from celery.canvas import Signature
from pydantic import BaseModel, TypeAdapter
"""
ASKED = """
import json, sys
import pm_celery
found = {}
for name in pm_celery.__all__:
    try:
        found[name] = bool(getattr(pm_celery, name)) and ""
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error} " + " ".join(error.__notes__)
"""
SET_UP = """
from django.conf import settings
settings.configure(INSTALLED_APPS=["django.contrib.contenttypes", "pm_celery"])
import django
django.setup()
"""


def in_a_fresh_interpreter(code: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# -- before Django is set up --------------------------------------------------------------------------


def test_importing_the_package_loads_no_models_and_reads_no_settings() -> None:
    code = (
        "import pm_celery, sys;"
        "print([name for name in sys.modules if name.startswith(('pm_celery.', 'django', 'celery'))])"
    )

    assert in_a_fresh_interpreter(code) == "[]"


def test_what_users_declare_can_be_had_before_django_is_set_up_and_loads_no_models() -> None:
    names = sorted(set(pm_celery.__all__) - PUBLISHING)
    code = (
        f"from pm_celery import {', '.join(names)}\n"
        "import sys\n"
        "from django.conf import settings\n"
        "print(settings.configured, 'pm_celery.models' in sys.modules, 'django.db.models' in sys.modules)"
    )

    assert in_a_fresh_interpreter(code) == "False False False"


def test_what_needs_models_says_so_and_is_there_once_django_is_set_up() -> None:
    code = f"{ASKED}\nprint(json.dumps(found)){SET_UP}{ASKED}\nprint(json.dumps(found))"

    before, after = map(json.loads, in_a_fresh_interpreter(code).splitlines())

    assert {name for name, error in before.items() if error} == PUBLISHING
    for name in PUBLISHING:
        assert f"pm_celery.{name} needs Django's models" in before[name]
        assert "call django.setup() before" in before[name]
    assert set(after.values()) == {""}


def test_an_app_that_publishes_at_its_import_is_told_where_to_import(tmp_path: Path) -> None:
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "__init__.py").write_text("from pm_celery import publish\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + SET_UP.replace(
        '"pm_celery"]', '"pm_celery", "early"]'
    ).replace(
        "django.setup()",
        "try:\n    django.setup()\nexcept Exception as error:\n    print(error.__notes__)",
    )

    assert "import it in the function that uses it" in in_a_fresh_interpreter(code)


def test_declaring_costs_little_beyond_pydantic_and_celery() -> None:
    names = sorted(set(pm_celery.__all__) - PUBLISHING)
    code = (
        f"{PREPARED}\nbegan = time.process_time()\nfrom pm_celery import {', '.join(names)}\n"
        "print(time.process_time() - began)"
    )

    # The CPU's time and the least of a few: what else the machine does costs nothing.
    assert min(float(in_a_fresh_interpreter(code)) for _ in range(3)) < MOST_SECONDS


# -- the door -----------------------------------------------------------------------------------------


def test_every_public_name_can_be_imported() -> None:
    for name in pm_celery.__all__:
        assert getattr(pm_celery, name) is not None


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="publsh"):
        pm_celery.publsh  # noqa: B018


def test_the_door_names_what_it_can_fetch_and_what_type_checkers_see() -> None:
    tree = ast.parse((ROOT / "pm_celery" / "__init__.py").read_text())
    seen = {
        alias.asname
        for block in tree.body
        if isinstance(block, ast.If)
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }

    assert set(pm_celery.__all__) == seen == set(pm_celery._HOME_OF)
    assert pm_celery.__all__ == sorted(pm_celery.__all__)
    assert set(pm_celery.__all__) <= set(dir(pm_celery))


def test_the_typing_test_uses_every_public_name() -> None:
    tree = ast.parse((ROOT / "tests" / "typing" / "usage.py").read_text())
    imported = {
        alias.name
        for line in tree.body
        if isinstance(line, ast.ImportFrom) and line.module == "pm_celery"
        for alias in line.names
    }

    assert imported == set(pm_celery.__all__)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert imported <= used


def test_the_page_of_the_api_documents_every_public_name_and_none_besides() -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    # A directive of autodoc's; with the parameters in brackets where others are to be shown.
    documented = re.findall(
        r"^\.\. auto(?:class|data|decorator|exception|function):: pm_celery\.(\w+)(?:\(.*\))?$",
        page,
        re.M,
    )

    assert sorted(documented) == pm_celery.__all__
    # What is public besides is there as a whole: all that its `__all__` names.
    for module in ("exceptions", "testing"):
        assert f".. automodule:: pm_celery.{module}\n   :members:\n" in page
