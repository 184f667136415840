"""Which operations a migration of the package may hold, now that workers run while it is applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from django.db import migrations
from django.db.migrations.operations.base import Operation
from django.db.models import NOT_PROVIDED

from pm_celery.schema import AddIndexOnline

__all__ = ["problems"]

Rule = Callable[[Any, Any], str | None]


def problems(migration: migrations.Migration, before: dict[tuple[str, str], Any]) -> list[str]:
    """What is wrong with a migration, each with what to write instead: the rules of docs/how-to/upgrades.md.

    before: the fields as the migrations before left them, by model and name, in lower case.
    """
    return [
        f"{migration.name}: {operation.describe()}: {problem}"
        for operation, problem in _problems(migration, before)
    ]


def _problems(migration: Any, before: Any) -> Iterator[tuple[Operation, str]]:
    created: set[str] = set()
    operations = list(_flat(migration.operations))
    for operation in operations:
        if isinstance(operation, migrations.CreateModel):
            created.add(operation.name_lower)
            continue
        model = getattr(operation, "model_name_lower", getattr(operation, "name_lower", ""))
        if model in created:
            continue  # nobody reads or writes it yet
        field = before.get((model, getattr(operation, "name_lower", "")))
        rule = _RULES.get(type(operation), _unknown)
        problem = rule(operation, field)
        if problem:
            yield operation, problem
    altered = {o.model_name_lower: o for o in operations if isinstance(o, _ALTERING)}
    altered = {name: o for name, o in altered.items() if name not in created}
    if len(altered) > 1 and migration.atomic:
        yield (
            list(altered.values())[1],
            "with the lock on one table it waits for another, and a worker may do so the other way round: a "
            "deadlock. Give each table a migration of its own.",
        )
    alone = [o for o in operations if isinstance(o, AddIndexOnline | migrations.RunPython)]
    for operation in alone:
        if migration.atomic:
            yield (
                operation,
                "write atomic = False in the migration, or its lock is held to the end.",
            )
        if len(operations) > 1:
            yield (
                operation,
                "give it a migration of its own, so that it can be run again by itself.",
            )


def _flat(operations: Any) -> Iterator[Operation]:
    for operation in operations:
        if isinstance(operation, migrations.SeparateDatabaseAndState):
            yield from _flat(operation.database_operations)
        else:
            yield operation


def _add_field(operation: Any, _before: Any) -> str | None:
    field = operation.field
    if not field.null and field.db_default is NOT_PROVIDED:
        return (
            "workers of the release before insert rows without it. Write null=True, or db_default=…, and "
            "fill it in a later migration."
        )
    if field.unique or field.db_index:
        return "its index is built under a lock. Write db_index=False, and AddIndexOnline after it."
    if field.remote_field and field.db_constraint:
        return "a foreign key locks both tables while it is checked. Write db_constraint=False."
    if (
        callable(getattr(field, "default", None))
        and field.db_default is NOT_PROVIDED
        and not field.null
    ):
        return "a default that is computed for each row rewrites the table. Write null=True, and fill it."
    return None


def _alter_field(operation: Any, before: Any) -> str | None:
    if before is None:
        return "the field as it was is not known."
    old, new = before.deconstruct()[1:], operation.field.deconstruct()[1:]
    free = set(before.non_db_attrs)
    differing = {
        name
        for name in {*old[2], *new[2]} - free
        if old[2].get(name, NOT_PROVIDED) != new[2].get(name, NOT_PROVIDED)
    }
    if old[0] != new[0]:
        return "another type rewrites the table under a lock. Add a field, fill it, and read that."
    if differing == {"max_length"} and (new[2].get("max_length") or 0) > (
        old[2].get("max_length") or 0
    ):
        return None
    if differing == {"db_default"} and "db_default" in new[2]:
        return None
    if differing == {"null"} and new[2].get("null"):
        return None
    if differing:
        return (
            f"changing {', '.join(sorted(differing))} reads or rewrites the table under a lock. Add a field, "
            "fill it, and read that."
        )
    return None


def _refuse(text: str) -> Rule:
    return lambda operation, before: text


def _unknown(operation: Any, _before: Any) -> str | None:
    return (
        f"{type(operation).__name__} is not among the operations that are known to be harmless. Prove with "
        "tests/test_upgrades.py that it is, and name it in tests/migration_rules.py."
    )


def _run_sql(operation: Any, _before: Any) -> str | None:
    if (operation.hints or {}).get("locks"):
        return None
    return 'say what it locks, and for how long: RunSQL(…, hints={"locks": "nothing, because …"}).'


# What locks its table until the end of the transaction.
_ALTERING = (migrations.AddField, migrations.AlterField, migrations.RemoveField)

_ALLOWED = (
    AddIndexOnline,
    migrations.AlterModelOptions,
    migrations.AlterModelManagers,
    # Fills in batches: each is a transaction of its own.
    migrations.RunPython,
)
_USED_BY_OLD = (
    "workers of the release before still read and write it. Remove it from the state first "
    "(SeparateDatabaseAndState), with a db_default or null=True in the database, and from the database in "
    "the release after the next."
)
_RENAMED = (
    "workers of the release before know the old name. Add the new one, fill it, and remove the old."
)
_CHECKED = (
    "the whole table is read under a lock to check it. On PostgreSQL: AddConstraintNotValid, and "
    "ValidateConstraint in a later migration, in a SeparateDatabaseAndState."
)

_RULES: dict[type, Rule] = {
    **dict.fromkeys(_ALLOWED, lambda operation, before: None),
    migrations.AddField: _add_field,
    migrations.AlterField: _alter_field,
    migrations.AddIndex: _refuse(
        "it locks the writers out while it is built. Write pm_celery.schema.AddIndexOnline."
    ),
    migrations.RemoveIndex: _refuse(
        "it waits for every reader, and every writer waits behind it; on PostgreSQL: RemoveIndexConcurrently "
        "in a SeparateDatabaseAndState."
    ),
    migrations.AddConstraint: _refuse(_CHECKED),
    migrations.AlterUniqueTogether: _refuse(_CHECKED),
    migrations.RemoveField: _refuse(_USED_BY_OLD),
    migrations.DeleteModel: _refuse(_USED_BY_OLD),
    migrations.RenameField: _refuse(_RENAMED),
    migrations.RenameModel: _refuse(_RENAMED),
    migrations.AlterModelTable: _refuse(_RENAMED),
    migrations.RunSQL: _run_sql,
}
