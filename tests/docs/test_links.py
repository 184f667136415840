"""Links, paths, names of tests, and commands in the text of the pages are what they say."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs import commands
from tests.docs.pages import DOCS, PAGES, ROOT, anchors, inline_code, links, name_of

pytestmark = pytest.mark.any_database

every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)

_PATH = re.compile(r"(?:tests|docs|pm_celery|example_project)/[\w./-]+")
_TEST = re.compile(r"test_\w+")


@every_page
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(page: Path) -> None:
    assert [link for link in links(page) if not _leads_somewhere(page, *link)] == []


def _leads_somewhere(page: Path, path: str, anchor: str) -> bool:
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return False
    return not anchor or target.suffix != ".md" or anchor in anchors(target)


@every_page
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    named = [code for code in inline_code(page) if _PATH.fullmatch(code)]

    # Static files are named as browsers ask for them.
    homes = (ROOT, ROOT / "pm_celery/static")
    assert [path for path in named if not any((home / path).exists() for home in homes)] == []


@every_page
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = [code for code in inline_code(page) if _TEST.fullmatch(code)]

    assert [name for name in named if name not in _tests()] == []


@cache
def _tests() -> frozenset[str]:
    sources = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    return frozenset(re.findall(r"def (test_\w+)", "".join(sources)))


@every_page
def test_every_command_in_the_text_of_a_page_exists(page: Path) -> None:
    for code in inline_code(page):
        # With a gap to be filled in it is no command yet.
        if code.startswith(commands.OURS) and not re.search(r"[<…\[]|[A-Z]{3}", code):
            try:
                commands.check(code)
            except commands.NoSuchCommand as error:
                # In a sentence a command is named without what it needs.
                if "arguments are required" not in str(error):
                    raise


def test_anchors_are_made_as_github_makes_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n\n## `PM_CELERY`, [its](x.md) keys\n\n## Retry & discard\n\n"
        "```console\n# no heading\n```\n\n## A page\n"
    )

    assert anchors(page) == {"a-page", "pm_celery-its-keys", "retry--discard", "a-page-1"}


def test_a_link_to_a_heading_that_is_not_there_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n[here](#a-page), [there](page.md#nowhere), [gone](gone.md)\n")

    found = links(page)

    assert found == [("", "a-page"), ("page.md", "nowhere"), ("gone.md", "")]
    assert [_leads_somewhere(page, *link) for link in found] == [True, False, False]


def test_the_index_leads_to_every_page() -> None:
    index = DOCS / "index.md"

    led_to = {(DOCS / path).resolve() for path, _ in links(index)}

    assert {*DOCS.rglob("*.md")} - {index} - led_to == set()
