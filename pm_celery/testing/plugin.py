"""The pytest plugin: one fixture, which loads what it needs when a test asks for it.

Pytest imports this module in every project where the package is installed, so it imports nothing else.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pm_celery.testing.database import ProcessManagers

__all__ = ["process_managers", "pytest_runtest_makereport"]


@pytest.fixture
def process_managers(request: pytest.FixtureRequest) -> Iterator[ProcessManagers]:
    """Drive process managers synchronously, on real rows, in virtual time: publish, drain, elapse."""
    if not request.config.pluginmanager.hasplugin("django"):
        pytest.fail(
            "process_managers needs a test database: install pytest-django, or use "
            "pm_celery.testing.ProcessManagersMixin with Django's TestCase.",
            pytrace=False,
        )
    # In a transaction that is rolled back, unless the test is marked django_db(transaction=True).
    request.getfixturevalue("db")
    from pm_celery.testing.database import ProcessManagers

    with ProcessManagers() as managers:
        yield managers


# In the old style of wrappers: this is loaded whatever pytest a project has.
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Tell where processes stand when a test fails that drives them."""
    report = (yield).get_result()
    managers = getattr(item, "funcargs", {}).get("process_managers")
    if managers is not None and report.when == "call" and report.failed:
        # What made the test fail may keep the database from answering.
        with suppress(Exception):
            report.sections.append(("Process managers", managers.report()))
