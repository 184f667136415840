"""Tables of the reference, as values to compare with the code."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.pages import DOCS

__all__ = ["codes", "rows_of", "section"]

_CODE = re.compile(r"`([^`]+)`")


def section(page: str, heading: str, level: int = 2) -> str:
    """What stands under a heading of a page of the reference, up to the next one of its level."""
    text = (Path(DOCS) / "reference" / page).read_text()
    marks = "#" * level
    found = re.search(
        rf"^{marks} {re.escape(heading)}$(.*?)(?=^#{{1,{level}}} |\Z)",
        text,
        re.MULTILINE | re.DOTALL,
    )
    assert found, f"{page} has no heading {heading!r}"
    return found[1]


def rows_of(text: str, head: str) -> list[list[str]]:
    """The cells of the table whose first column is headed so."""
    found = re.search(rf"^\| {re.escape(head)} \|.*\n\|[-|]+\|\n((?:\|.*\n?)*)", text, re.MULTILINE)
    assert found, f"no table with the column {head!r}"
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in found[1].splitlines()
    ]


def codes(cell: str) -> list[str]:
    """What stands between backticks in a cell."""
    return _CODE.findall(cell)
