"""The reference says what the code does: models, metrics, health, signals, commands; and tests that it names.

Breaks that turned these red: a column, an index, a status more in a model; a metric without its label; a
problem that is no longer grave; a keyword more where a signal is sent; an option more of a verb; a test that
was renamed.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.apps import apps
from django.db import models

from pm_celery import definitions, publish, signals, tallies, ticks
from pm_celery.conf import Limits
from pm_celery.management.commands.pm import Command
from pm_celery.metrics import PmCeleryCollector
from pm_celery.models.dead_letters import LetterStatus
from pm_celery.models.inbox import InboxStatus
from pm_celery.models.instances import InstanceStatus
from pm_celery.models.outbox import CommandStatus
from pm_celery.operations.health import Health
from tests.docs.pages import PAGES, ROOT, inline_code, name_of
from tests.docs.reference_pages import codes, rows_of, section
from tests.orders import Placed
from tests.test_logs import sent

pytestmark = pytest.mark.any_database

MODELS = list(apps.get_app_config("pm_celery").get_models())
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)


# -- models -----------------------------------------------------------------------------------------


def told(model: type[models.Model]) -> str:
    return section("models.md", f"`{model.__name__}`", level=3)


@each_model
def test_every_column_of_a_model_is_told_in_its_order(model: type[models.Model]) -> None:
    columns = [codes(row[0])[0] for row in rows_of(told(model), "column")]

    assert columns == [field.attname for field in model._meta.concrete_fields]


@each_model
def test_every_value_of_a_closed_set_is_told(model: type[models.Model]) -> None:
    meanings = {codes(row[0])[0]: row[1] for row in rows_of(told(model), "column")}

    for field in model._meta.concrete_fields:
        if field.choices:
            values = {str(value) for value, _ in field.choices}  # type: ignore[misc]
            assert values == set(codes(meanings[field.attname])), field.attname


@each_model
def test_every_index_and_constraint_is_told_with_its_question(model: type[models.Model]) -> None:
    meta = model._meta
    named = {found.name for found in (*meta.indexes, *meta.constraints)}
    unnamed = {
        field.attname
        for field in meta.concrete_fields
        if (field.db_index or field.unique) and not field.primary_key
    }
    rows = rows_of(told(model), "index") if named or unnamed else []

    assert {codes(row[0])[0] for row in rows if not row[0].startswith("of ")} == named
    assert {codes(row[0])[0] for row in rows if row[0].startswith("of ")} == unnamed


def test_every_model_is_told_and_none_besides() -> None:
    page = (ROOT / "docs/reference/models.md").read_text()

    headings = re.findall(r"^### `(\w+)`$", page, re.MULTILINE)

    assert sorted(headings) == sorted(model.__name__ for model in MODELS)


# -- statuses ---------------------------------------------------------------------------------------

STATUSES = {
    "Process instance": InstanceStatus,
    "Inbox message": InboxStatus,
    "Command": CommandStatus,
    "Dead letter": LetterStatus,
}


@pytest.mark.parametrize("heading", STATUSES)
def test_every_status_is_drawn_and_every_arrow_has_a_letter_with_its_sentence(heading: str) -> None:
    text = section("statuses.md", heading)
    picture = text.split("```")[1]

    drawn = set(re.findall(r"(?<![─\w])[a-z_]{2,}", picture.removeprefix("text")))
    letters = re.findall(r"─(\w)─►", picture)

    assert drawn - {"nothing", "for", "good"} == set(STATUSES[heading].values)
    assert picture.count("►") == len(letters)
    assert sorted(letters) == re.findall(r"^- \*\*(\w)\*\* [A-Z]", text, re.MULTILINE)


# -- metrics and health -----------------------------------------------------------------------------


@pytest.mark.django_db
def test_every_metric_is_told_with_its_type_and_labels() -> None:
    publish(Placed(order_id=uuid4()))
    ticks.tick()
    families = {
        f"{family.name}_total" if family.type == "counter" else family.name: (
            family.type,
            list(family._labelnames),  # type: ignore[attr-defined]
        )
        for family in PmCeleryCollector().collect()
    }
    rows = rows_of(section("metrics.md", "Metrics"), "metric")

    assert {codes(row[0])[0]: (row[1], codes(row[2])) for row in rows} == families


def test_the_bounds_of_durations_are_told() -> None:
    text = section("metrics.md", "Metrics")

    found = re.search(r"end at ([\d, ]+) ms, ([\d, ]+) s, and infinity", text)

    assert found
    milliseconds, seconds = (
        [float(number) for number in part.split(", ")] for part in found.groups()
    )
    assert [*(number / 1000 for number in milliseconds), *seconds] == list(tallies.BOUNDS)


def test_every_key_of_the_health_is_told() -> None:
    rows = rows_of(section("metrics.md", "Health"), "key")

    assert [codes(row[0])[0] for row in rows] == list(Health().as_json())


def test_every_problem_is_told_and_whether_it_is_grave() -> None:
    rows = rows_of(section("metrics.md", "Problems", level=3), "code")

    assert {codes(row[0])[0]: row[1] == "yes" for row in rows} == dict(problems())


def problems() -> Iterator[tuple[str, bool]]:
    """The codes of problems with whether they are grave, read from the source."""
    source = (ROOT / "pm_celery/operations/health.py").read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Problem":
            grave = {key.arg: key.value for key in node.keywords}.get("grave")
            is_grave = grave is None or bool(ast.literal_eval(grave))
            if isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), is_grave
    # These are made in a loop, with the name of what is late.
    yield from ((f"{field.name}_lag", True) for field in dataclasses.fields(Health().lags))


def test_every_limit_of_the_health_is_told() -> None:
    rows = rows_of(section("metrics.md", "Limits", level=3), "key")

    documented = [codes(row[0])[0].lower() for row in rows]

    assert documented == [field.name for field in dataclasses.fields(Limits)]


# -- the options of Meta ----------------------------------------------------------------------------


def test_every_option_of_meta_is_told() -> None:
    rows = rows_of(section("api.md", "Meta", level=3), "option")

    assert {codes(row[0])[0] for row in rows} == set(definitions._META_OPTIONS)


# -- signals ----------------------------------------------------------------------------------------


def test_every_signal_is_told_with_its_sender_and_arguments() -> None:
    page = (ROOT / "docs/reference/signals.md").read_text()
    rows = rows_of(page, "signal")
    arguments = {name: set(*shapes) for name, shapes in sent().items()}

    named = {codes(row[0])[0]: set(re.findall(r"`(\w+)`", row[3])) for row in rows}

    # It is sent without them: the log makes them of the error.
    arguments["broker_unreachable"] -= {"error_text"}
    assert named == arguments
    assert set(named) == set(signals.__all__)
    assert {codes(row[0])[0]: classes(row[2]) for row in rows} == senders()


def classes(cell: str) -> set[str]:
    return {code.rpartition(".")[2] for code in codes(cell)}


def senders() -> dict[str, set[str]]:
    """By signal, what it is sent by, read from the source."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "pm_celery").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            *_, signal, verb = ["", *ast.unparse(node.func).split(".")]
            if verb in ("send_robust", "send_on_commit") and signal in signals.__all__:
                by = next(key.value for key in node.keywords if key.arg == "sender")
                found.setdefault(signal, set()).add(ast.unparse(by))
    return found


# -- commands ---------------------------------------------------------------------------------------

# Every verb has these, and the page says so in its text.
COMMON = {"--help", "--json", "--by", "--reason", "--yes"}


def test_every_verb_is_told_with_its_arguments_and_options() -> None:
    rows = rows_of(section("commands.md", "Options"), "verb")

    documented = {codes(row[0])[0]: set(codes(row[1])) for row in rows}

    assert documented == dict(verbs(Command().create_parser("manage.py", "pm")))


def verbs(parser: Any, before: str = "") -> Iterator[tuple[str, set[str]]]:
    inner = [action for action in parser._actions if isinstance(action.choices, dict)]
    for action in inner:
        for name, found in action.choices.items():
            yield from verbs(found, f"{before} {name}".strip())
    if not inner:
        yield before, set(options(parser)) - COMMON


def options(parser: Any) -> Iterator[str]:
    for action in parser._actions:
        if action.help == "==SUPPRESS==":
            continue
        if action.option_strings:
            yield next(option for option in action.option_strings if option.startswith("--"))
        else:
            yield str(action.metavar or action.dest).upper()


# -- modules ----------------------------------------------------------------------------------------


def test_the_road_names_every_module_and_none_besides() -> None:
    package = ROOT / "pm_celery"
    modules = {
        path.stem
        for path in package.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    code = inline_code(ROOT / "docs/understand/road.md")

    named = {re.sub(r"(\.py|/)$", "", name) for name in code if re.fullmatch(r"\w+(\.py|/)?", name)}
    files = {name for name in code if re.fullmatch(r"[\w/]+(\.py|/)", name)}

    assert modules - {"__init__"} - named == set()
    assert {file for file in files if not (package / file).exists()} == set()


# -- tests that pages name --------------------------------------------------------------------------

_NAMED = re.compile(r"(tests/[\w/]+\.py)::(\w+)")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_test_that_a_page_names_with_its_file_exists(page: Path) -> None:
    named = [match.groups() for code in inline_code(page) if (match := _NAMED.fullmatch(code))]

    assert [f"{path}::{name}" for path, name in named if not is_test(path, name)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_link_to_a_test_leads_to_its_file(page: Path) -> None:
    links = re.findall(r"\[`(tests/[\w/]+\.py)::\w+`\]\((?:\.\./)+([^)]+)\)", page.read_text())

    assert [path for path, target in links if path != target] == []


def is_test(path: str, name: str) -> bool:
    file = ROOT / path
    return (
        file.exists() and re.search(rf"^def {name}\(", file.read_text(), re.MULTILINE) is not None
    )


def test_guarantees_name_tests_for_every_promise() -> None:
    page = (ROOT / "docs/understand/guarantees.md").read_text()
    promises = re.split(r"^## ", page, flags=re.MULTILINE)[1:]

    assert [promise.partition("\n")[0] for promise in promises if not _NAMED.search(promise)] == []
