"""What is marked for translation, and what catalogues say: read without gettext's tools."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator
from gettext import GNUTranslations
from pathlib import Path

from babel.messages import Catalog, Message
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from django.utils.translation.template import templatize

import pm_celery

__all__ = [
    "LANGUAGES",
    "PACKAGE",
    "Marked",
    "catalogue",
    "compiled",
    "compiled_from",
    "marked",
    "placeholders",
]

PACKAGE = Path(pm_celery.__file__).parent
LANGUAGES = sorted(path.name for path in (PACKAGE / "locale").iterdir())

# A message, or one and its plural.
Marked = str | tuple[str, str]

_ONE = {"_", "gettext", "gettext_lazy", "gettext_noop"}
_PLURAL = {"ngettext", "ngettext_lazy"}
_LITERAL = r"""u?('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_IN_TEMPLATES = re.compile(rf"\b(n?gettext|_)\({_LITERAL}(?:,\s*{_LITERAL})?")


def marked() -> dict[Marked, str]:
    """Every message that the package marks, with the file that holds it."""
    found: dict[Marked, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        found |= dict.fromkeys(_in_code(path.read_text()), str(path.relative_to(PACKAGE)))
    for path in sorted(PACKAGE.rglob("*.html")):
        found |= dict.fromkeys(_in_template(path.read_text()), str(path.relative_to(PACKAGE)))
    return found


def _in_code(source: str) -> Iterator[Marked]:
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        words = [text for text in texts if isinstance(text, str)]
        if node.func.id in _ONE and words:
            yield words[0]
        elif node.func.id in _PLURAL:
            yield words[0], words[1]


def _in_template(source: str) -> Iterator[Marked]:
    for function, one, plural in _IN_TEMPLATES.findall(templatize(source)):
        message: str = ast.literal_eval(one)
        yield (message, ast.literal_eval(plural)) if function == "ngettext" else message


def catalogue(language: str) -> Catalog:
    """The catalogue that translators edit."""
    with _folder(language).joinpath("django.po").open("rb") as file:
        return read_po(file)


def compiled(language: str) -> GNUTranslations:
    """The catalogue that Django reads."""
    with _folder(language).joinpath("django.mo").open("rb") as file:
        return GNUTranslations(file)


def compiled_from(found: Catalog) -> GNUTranslations:
    """What Django would read of it, were it compiled now."""
    file = io.BytesIO()
    write_mo(file, found)
    file.seek(0)
    return GNUTranslations(file)


def _folder(language: str) -> Path:
    return PACKAGE / "locale" / language / "LC_MESSAGES"


def placeholders(text: str) -> list[str]:
    """What values are put into: ``%(name)s``, ``%s`` and ``{name}``."""
    return sorted(re.findall(r"%\(\w+\)s|%s|\{\w+\}", text))


def translations(message: Message) -> tuple[str, ...]:
    """The texts in the catalogue's language: one, or one for each plural form."""
    return message.string if isinstance(message.string, tuple) else (message.string,)
