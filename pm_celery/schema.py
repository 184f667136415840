"""What migrations of this package are written with, so that workers go on while they run."""

from __future__ import annotations

from typing import Any

from django.db.migrations import AddIndex
from django.db.migrations.state import ProjectState

__all__ = ["AddIndexOnline"]


class AddIndexOnline(AddIndex):
    """Adds an index; on PostgreSQL concurrently, which locks nobody out of the table while it is built.

    A migration with it is not atomic, and holds nothing else.
    """

    # Concurrently, there is no transaction that could be rolled back.
    atomic = False

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            online = schema_editor.connection.vendor == "postgresql"
            schema_editor.add_index(model, self.index, **({"concurrently": True} if online else {}))

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        model = from_state.apps.get_model(app_label, self.model_name)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            online = schema_editor.connection.vendor == "postgresql"
            schema_editor.remove_index(
                model, self.index, **({"concurrently": True} if online else {})
            )

    def describe(self) -> str:
        return f"{super().describe()}, online"
