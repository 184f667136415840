"""Columns that several tables share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

from pm_celery.keys import LONGEST_KEY
from pm_celery.messages import LONGEST_NAME

__all__ = ["IdentifierField", "name_field", "where"]

Rows = TypeVar("Rows", bound="models.QuerySet[Any]")


if TYPE_CHECKING:
    _CharField = models.CharField[str, str]
else:
    _CharField = models.CharField


class IdentifierField(_CharField):
    """Text that is compared byte by byte on every database.

    MySQL and MariaDB compare text without regard to case, accents and trailing blanks by default: the
    orders ``a1`` and ``A1`` would share an instance, and the timers ``call`` and ``Call`` a moment.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("max_length", LONGEST_KEY)
        super().__init__(*args, **kwargs)

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        if connection.vendor != "mysql":
            return super().db_type(connection) or ""
        collation = "nopad_bin" if getattr(connection, "mysql_is_mariadb", False) else "0900_bin"
        return f"varchar({self.max_length}) CHARACTER SET utf8mb4 COLLATE utf8mb4_{collation}"


def name_field(verbose_name: Any, **kwargs: Any) -> IdentifierField:
    """A column for the stable name of a process, event, command, timer or handler."""
    return IdentifierField(verbose_name, max_length=LONGEST_NAME, **kwargs)


def where(rows: Rows, condition: str) -> Rows:
    """Rows under a condition in a partial index's own words.

    SQLite uses such an index only if it finds the condition in the statement, and not in its parameters.
    """
    return cast(Rows, rows.extra(where=[condition]))
