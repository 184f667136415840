"""The docs agree with the code, and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pm_celery.conf import PmCelerySettings, Settings

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def ids_of_checks() -> set[str]:
    source = "".join(path.read_text() for path in (ROOT / "pm_celery").rglob("*.py"))
    return set(re.findall(r'"(?:pm_celery\.)?([EW]0\d\d)"', source))


def test_every_check_has_a_heading_and_there_is_none_besides() -> None:
    page = (ROOT / "docs/reference/checks.md").read_text()

    documented = re.findall(r"^### pm_celery\.([EW]0\d\d): \S", page, re.M)

    assert sorted(documented) == sorted(ids_of_checks())


def test_every_check_has_a_test_that_is_named_after_it() -> None:
    files = [*(ROOT / "tests").glob("test_*checks*.py"), ROOT / "tests/test_extras.py"]
    source = "".join(path.read_text() for path in files)

    tested = set(re.findall(r"^def test_([ew]0\d\d)_(?!is_silent)", source, re.M))

    assert {id_.upper() for id_ in tested} == ids_of_checks()


def test_every_setting_is_documented_with_its_type_and_default() -> None:
    keys = set(PmCelerySettings.__annotations__)

    documented = re.findall(
        r"^\| `([A-Z_]+)` \|", (ROOT / "docs/reference/settings.md").read_text(), re.M
    )

    assert set(documented) == keys == {name.upper() for name in Settings.__dataclass_fields__}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())

    broken = [
        link
        for link in links
        if not link.startswith("http") and not (page.parent / link).resolve().exists()
    ]

    assert broken == []
