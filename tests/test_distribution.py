"""What is in the wheel and in the sdist, and what a project gets that installs the wheel and nothing else.

Each extra in an environment of its own, as pip makes them: ``make package``, which is tests/installed.py.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest
from readme_renderer import markdown

from tests import installed, matrix

pytestmark = pytest.mark.any_database

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# What the package may hold besides Python, each a whole path.
DATA = re.compile(
    r"pm_celery/("
    r"py\.typed"
    r"|templates/admin/pm_celery/(\w+/)?\w+\.html"
    r"|static/pm_celery/\w+\.(css|js)"
    r"|locale/\w+/LC_MESSAGES/django\.(po|mo)"
    r")"
)
PYTHON = re.compile(r"pm_celery/(\w+/)*\w+\.py")
# What no package holds, whoever has left it there.
LITTER = (
    "pm_celery/__pycache__/engine.cpython-311.pyc",
    "pm_celery/db.sqlite3",
    "docs/_build/index.html",
    "example_project/.data/broker/0.msg",
    "tests/.pytest_cache/README.md",
    "tests/__pycache__/orders.cpython-311.pyc",
    "mutants/pm_celery/engine.py",
    "build/lib/engine.py",
    ".coverage",
    ".venv/bin/python",
)
SHIPPED = ("pm_celery/", "docs/", "example_project/", "tests/")
FILES = {"LICENSE", "Makefile", "README.md", "pyproject.toml"}


@dataclass(frozen=True)
class Built:
    wheel: Path
    names: frozenset[str]
    metadata: Message
    source: frozenset[str]


def tracked() -> set[str]:
    """All that git knows or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=False, capture_output=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("these are no sources of git's, and nothing says which files belong to them")
    names = set(filter(None, listed.stdout.decode().split("\0")))
    return {name for name in names if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wheel, made of the sdist, which is made of the sources with litter among them."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    for name in LITTER:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("left behind")
    installed.build(tree, out)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        names = frozenset(name for name in file.namelist() if not name.endswith("/"))
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parse(io.StringIO(file.read(about).decode()))
    with tarfile.open(sdist) as archive:
        members = [member.name for member in archive if member.isfile()]
    return Built(wheel, names, metadata, frozenset(name.split("/", 1)[1] for name in members))


# -- contents -----------------------------------------------------------------------------------------


def test_the_wheel_holds_the_package_and_what_describes_it(built: Built) -> None:
    about = f"pm_celery-{PROJECT['project']['version']}.dist-info"
    described = {f"{about}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")}
    if "entry-points" in PROJECT["project"]:
        described.add(f"{about}/entry_points.txt")

    assert built.names == {name for name in tracked() if name.startswith("pm_celery/")} | described


def test_the_package_is_python_and_files_that_it_is_known_to_need(built: Built) -> None:
    ours = {name for name in built.names if name.startswith("pm_celery/")}

    assert {name for name in ours if not (PYTHON.fullmatch(name) or DATA.fullmatch(name))} == set()
    assert {"pm_celery/py.typed", "pm_celery/migrations/0001_initial.py"} < ours
    assert not [name for name in ours if re.search(r"/(test_\w+|conftest)\.py$", name)]


def test_what_other_tools_load_by_its_name_is_in_the_wheel(built: Built) -> None:
    groups = PROJECT["project"].get("entry-points", {})
    modules = {
        target.split(":")[0].replace(".", "/")
        for group in groups.values()
        for target in group.values()
    }

    assert {
        name for name in modules if not built.names & {f"{name}.py", f"{name}/__init__.py"}
    } == set()


def test_each_translation_is_compiled(built: Built) -> None:
    texts = {name for name in built.names if name.endswith(".po")}

    assert {name.removesuffix(".po") + ".mo" for name in texts} == {
        name for name in built.names if name.endswith(".mo")
    }


def test_the_sdist_holds_the_sources_of_package_docs_and_tests_and_no_litter(built: Built) -> None:
    ours = {name for name in tracked() if name.startswith(SHIPPED)}

    # hatchling adds the last two by itself.
    assert built.source == ours | FILES | {".gitignore", "PKG-INFO"}


# -- what indexes and tools are told ------------------------------------------------------------------


def test_the_licence_is_named_and_shipped(built: Built) -> None:
    assert built.metadata["License-Expression"] == "MIT"
    assert built.metadata.get_all("License-File") == ["LICENSE"]


def test_it_is_classified_for_every_python_and_django_that_the_suite_runs_on(built: Built) -> None:
    classifiers = set(built.metadata.get_all("Classifier") or ())

    pythons = {f"Programming Language :: Python :: {python}" for python in matrix.PYTHONS}
    djangos = {
        f"Framework :: Django :: {name[-2]}.{name[-1]}"
        for names in matrix.PYTHONS.values()
        for name in names
    }
    versions = {name for name in classifiers if re.search(r":: \d\.\d+$", name)}
    assert versions == pythons | djangos
    assert built.metadata["Requires-Python"] == f">={min(matrix.PYTHONS)}"
    assert {"Framework :: Celery", "Typing :: Typed"} < classifiers


def test_the_extras_are_those_that_are_declared(built: Built) -> None:
    declared = PROJECT["project"]["optional-dependencies"]

    assert set(built.metadata.get_all("Provides-Extra") or ()) == set(declared)
    assert set(installed.EXTRAS) == set(declared)


def test_the_readme_is_shown_as_a_page(built: Built) -> None:
    text = built.metadata.get_payload()
    assert isinstance(text, str)

    shown = markdown.render(text)

    assert built.metadata["Description-Content-Type"] == "text/markdown"
    assert shown is not None
    assert "<h1" in shown
    assert "publish(OrderPlaced" in re.sub(r"<[^>]+>", "", shown)


# -- in a project -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(built: Built, tmp_path_factory: pytest.TempPathFactory) -> installed.Project:
    """A fresh project, in an environment with the wheel and with what it requires, and nothing besides."""
    environment = installed.bare_environment(built.wheel, tmp_path_factory.mktemp("environment"))
    return installed.start_project(environment, tmp_path_factory.mktemp("project"))


def test_the_wheel_alone_serves_a_fresh_project(project: installed.Project) -> None:
    assert installed.problems(project, extra="", asked=["redis", "prometheus"]) == []
