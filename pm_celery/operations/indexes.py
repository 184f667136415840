"""Indexes of one field of one process's states, so that instances are found by it. PostgreSQL only.

A state is text; the index holds the field's value as text, its beginning: an index row has a longest length,
and an insert beyond it would fail in the engine. So would one of no JSON: the engine inserts a new instance
with an empty state first, which the index leaves out.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from hashlib import md5

from django.db import connections, transaction
from django.utils.translation import gettext_lazy as _

from pm_celery import redaction
from pm_celery.conf import get_settings
from pm_celery.exceptions import Refused
from pm_celery.models import Instance
from pm_celery.operations.interventions import intervene

__all__ = ["FIELD", "StateIndex", "create", "drop", "existing", "expression"]

FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
# Characters of a value that the index holds: four bytes each at most, of the 2,704 that a row may have.
LONGEST = 200
_PREFIX = "pm_state_"


@dataclass(frozen=True, slots=True)
class StateIndex:
    """An index by a field; not is_valid: its making was broken off, and nobody uses it."""

    name: str
    process: str
    field: str
    is_valid: bool


def expression(field: str) -> str:
    """What the index of a field holds, in SQL; the planner wants the same words again."""
    if not FIELD.fullmatch(field):
        raise Refused(_("%(name)s is no name of a field"), name=f"{field!r:.80}")
    return f"left((state::jsonb) ->> '{field}', {LONGEST})"


def existing(field: str | None = None) -> list[StateIndex]:
    """The indexes that there are, of a field or of all. Raises ``Refused`` but for PostgreSQL."""
    with connections[_postgresql()].cursor() as cursor:
        cursor.execute(
            "SELECT c.relname, i.indisvalid, obj_description(c.oid, 'pg_class') FROM pg_index i "
            "JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = %s::regclass "
            "AND starts_with(c.relname, %s) ORDER BY c.relname",
            [Instance._meta.db_table, _PREFIX],
        )
        rows = cursor.fetchall()
    found = []
    for name, is_valid, comment in rows:
        about = json.loads(comment) if comment else {}
        index = StateIndex(name, about.get("process", ""), about.get("field", ""), is_valid)
        if field is None or index.field == field:
            found.append(index)
    return found


def create(process: str, field: str, *, by: str = "", reason: str = "") -> str:
    """Make the index of a field of a process; its name. Others go on reading and writing meanwhile.

    From then on PostgreSQL updates no row of the table in place (a HOT update), because all of them hold a
    state: instances of every process cost more to write. Raises ``Refused`` where there is one, for a field
    that is not to be shown, inside of a transaction, and but for PostgreSQL.
    """
    alias = _postgresql()
    connection = connections[alias]
    value = expression(field)
    if redaction.is_hidden(process, field):
        raise Refused(_("%(field)s is a field that is not to be shown"), field=f"{process}.{field}")
    if connection.in_atomic_block:
        raise Refused(_("an index cannot be made inside of a transaction"))
    name = _PREFIX + md5(f"{process}\0{field}".encode(), usedforsecurity=False).hexdigest()[:16]
    left_over = [index for index in existing() if index.name == name]
    if left_over and left_over[0].is_valid and left_over[0].field:
        raise Refused(_("there is one: %(name)s"), name=name)
    with connection.cursor() as cursor:
        if left_over:
            cursor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        # Of what defines an index nothing may be a parameter.
        cursor.execute(
            f"CREATE INDEX CONCURRENTLY {name} ON {Instance._meta.db_table} (({value})) "
            f"WHERE process = {_quoted(process)} AND state <> ''"
        )
        # If we die before the comment, nobody finds it, and the next call makes it anew.
        about = _quoted(json.dumps({"process": process, "field": field}))
        cursor.execute(f"COMMENT ON INDEX {name} IS {about}")
        # An index by an expression has no statistics until then, and the planner guesses.
        cursor.execute(f"ANALYZE {Instance._meta.db_table} (state)")
    _intervene(alias, "create index", process, field, by, reason)
    return name


def drop(process: str, field: str, *, by: str = "", reason: str = "") -> None:
    """Remove the index of a field of a process. Raises ``Refused`` where there is none."""
    alias = _postgresql()
    if connections[alias].in_atomic_block:
        raise Refused(_("an index cannot be dropped inside of a transaction"))
    found = [index for index in existing(field) if index.process == process]
    if not found:
        raise Refused(
            _("there is no index of %(field)s of %(process)s"), field=field, process=process
        )
    with connections[alias].cursor() as cursor:
        cursor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {found[0].name}")
    _intervene(alias, "drop index", process, field, by, reason)


def _postgresql() -> str:
    alias = get_settings().database
    if connections[alias].vendor != "postgresql":
        name = connections[alias].display_name
        raise Refused(
            _("on %(database)s nobody can search by a field of the state: PostgreSQL can"),
            database=name,
        )
    return alias


def _quoted(text: str) -> str:
    """A literal, whatever is in it; without percent signs that a driver takes for a parameter."""
    if "\x00" in text:
        raise Refused(_("the name of a process holds no U+0000"))
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'"


def _intervene(alias: str, verb: str, process: str, field: str, by: str, reason: str) -> None:
    with transaction.atomic(using=alias):
        intervene(alias, verb, f"{process}.{field}", by=by, reason=reason, process=process)
