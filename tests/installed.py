"""Installs the wheel into empty environments, each extra alone, and tries it in a project: `make package`.

::

    python -m tests.installed                every extra, on the oldest and on the newest Python found
    python -m tests.installed redis 3.13     those of them whose names have one of these in them

In each environment: the package is imported, a project of startproject's is checked and migrated, an event
is published and handled, and what the extra brings is used. Without any extra, each one is asked for, and
must be named by what is said. An extra that cannot be installed for want of a compiler or of a client library
is named, and counts as neither. It takes minutes: pip installs fourteen times.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests import matrix, mysqlclient
from tests.servers import install_package, may_install, tail

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Extra:
    """A project that needs it: more settings, and what is done with it."""

    settings: str
    use: str
    #: Why it may be that it cannot be installed; "" if that is an error.
    excuse: str = ""


EXTRAS: Mapping[str, Extra] = {
    "redis": Extra(
        'CELERY_BROKER_URL = "redis://127.0.0.1:1/0"',
        "from celery import current_app; assert current_app.connection_for_write().transport",
    ),
    "postgres": Extra(
        'DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "shop"}}',
        "from psycopg import pq; assert pq.version()",
    ),
    "mysql": Extra(
        'DATABASES = {"default": {"ENGINE": "django.db.backends.mysql", "NAME": "shop"}}',
        "import MySQLdb; assert MySQLdb.get_client_info()",
        excuse="mysqlclient comes as source, and there is no compiler or no client library",
    ),
    "opentelemetry": Extra(
        'PM_CELERY = {"TRACE_KEYS": True}',
        "from pm_celery import spans; assert spans.otel",
    ),
    "beat": Extra(
        'CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"\n'
        "from importlib.util import find_spec\n"
        'INSTALLED_APPS += ["django_celery_beat"] if find_spec("django_celery_beat") else []',
        "from django_celery_beat.schedulers import DatabaseScheduler",
    ),
    "prometheus": Extra(
        "",
        'from pm_celery.metrics import exposition; assert b"pm_celery_healthy" in exposition("")[0]',
    ),
}

SETTINGS = """
INSTALLED_APPS += ["pm_celery"]
CELERY_BROKER_URL = "memory://"
DATABASES["default"]["OPTIONS"] = {"transaction_mode": "IMMEDIATE"}
"""
CELERY = """
from celery import Celery

app = Celery("mysite")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
"""
USE_EXTRA = """
import django; django.setup()
from django.core.checks import run_checks
found = run_checks(databases=[])  # asked as a command, Django 6.1 asks the database, which is not there
print(*found)
assert not any(message.is_serious() for message in found)
{use}
"""
# What a project needs of the wheel besides modules: migrations (which it has run), templates, files.
USE = """
import sys
import django; django.setup()
import pm_celery
assert pm_celery.__file__.startswith(sys.argv[1]), pm_celery.__file__
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.db import transaction
from django.template.loader import get_template
from pm_celery import ProcessManager, engine, event, handle, publish
from pm_celery.models import Instance

@event
class OrderPlaced:
    order_id: int

class Fulfilment(ProcessManager):
    order_id: int = 0

    @handle(OrderPlaced, start=True, end=True, correlate={"order_id": "order_id"})
    def placed(self, event): ...

with transaction.atomic():
    publish(OrderPlaced(7))
for lane in range(16):
    engine.advance(lane)
call_command("check", databases=["default"])
assert [(i.key, i.status) for i in Instance.objects.all()] == [("7", "completed")]
assert get_template("admin/pm_celery/overview.html") and finders.find("pm_celery/overview.css")
"""


@dataclass(frozen=True)
class Environment:
    python: Path
    packages: Path

    def run(self, *arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
        ours = ("DJANGO_", "PM_", "PYTHON", "CELERY_", "MUTANT", "COVERAGE_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return subprocess.run(
            [str(self.python), *arguments],
            check=False,
            cwd=cwd,
            env=kept | more,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@dataclass(frozen=True)
class Project:
    environment: Environment
    folder: Path

    def run(self, *arguments: str, settings: str = "settings") -> str:
        """What a command says that ends well; else "FAILED: " before it."""
        module = f"mysite.{settings}"
        done = self.environment.run(*arguments, cwd=self.folder, DJANGO_SETTINGS_MODULE=module)
        return done.stdout if done.returncode == 0 else f"FAILED: {done.stdout}"


# -- building and installing --------------------------------------------------------------------------


def build(tree: Path, out: Path) -> None:
    """Make the sdist, and of it the wheel, with the hatchling of this interpreter."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(tree)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The wheel cannot be built:\n{tail(done.stdout + done.stderr)}")


def bare_environment(wheel: Path, folder: Path) -> Environment:
    """An environment with the wheel and what it requires, as links to what is installed here: no pip."""
    venv.EnvBuilder(symlinks=True).create(folder)
    environment = _environment(folder)
    for name in _required(Requirement("pm-celery"), set()):
        distribution = metadata.distribution(name)
        for part in {file.parts[0] for file in distribution.files or () if ".." not in file.parts}:
            link = environment.packages / part
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(part))))
    shutil.unpack_archive(wheel, environment.packages, "zip")
    return environment


def _required(requirement: Requirement, seen: set[str]) -> Iterator[str]:
    """The names of the distributions that a distribution requires; not its own."""
    for text in metadata.distribution(requirement.name).requires or ():
        found = Requirement(text)
        asked = [{"extra": extra} for extra in (*requirement.extras, "")]
        is_asked = not found.marker or any(map(found.marker.evaluate, asked))
        if is_asked and found.name not in seen:
            seen.add(found.name)
            yield found.name
            yield from _required(found, seen)


def pip_environment(python: str, wheel: Path, extra: str, folder: Path) -> Environment | str:
    """An environment as a user makes it; what pip said where it cannot be."""
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    environment = _environment(folder)
    wanted = f"{wheel}[{extra}]" if extra else str(wheel)
    done = environment.run("-m", "pip", "install", "--quiet", wanted, cwd=folder)
    if done.returncode == 0:
        done = environment.run("-m", "pip", "check", cwd=folder)
    return environment if done.returncode == 0 else tail(done.stdout)


def _environment(folder: Path) -> Environment:
    (packages,) = (folder / "lib").glob("python*/site-packages")
    return Environment(folder / "bin" / "python", packages)


# -- trying -------------------------------------------------------------------------------------------


def start_project(environment: Environment, folder: Path) -> Project:
    """What startproject makes, with the package, and settings besides for each extra."""
    done = environment.run("-m", "django", "startproject", "mysite", ".", cwd=folder)
    if done.returncode:
        raise RuntimeError(f"startproject failed:\n{tail(done.stdout)}")
    home = folder / "mysite"
    with (home / "settings.py").open("a") as file:
        file.write(SETTINGS)
    (home / "celery.py").write_text(CELERY)
    (home / "__init__.py").write_text("from mysite.celery import app\n")
    for name, extra in EXTRAS.items():
        (home / f"with_{name}.py").write_text(f"from mysite.settings import *\n{extra.settings}\n")
    return Project(environment, folder)


def problems(project: Project, *, extra: str, asked: Sequence[str] = ()) -> list[str]:
    """What does not work in a project.

    extra: the one that is there; asked: those that are not, and must be named where they are asked for.
    """
    found = []
    packages = str(project.environment.packages)
    for title, command in {
        "migrate": ("manage.py", "migrate"),
        "use": ("-c", USE, packages),
    }.items():
        said = project.run(*command)
        if said.startswith("FAILED"):
            found.append(f"{title}: {tail(said)}")
    if extra:
        said = _ask_for(project, extra)
        if said.startswith("FAILED") or "pm-celery[" in said:
            found.append(f"{extra} does not work: {tail(said)}")
    for name in asked:
        said = _ask_for(project, name)
        if f"pm-celery[{name}]" not in said:
            found.append(f"{name} is not there, and not named: {tail(said)}")
    return found


def _ask_for(project: Project, extra: str) -> str:
    code = USE_EXTRA.format(use=EXTRAS[extra].use)
    return project.run("-c", code, settings=f"with_{extra}")


# -- all of it ----------------------------------------------------------------------------------------


def pythons() -> dict[str, str]:
    """The oldest and the newest of ours that are on this machine, by version."""
    there = {version: matrix.interpreter(version) for version in matrix.PYTHONS}
    found = {version: path for version, path in there.items() if path}
    return {version: found[version] for version in (min(found), max(found))}


def attempt(python: str, wheel: Path, extra: str) -> tuple[str, list[str]]:
    """Whether it is green, RED or skipped, and why it is not green."""
    with tempfile.TemporaryDirectory(prefix="pm-celery-") as folder:
        environment = pip_environment(python, wheel, extra, Path(folder, "environment"))
        if isinstance(environment, str) and extra == "mysql" and may_install():
            install_package(*mysqlclient.PACKAGES)
            environment = pip_environment(python, wheel, extra, Path(folder, "again"))
        if isinstance(environment, str):
            excuse = EXTRAS[extra].excuse if extra else ""
            return ("skipped", [excuse]) if excuse else ("RED", [environment])
        Path(folder, "project").mkdir()
        project = start_project(environment, Path(folder, "project"))
        found = problems(project, extra=extra, asked=() if extra else list(EXTRAS))
    return ("RED" if found else "green", found)


def main(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="pm-celery-") as out:
        build(ROOT, Path(out))
        (wheel,) = Path(out).glob("*.whl")
        rows, reds = [], 0
        for version, python in pythons().items():
            for extra in ("", *EXTRAS):
                name = f"{version} {extra or 'none'}"
                if arguments and not any(part in name for part in arguments):
                    continue
                matrix.say(f"== {name}")
                began = time.monotonic()
                outcome, why = attempt(python, wheel, extra)
                rows.append(f"{name:20} {outcome:8} {time.monotonic() - began:4.0f} s")
                reds += outcome == "RED"
                for reason in why:
                    matrix.say(f"   {reason}")
    matrix.say("\n".join(["", *rows]))
    return 1 if reds or not rows else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
