"""Prepared statements on PostgreSQL: where they are safe, and for how long.

Planning the statements of a batch of one took three fifths of what it cost the server (docs/adr/0006).
Django never prepares, because a connection pooler may hand each transaction to another session. So:
not where ``DISABLE_SERVER_SIDE_CURSORS`` says that there is such a pooler; and where one answers that
it does not know a statement, nothing is prepared any more, and the transaction is repeated.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pm_celery.transience import UNKNOWN_STATEMENT, sqlstate

__all__ = ["LONGEST_SECONDS", "of_this_age", "prepared"]

# How often a connection sees a statement before it is prepared.
_USES = 2
# How old a plan gets, in seconds.
LONGEST_SECONDS = 10
_FIRST_NAME = 2**60
_refused = False

logger = logging.getLogger("pm_celery")


def of_this_age(query: str) -> str:
    """The query as it is prepared for the next seconds.

    A plan that was made while the tables were empty reads them from end to end, until the server's
    statistics are renewed: so no plan gets old.
    """
    return f"{query}-- {int(time.monotonic() / LONGEST_SECONDS)}"


@contextmanager
def prepared(connection: Any) -> Iterator[None]:
    """Let psycopg prepare what is executed inside, on this connection of Django's, where that is safe."""
    global _refused
    driver = connection.connection
    before = driver.prepare_threshold
    if _refused or before is not None or _is_pooled(connection) or not _names_are_ours(driver):
        yield
        return
    driver.prepare_threshold = _USES
    try:
        yield
    except Exception as error:
        if sqlstate(error) in UNKNOWN_STATEMENT:
            _refused = True
            logger.warning(
                "PostgreSQL does not know a statement that this connection prepared: there is a pooler "
                "between. Nothing is prepared from now on; set DISABLE_SERVER_SIDE_CURSORS in DATABASES."
            )
        raise
    finally:
        driver.prepare_threshold = before


def _names_are_ours(driver: Any) -> bool:
    """Let the connection number its statements from a random number, if it did not yet.

    psycopg counts from 0 on every connection: behind a pooler that nobody told of, a name could stand for
    another process's statement. So it stands for nothing, and the server says so.
    """
    manager: Any = getattr(driver, "_prepared", None)
    if not isinstance(getattr(manager, "_prepared_idx", None), int):
        return False  # another psycopg than we know
    if manager._prepared_idx < _FIRST_NAME:
        manager._prepared_idx = _FIRST_NAME + secrets.randbits(60)
    return True


def _is_pooled(connection: Any) -> bool:
    return bool(connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"))
