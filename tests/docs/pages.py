"""The pages, and what one may link to on them."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# tests/docs/test_tutorial.py takes its steps in a project of its own.
TUTORIAL = DOCS / "learn/tutorial.md"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])

_FENCE = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1`* *$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_TARGET = re.compile(r"^\(([\w-]+)\)=$", re.MULTILINE)
_LINK = re.compile(r"\[(.*?)\]\(.*?\)")
_INLINE_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)


def name_of(page: Path) -> str:
    """How a page is called in the tests' names."""
    return str(page.relative_to(ROOT).with_suffix(""))


def prose(page: Path) -> str:
    """A page without its snippets."""
    return _FENCE.sub("", page.read_text())


@cache
def anchors(page: Path) -> frozenset[str]:
    """What may follow the # in a link to this page: its headings, as GitHub makes anchors of them."""
    text = prose(page)
    found: list[str] = _TARGET.findall(text)
    seen: Counter[str] = Counter()
    for heading in _HEADING.findall(text):
        slug = re.sub(r"[^\w\- ]", "", _LINK.sub(r"\1", heading).lower()).replace(" ", "-")
        found.append(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return frozenset(found)


def inline_code(page: Path) -> list[str]:
    """What stands between single backticks in the text."""
    return [match[2] for match in _INLINE_CODE.finditer(prose(page)) if match[1] == "`"]


def links(page: Path) -> list[tuple[str, str]]:
    """Links to other files and to other places of this page: (path, anchor), either may be ""."""
    text = _INLINE_CODE.sub("", prose(page))
    targets = re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", text)
    return [
        (path, anchor)
        for path, _, anchor in (target.partition("#") for target in targets)
        if not path.startswith(("http://", "https://", "mailto:"))
    ]
