"""What a database can do that another one cannot, and so which tests run on it.

A test that needs such a capability says so by name: ``@pytest.mark.needs("row locks")``. Where the
database lacks it, the test is skipped with the reason that stands here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["LACKING", "NAMES", "database"]

NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}

# Who lacks a capability, and what it is like there.
LACKING: Mapping[str, Mapping[str, str]] = {
    "row locks": {
        "sqlite": "no row locks: one transaction at a time may write, and no other stands beside it",
    },
    "NOTIFY": {
        "sqlite": "no NOTIFY: there is no server that could tell a listener",
        "mariadb": "no NOTIFY: workers have no listener, and are woken by Celery messages",
    },
}


def database() -> str:
    """The database of this run of the suite, by the name of its marker."""
    kind = os.environ.get("PM_TEST_DB", "sqlite")
    return "postgresql" if kind == "postgres" else kind
