"""Migrations run forward over tables with rows, while workers of the release before go on.

Nothing has been released yet, so the first released schema is 0001, and the release after it is made up here:
a column is added, filled in batches, and read by an index. Once there is a tag, the worker of the release
before is that tag's package.

Breaks that turned these red: ``migrations.AddIndex`` in place of ``AddIndexOnline`` in the made-up release; a
migration that sleeps with its lock; both tables' columns added by one migration (a deadlock with the engine).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, connections, migrations, models
from django.db.migrations.loader import MigrationLoader
from django.db.models import Q

import pm_celery.migrations
from pm_celery.schema import AddIndexOnline
from tests.migration_rules import problems

ROOT = Path(__file__).resolve().parents[1]
# The engine may be kept waiting for so long at most. A busy machine stretches what takes 20 ms on its own.
LONGEST_LOCK = 0.5
FIRST = "0001_initial"

ADD = """
    operations = [
        migrations.AddField("{table}", "shade", models.CharField(max_length=9, null=True)),
    ]
"""
# From here on the workers of the release before, which do not know the column, fill it as well.
DEFAULT = """
    operations = [
        migrations.AlterField("{table}", "shade",
            models.CharField(max_length=9, null=True, db_default=models.Value("plain"))),
    ]
"""
FILL = """
    atomic = False

    def fill(apps, schema_editor):
        for name in ("InboxMessage", "Instance"):
            rows = apps.get_model("pm_celery", name).objects.using(schema_editor.connection.alias)
            while found := list(rows.filter(shade=None).values_list("pk", flat=True)[:100]):
                rows.filter(pk__in=found).update(shade="filled")

    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
"""
READ = """
    atomic = False
    operations = [
        AddIndexOnline("inboxmessage", models.Index(fields=["shade", "id"], name="pm_inbox_of_shade")),
    ]
"""
ON_INBOX, ON_INSTANCE = {"table": "inboxmessage"}, {"table": "instance"}
GOOD = {
    "0901_add_to_inbox": ADD.format_map(ON_INBOX),
    "0902_add_to_instance": ADD.format_map(ON_INSTANCE),
    "0903_default_of_inbox": DEFAULT.format_map(ON_INBOX),
    "0904_default_of_instance": DEFAULT.format_map(ON_INSTANCE),
    "0905_fill": FILL,
    "0906_read": READ,
}
# Two sins in one transaction: the table is locked until the slow part is over.
BAD = {
    "0901_add": ADD.format_map(ON_INBOX)
    + """
    operations.append(migrations.RunSQL("SELECT pg_sleep(1)"))
"""
}


def write(folder: Path, release: dict[str, str]) -> str:
    """A module of migrations: the package's own, and those of a release that comes after it."""
    module = f"migrations_{uuid4().hex}"
    shutil.copytree(Path(pm_celery.migrations.__file__).parent, folder / module)
    before = sorted(path.stem for path in (folder / module).glob("0*.py"))[-1]
    for name, body in release.items():
        (folder / module / f"{name}.py").write_text(
            "from django.db import migrations, models\n"
            "from pm_celery.schema import AddIndexOnline\n\n"
            "class Migration(migrations.Migration):\n"
            f'    dependencies = [("pm_celery", "{before}")]\n{body}'
        )
        before = name
    return module


class Upgrade:
    """A database of its own, and processes that work and migrate there."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.stop = folder / "stop"
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(self.old_release()), str(folder), str(ROOT)]),
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PM_TEST_DEFAULT_NAME": name,
            "PM_TEST_OTHER_NAME": name,
        }

    def old_release(self) -> Path:
        """The package as the newest tag has it; before there is a tag, as it is."""
        tags = subprocess.run(
            ["git", "tag", "--list", "v*", "--sort=-v:refname"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        ).stdout.split()  # fmt: skip
        if not tags:
            return ROOT
        archive = subprocess.run(
            ["git", "archive", tags[0], "pm_celery"], cwd=ROOT, capture_output=True, check=True
        )
        subprocess.run(["tar", "-x", "-C", str(self.folder)], input=archive.stdout, check=True)
        return self.folder

    def run(self, *arguments: str, old: bool = False) -> subprocess.Popen[str]:
        environment = dict(self._environment)
        if not old:
            environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(self.folder)])
        return subprocess.Popen(
            [sys.executable, "-m", "tests.upgrading", *arguments],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def found(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        output, _ = process.communicate(timeout=90)
        assert process.returncode == 0, output
        answer: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        return answer

    def migrate(self, module: str = "") -> dict[str, Any]:
        return self.found(self.run("migrate", module))

    def at_work(self) -> subprocess.Popen[str]:
        """A worker of the release before, which has begun to handle events."""
        worker = self.run("work", str(self.stop), old=True)
        began = Path(f"{self.stop}.working")
        while not began.exists():
            assert worker.poll() is None, worker.communicate()
        return worker


@pytest.fixture
def upgrade(tmp_path: Path) -> Iterator[Upgrade]:
    if connection.vendor == "sqlite":
        yield Upgrade(tmp_path, str(tmp_path / "upgrade.sqlite3"))
        return
    # On the server that holds the test database: tests/before_django.py started it.
    name = f"upgrade_{uuid4().hex}"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    try:
        yield Upgrade(tmp_path, name)
    finally:
        # What an interrupted worker left open would keep PostgreSQL from dropping it.
        force = "WITH (FORCE)" if connection.vendor == "postgresql" else ""
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name} {force}")


def counted(upgrade: Upgrade, query: str) -> Any:
    own = connections.create_connection("default")
    own.settings_dict = {
        **own.settings_dict,
        "NAME": upgrade._environment["PM_TEST_DEFAULT_NAME"],
    }
    with own.cursor() as cursor:
        cursor.execute(query)
        row = cursor.fetchone()
    own.close()
    return row[0]


@pytest.mark.django_db(transaction=True)
def test_workers_of_the_release_before_go_on_while_the_next_one_s_migrations_run(
    upgrade: Upgrade,
) -> None:
    upgrade.migrate()
    worker = upgrade.at_work()

    migrated = upgrade.migrate(write(upgrade.folder, GOOD))
    upgrade.stop.touch()
    worked = upgrade.found(worker)

    assert worked["errors"] == []
    handled = (
        "SELECT count(*) FROM pm_celery_inboxmessage WHERE kind = 'event' AND status = 'handled'"
    )
    assert counted(upgrade, handled) == worked["events"]
    open_ = "SELECT count(*) FROM pm_celery_inboxmessage WHERE status IN ('pending', 'dead')"
    assert counted(upgrade, open_) == 0
    for table in ("inboxmessage", "instance"):
        assert counted(upgrade, f"SELECT count(*) FROM pm_celery_{table} WHERE shade IS NULL") == 0
        assert counted(upgrade, f"SELECT count(*) FROM pm_celery_{table} WHERE shade = 'filled'")
    if connection.vendor == "postgresql":
        assert migrated["looks"] > 10
        assert max(migrated["locks"].values(), default=0) < LONGEST_LOCK, migrated["locks"]


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_a_migration_that_keeps_its_lock_is_noticed(upgrade: Upgrade) -> None:
    """What the test above would say of a bad one."""
    upgrade.migrate()

    migrated = upgrade.migrate(write(upgrade.folder, BAD))

    assert max(migrated["locks"].values()) > LONGEST_LOCK
    assert "AccessExclusiveLock on pm_celery_inboxmessage" in migrated["locks"]


# -- the rules ---------------------------------------------------------------------------------------


def fields_before(loader: MigrationLoader, key: tuple[str, str]) -> dict[tuple[str, str], Any]:
    state = loader.project_state([key], at_end=False) if key else loader.project_state()
    return {
        (model, name.lower()): field
        for (label, model), found in state.models.items()
        if label == "pm_celery"
        for name, field in found.fields.items()
    }


def test_every_migration_after_the_first_release_lets_workers_go_on() -> None:
    loader = MigrationLoader(None)
    ours = sorted(key for key in loader.disk_migrations if key[0] == "pm_celery")
    assert ours[0] == ("pm_celery", FIRST)

    found = [
        problem
        for key in ours[1:]
        for problem in problems(loader.disk_migrations[key], fields_before(loader, key))
    ]

    assert found == [], "\n".join(found)


def made(*operations: Any, atomic: bool = True) -> list[str]:
    migration = migrations.Migration("0902_next", "pm_celery")
    migration.operations, migration.atomic = list(operations), atomic
    loader = MigrationLoader(None)
    return problems(migration, fields_before(loader, ()))  # type: ignore[arg-type]


INDEX = models.Index(fields=["name"], name="pm_inbox_name")
CHECK = models.CheckConstraint(condition=Q(depth__gte=0), name="pm_inbox_depth")


@pytest.mark.parametrize(
    ("operation", "remedy"),
    [
        (migrations.AddField("inboxmessage", "x", models.IntegerField()), "null=True"),
        (migrations.AddField("inboxmessage", "x", models.IntegerField(default=1)), "db_default"),
        (
            migrations.AddField("inboxmessage", "x", models.IntegerField(null=True, db_index=True)),
            "AddIndexOnline",
        ),
        (
            migrations.AddField("inboxmessage", "x", models.UUIDField(null=True, unique=True)),
            "AddIndexOnline",
        ),
        (
            migrations.AddField(
                "timer",
                "x",
                models.ForeignKey(
                    "pm_celery.Instance", models.DO_NOTHING, null=True, db_index=False
                ),
            ),
            "db_constraint=False",
        ),
        (migrations.AddIndex("inboxmessage", INDEX), "AddIndexOnline"),
        (migrations.RemoveIndex("inboxmessage", "pm_inbox_due"), "RemoveIndexConcurrently"),
        (migrations.AddConstraint("inboxmessage", CHECK), "AddConstraintNotValid"),
        (migrations.AlterField("inboxmessage", "depth", models.BigIntegerField()), "Add a field"),
        (migrations.AlterField("inboxmessage", "payload", models.JSONField()), "Add a field"),
        (
            migrations.AlterField("inboxmessage", "handled_at", models.DateTimeField()),
            "Add a field",
        ),
        (
            migrations.AlterField("inboxmessage", "status", models.CharField(max_length=3)),
            "Add a field",
        ),
        (migrations.RemoveField("inboxmessage", "depth"), "SeparateDatabaseAndState"),
        (migrations.DeleteModel("Timer"), "SeparateDatabaseAndState"),
        (migrations.RenameField("inboxmessage", "depth", "x"), "old name"),
        (migrations.RenameModel("Timer", "Alarm"), "old name"),
        (migrations.AlterModelTable("Timer", "x"), "old name"),
        (migrations.RunSQL("VACUUM FULL"), "hints="),
        (migrations.RunPython(migrations.RunPython.noop), "atomic = False"),
        (AddIndexOnline("inboxmessage", INDEX), "atomic = False"),
        (
            migrations.SeparateDatabaseAndState([migrations.AddIndex("inboxmessage", INDEX)]),
            "AddIndexOnline",
        ),
        (migrations.AlterOrderWithRespectTo("timer", "instance"), "migration_rules"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_migration_that_would_stop_workers_is_refused_with_a_remedy(
    operation: Any, remedy: str
) -> None:
    found = made(operation)

    assert len(found) == 1
    assert found[0].startswith("0902_next: ")
    assert remedy in found[0]


def test_two_tables_in_one_transaction_are_refused() -> None:
    """It was measured: the migration waited with the inbox's lock for the instances, and the engine the
    other way round, until PostgreSQL found the deadlock a second later."""
    columns = [
        migrations.AddField(table, "x", models.IntegerField(null=True))
        for table in ("inboxmessage", "instance")
    ]

    assert "deadlock" in made(*columns)[0]
    assert made(columns[0]) == made(columns[1]) == []
    assert made(columns[0], migrations.AlterModelOptions("instance", {"verbose_name": "x"})) == []


def test_an_index_beside_anything_else_is_refused() -> None:
    added = migrations.AddField("timer", "x", models.IntegerField(null=True))

    found = made(AddIndexOnline("inboxmessage", INDEX), added, atomic=False)

    assert len(found) == 1
    assert "a migration of its own" in found[0]


@pytest.mark.parametrize(
    "operation",
    [
        migrations.AddField("inboxmessage", "x", models.IntegerField(null=True)),
        migrations.AddField("inboxmessage", "x", models.IntegerField(db_default=models.Value(0))),
        migrations.AlterField(
            "inboxmessage", "status", models.CharField("s", max_length=20, default="pending")
        ),
        migrations.AlterModelOptions("timer", {"verbose_name": "x"}),
        migrations.RunSQL("SELECT 1", hints={"locks": "nothing"}),
        migrations.CreateModel("Extra", [("id", models.BigAutoField(primary_key=True))]),
    ],
    ids=lambda operation: type(operation).__name__,
)
def test_a_migration_that_lets_workers_go_on_is_allowed(operation: Any) -> None:
    assert made(operation) == []


def test_the_made_up_release_keeps_the_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = write(tmp_path, GOOD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("django.conf.settings.MIGRATION_MODULES", {"pm_celery": module})
        loader = MigrationLoader(None)
        for name in GOOD:
            key = ("pm_celery", name)
            assert problems(loader.disk_migrations[key], fields_before(loader, key)) == []
