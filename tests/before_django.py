"""Starts PostgreSQL before Django reads its settings.

A pytest plugin of its own, named in `addopts`: pytest-django has read the settings by the time that
conftest.py is imported.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator

import pytest

from tests.servers import PostgresServer, ServerFailed, ServerMissing

# The PostgreSQL that holds the test database, or the reason why there is none.
postgres_key = pytest.StashKey[PostgresServer]()
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
    if os.environ.get("PM_TEST_DB") == "postgres":
        start_postgres(early_config)
    return (yield)


def start_postgres(config: pytest.Config) -> None:
    server = PostgresServer(install=True, durable=False)
    try:
        server.start()
    except ServerMissing as missing:
        if servers_are_required():
            raise pytest.UsageError(f"{missing} With CI set, this is an error.") from None
        # Settings that can be imported; conftest.py skips every test, by name, with this reason.
        os.environ["PM_TEST_DB"] = "sqlite"
        config.stash[missing_key] = str(missing)
        return
    except ServerFailed as failed:
        raise pytest.UsageError(str(failed)) from None
    config.add_cleanup(server.stop)
    config.stash[postgres_key] = server
    os.environ["PM_TEST_PG_HOST"] = server.host
    os.environ["PM_TEST_PG_PORT"] = str(server.port)
    os.environ["PM_TEST_PG_USER"] = server.user
