"""Every snippet of every page runs, parses, or says why not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pm_celery import registry
from pm_celery.definitions import ProcessDefinition
from tests.docs import commands
from tests.docs.pages import PAGES, TUTORIAL, name_of, prose
from tests.docs.snippets import Page

pytestmark = [pytest.mark.any_database, pytest.mark.django_db]


@pytest.mark.parametrize("path", [page for page in PAGES if page != TUTORIAL], ids=name_of)
def test_every_snippet_of_a_page_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(registry.listeners)

    Page(path, monkeypatch).run()

    declared = set(registry.listeners) - before
    assert [p for d in declared if isinstance(d, ProcessDefinition) for p in d.problems] == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_no_snippet_is_a_mere_indented_paragraph_that_no_test_finds(path: Path) -> None:
    assert re.findall(r"\n\n {4}\S.*", prose(path)) == []


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Page:
    file = tmp_path / "page.md"
    file.write_text(text)
    page = Page(file, monkeypatch)
    page.run()
    return page


@pytest.mark.parametrize(
    ("snippet", "complaint"),
    [
        ("```\nx = 1\n```", "no language"),
        ("```cobol\nSTOP RUN.\n```", "cobol"),
        ("```python\nx = 1 +\n```", "invalid syntax"),
        ("```json\n{\n```", "Expecting property name"),
        ("```text\n$ make demo\n```", "a console"),
        ("```console\nmake demo\n```", "no line begins with"),
        ('```python\n# settings.py\nPM_CELERY = {"QUEUE": 2}\n```', "QUEUES"),
        ("```python\n# settings.py\nCELERY_BROKER_ULR = ''\n```", "CELERY_BROKER_ULR"),
        ("```dockerfile\nFORM python:3.13\n```", "FORM"),
        ('```dockerfile\nCMD ["celery", "wroker"]\n```', "wroker"),
        ("```ini\nExecStart=celery\n```", "no section headers"),
        ("```ini\n[Service]\nExecStart=/srv/bin/celery \\\n    baet\n```", "baet"),
        ('```yaml\nservices:\n  web: {command: ["celery", "wroker"]}\n```', "wroker"),
    ],
)
def test_a_snippet_that_is_wrong_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snippet: str, complaint: str
) -> None:
    with pytest.raises(Exception, match=complaint):
        run(tmp_path, monkeypatch, f"# Page\n\n{snippet}\n")


def test_an_error_tells_the_line_of_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NameError) as caught:
        run(tmp_path, monkeypatch, "# Page\n\nText.\n\n```python\nnowhere\n```\n")

    assert caught.value.__notes__ == [f"{tmp_path}/page.md:5"]


def test_a_block_that_names_its_file_is_a_module_that_others_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = (
        "# shop/prices.py\nPRICE = 42",
        "from shop.prices import PRICE\nassert PRICE == 42",
    )

    run(tmp_path, monkeypatch, "\n\n".join(f"```python\n{block}\n```" for block in blocks))


def test_what_is_skipped_has_its_reason_in_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comment = '<!-- skip: next "needs a bank" -->'

    page = run(tmp_path, monkeypatch, f"{comment}\n\n```python\npay()\n```\n")

    assert page.skipped == ["needs a bank"]


def test_nothing_is_skipped_without_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError, match="why"):
        run(tmp_path, monkeypatch, "<!-- skip: next -->\n\n```python\npay()\n```\n")


@pytest.mark.parametrize(
    "line",
    [
        "python manage.py pm retry 17 18 --reason 'stock is back'",
        "python manage.py pm edit 17 > payload.json",
        "celery -A mysite worker --beat -Q celery,slow --concurrency 4 2>&1",
        "PM_LOOK=docs/images .venv/bin/python -m pytest tests/browser",
        "sudo systemctl restart worker && python manage.py migrate",
    ],
)
def test_what_can_be_typed_passes(line: str) -> None:
    commands.check(line)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("python manage.py pm rerty 17", "rerty"),
        ("python manage.py pm retry 17 --resaon x", "resaon"),
        ("python manage.py migarte", "migarte"),
        ("celery -A mysite worker --bate", "bate"),
        ("celery -A mysite wroker", "wroker"),
        ("make tset", "tset"),
        ("pip install 'pm-celery[postgers]'", "postgers"),
        ("PM_LOKO=x make demo", "PM_LOKO"),
        ("python -m tests.nowhere", "nowhere"),
        ("python nowhere.py", "nowhere.py"),
        ("frobnicate x", "frobnicate"),
        ("cat x | python manage.py pm sotp", "sotp"),
    ],
)
def test_what_does_not_exist_cannot_be_typed(line: str, complaint: str) -> None:
    with pytest.raises(commands.NoSuchCommand, match=complaint):
        commands.check(line)
