"""Starts the test database's server before Django reads its settings.

A pytest plugin of its own, named in `addopts`: pytest-django has read the settings by the time that
conftest.py is imported.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator

import pytest

from tests.servers import MariaDbServer, PostgresServer, ServerFailed, ServerMissing

# The server that holds the test database, or the reason why there is none.
postgres_key = pytest.StashKey[PostgresServer]()
mariadb_key = pytest.StashKey[MariaDbServer]()
missing_key = pytest.StashKey[str]()


def servers_are_required() -> bool:
    """Whether a missing server is an error rather than a skip."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


# A wrapper, because pytest-django's hook of this name is itself a tryfirst one.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    folder = tempfile.mkdtemp(prefix="pm-celery-")
    early_config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ["PM_TEST_DIR"] = folder
    match os.environ.get("PM_TEST_DB"):
        case "postgres":
            postgres = PostgresServer(install=True, durable=False)
            if start(early_config, postgres, "PM_TEST_PG"):
                early_config.stash[postgres_key] = postgres
        case "mariadb":
            mariadb = MariaDbServer(install=True, durable=False)
            if start(early_config, mariadb, "PM_TEST_MARIADB"):
                early_config.stash[mariadb_key] = mariadb
    return (yield)


def start(config: pytest.Config, server: PostgresServer | MariaDbServer, prefix: str) -> bool:
    """Starts the server for as long as pytest runs, and tells the settings where; whether it is there."""
    try:
        server.start()
    except ServerMissing as missing:
        if servers_are_required():
            raise pytest.UsageError(f"{missing} With CI set, this is an error.") from None
        # Settings that can be imported; conftest.py skips every test, by name, with this reason.
        os.environ["PM_TEST_DB"] = "sqlite"
        config.stash[missing_key] = str(missing)
        return False
    except ServerFailed as failed:
        raise pytest.UsageError(str(failed)) from None
    config.add_cleanup(server.stop)
    os.environ[f"{prefix}_HOST"] = server.host
    os.environ[f"{prefix}_PORT"] = str(server.port)
    os.environ[f"{prefix}_USER"] = server.user
    return True
