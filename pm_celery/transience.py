"""Which database errors say nothing about the message: the run is repeated, and costs no attempt."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from django.db import DatabaseError, Error, InterfaceError, OperationalError, connections

from pm_celery.wording import text_of

__all__ = ["UNKNOWN_STATEMENT", "is_transient", "repeated", "sqlstate"]

T = TypeVar("T")

_REPEATS = 8

# SQLSTATE classes and codes: connection lost, serialization failure, deadlock, lock not available,
# the server shuts down or starts up, too many connections.
_SQLSTATE_CLASSES = ("08", "40")
_SQLSTATES = {"55P03", "57P01", "57P02", "57P03", "53300"}
# A prepared statement is unknown, or there already: a pooler gave us another session.
UNKNOWN_STATEMENT = {"26000", "42P05"}
# MySQL and MariaDB: lock wait timeout, deadlock, server gone, connection lost, shutdown.
_MYSQL_CODES = {1205, 1213, 2006, 2013, 1053, 2002, 2003, 1040}


def is_transient(error: BaseException | None) -> bool:
    """Whether an exception, or what it was raised from, is a lost lock, race or connection."""
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, InterfaceError):
            return True
        if isinstance(error, DatabaseError | Error) and _says_so(error):
            return True
        error = error.__cause__ or error.__context__
        seen += 1
    return False


def sqlstate(error: BaseException) -> str:
    """PostgreSQL's code for an error, "" where there is none."""
    driver = error.__cause__ or error
    return getattr(driver, "sqlstate", None) or getattr(driver, "pgcode", None) or ""


def _says_so(error: BaseException) -> bool:
    driver = error.__cause__ or error
    state = sqlstate(error)
    if state:
        known = _SQLSTATES | UNKNOWN_STATEMENT
        return state[:2] in _SQLSTATE_CLASSES or state in known
    code = error.args[0] if error.args else None
    if isinstance(code, int):
        return code in _MYSQL_CODES
    text = text_of(error)
    if "database is locked" in text or "database table is locked" in text:
        return True
    # psycopg gives no state for a connection that broke under it.
    return isinstance(error, OperationalError) and (
        type(driver).__module__.startswith("psycopg")
        and type(driver).__name__ == "OperationalError"
    )


def repeated(alias: str, run: Callable[[], T], times: int = _REPEATS) -> T:
    """Run a transaction, and run it again if it lost a race, a lock or its connection.

    A connection that broke is replaced: workers that keep theirs (``CELERY_DB_REUSE_MAX``) would fail
    with it for ever. What is still transient after the last time is raised.
    """
    for repeat in range(1, times):
        try:
            return run()
        except Exception as error:
            if not is_transient(error):
                raise
        connections[alias].close_if_unusable_or_obsolete()
        time.sleep(random.uniform(0.005, 0.01) * 2**repeat)
    return run()
