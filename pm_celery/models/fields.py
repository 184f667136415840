"""Columns, indexes and conditions that several tables share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.ddl_references import Statement
from django.utils.translation import gettext_lazy as _

from pm_celery.keys import LONGEST_KEY
from pm_celery.messages import LONGEST_NAME

__all__ = ["IdentifierField", "OpenIndex", "name_field", "trace_field", "version_field", "where"]

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


def trace_field() -> models.CharField[str, str]:
    """A column for the span that a message or command descends from."""
    return models.CharField(
        _("trace"),
        max_length=55,
        blank=True,
        default="",
        # For a release that does not know the column and goes on inserting.
        db_default="",
        help_text=_("W3C traceparent; empty where nothing was traced"),
    )


def version_field(verbose_name: Any) -> models.PositiveSmallIntegerField[int, int]:
    """A column for the version of what another column holds."""
    # In the database too, so that whoever inserts without it inserts a first version.
    return models.PositiveSmallIntegerField(verbose_name, default=1, db_default=1)


class OpenIndex(models.Index):
    """A partial index of rows by status; by status first where there are no partial indexes.

    MySQL and MariaDB put every row into the index and leave out its condition: a question for what is open
    would read all that was ever settled.
    """

    def create_sql(
        self,
        model: type[models.Model],
        schema_editor: BaseDatabaseSchemaEditor,
        using: str = "",
        **kwargs: Any,
    ) -> Statement:
        index: models.Index = self
        if not schema_editor.connection.features.supports_partial_indexes:
            columns = [f"-{name}" if order else name for name, order in self.fields_orders]
            index = models.Index(fields=["status", *columns], name=self.name)
        return models.Index.create_sql(index, model, schema_editor, using, **kwargs)


def where(rows: Rows, condition: str) -> Rows:
    """Rows under a condition in a partial index's own words.

    SQLite uses such an index only if it finds the condition in the statement, and not in its parameters.
    """
    return cast(Rows, rows.extra(where=[condition]))
