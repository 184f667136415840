"""MySQL and MariaDB have no partial indexes and leave them out: there, the same columns are indexed whole."""

from django.db import migrations, models


def _partial_indexes(apps):
    for model in apps.get_app_config("pm_celery").get_models():
        for index in model._meta.indexes:
            if index.condition is not None:
                yield model, models.Index(fields=index.fields, name=index.name)


def create(apps, schema_editor):
    if not schema_editor.connection.features.supports_partial_indexes:
        for model, index in _partial_indexes(apps):
            schema_editor.add_index(model, index)


def remove(apps, schema_editor):
    if not schema_editor.connection.features.supports_partial_indexes:
        for model, index in _partial_indexes(apps):
            schema_editor.remove_index(model, index)


class Migration(migrations.Migration):
    # MySQL cannot roll an index back, so Django refuses to try.
    atomic = False

    dependencies = [("pm_celery", "0001_initial")]

    operations = [migrations.RunPython(create, remove, elidable=False)]
