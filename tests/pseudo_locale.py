"""A language in which every message that is marked for translation stands in brackets: ⟦Retry⟧.

Values that are put into one stand outside of them, as in 3⟦ retried⟧: they may be words as well. What a page
shows outside of brackets is data, or was forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from inspect import isfunction
from typing import Any
from uuid import UUID

import pytest
from django.db.models import Model
from django.utils.translation import override, trans_real

from pm_celery import registry

__all__ = ["LANGUAGE", "Reader", "data_of", "pseudo_locale"]

LANGUAGE = "xx"
_OPENING, _CLOSING = "⟦⟧"
_PLACEHOLDERS = re.compile(r"(%\(\w+\)[sd]|%[sd]|%%|\{\w+\})")


class _Catalogue(trans_real.DjangoTranslation):
    """Translates by brackets, and knows every message."""

    def __init__(self) -> None:
        super().__init__("en")
        self._DjangoTranslation__to_language = (
            LANGUAGE  # what is asked for is the language's own formats
        )

    def gettext(self, message: str) -> str:
        # In a context, Django asks for both, and takes an answer that holds the separator for none.
        text = str(message).rpartition(trans_real.CONTEXT_SEPARATOR)[2]
        pieces = _PLACEHOLDERS.split(text)
        return "".join(
            piece if at % 2 or not piece else f"{_OPENING}{piece}{_CLOSING}"
            for at, piece in enumerate(pieces)
        )

    def ngettext(self, one: str, many: str, number: int) -> str:
        return self.gettext(one if number == 1 else many)


@contextmanager
def pseudo_locale(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """The language is spoken; for what a test asks in its own thread."""
    patch.setitem(trans_real._translations, LANGUAGE, _Catalogue())
    with override(LANGUAGE):
        yield


# -- what a page shows ------------------------------------------------------------------------------

# Payloads, tracebacks and quoted reasons are data by their place, as are a state's fields and types.
_NO_WORDS = frozenset({"pre", "code", "q", "del", "ins", "script", "style", "textarea"})
_DATA_CLASS = re.compile(r"\bpm-(type|depth-\d+)\b")
_SHOWN = ("title", "aria-label", "alt", "placeholder")
# What has no end tag, and would be taken for never closed.
_VOID = frozenset({"input", "link", "meta", "br", "hr", "img"})


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._open: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        if tag not in _VOID:
            is_data = tag in _NO_WORDS or _DATA_CLASS.search(of.get("class") or "")
            self._open.append((tag, bool(is_data)))
        self.found += [of[name] or "" for name in _SHOWN if name in of]
        if tag == "input" and of.get("type") in ("submit", "button", "reset"):
            self.found.append(of.get("value") or "")

    def handle_endtag(self, tag: str) -> None:
        while any(tag == opened for opened, _is_data in self._open):
            if self._open.pop()[0] == tag:
                break

    def handle_data(self, data: str) -> None:
        if not any(is_data for _tag, is_data in self._open):
            self.found.append(data)


def _outside_of_brackets(text: str) -> str:
    found, depth = [], 0
    for char in text:
        depth += (char == _OPENING) - (char == _CLOSING)
        # A closing bracket may have been cut off with the end of a text, and never opens another.
        depth = max(depth, 0)
        found.append("\n" if depth or char == _CLOSING else char)
    return "".join(found)


class Reader:
    """Tells data from words that were forgotten. data: what rows hold, and names."""

    def __init__(self, data: Iterable[str]) -> None:
        self._longest_first = sorted(
            {word for word in data if _has_letters(word)}, key=len, reverse=True
        )
        self._known: dict[str, bool] = {}

    def unmarked_on(self, page: str) -> list[str]:
        """Texts of a page, as HTML, that are neither in brackets nor data."""
        words = _Words()
        words.feed(page)
        return self.unmarked(words.found)

    def unmarked(self, texts: Iterable[str]) -> list[str]:
        """Those of some texts that are neither in brackets nor data."""
        return [" ".join(text.split()) for text in texts if not self._is_known(text)]

    def _is_known(self, text: str) -> bool:
        if text not in self._known:
            self._known[text] = not _has_letters(self._without_data(_outside_of_brackets(text)))
        return self._known[text]

    def _without_data(self, text: str) -> str:
        for word in self._longest_first:
            if not _has_letters(text):
                break
            if word in text:
                text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", "\n", text)
        # Lists show the beginning of what is long.
        return re.sub(r"\w[^\n…]*…", lambda cut: self._beginning(cut.group()), text)

    def _beginning(self, cut: str) -> str:
        begins = any(word.startswith(cut[:-1]) for word in self._longest_first)
        return "" if begins else cut


def _has_letters(text: str) -> bool:
    return any(map(str.isalpha, text))


def data_of(tables: Iterable[type[Model]]) -> set[str]:
    """What rows hold that people or their code have written, and the names of what is declared."""
    found = {item.name for item in (*registry.listeners, *registry.messages)}
    # Handlers by the names of their methods, which diagrams show besides what has happened.
    classes = [getattr(item, "cls", type(None)) for item in registry.listeners]
    found |= {name for cls in classes for name, of in vars(cls).items() if isfunction(of)}
    for table in tables:
        columns = [column for column in table._meta.concrete_fields if not _is_named(table, column)]
        for row in table._default_manager.values_list(*(column.name for column in columns)):
            found |= {str(value) for value in row if isinstance(value, str | UUID)}
    found |= {line for text in found for line in text.splitlines()}
    # Where the process is of the same app, a name is shown without it.
    return found | {text.partition(".")[2] for text in found if re.fullmatch(r"\w+\.\w+", text)}


def _is_named(table: type[Model], column: Any) -> bool:
    """Whether it holds one of a closed set, which the package has words for; or what is shown as it is."""
    name = f"{table._meta.model_name}.{column.name}"
    return bool(column.choices) or name in _NAMED or column.name in ("traceback", "state")


_NAMED = ("intervention.verb", "bulkaction.verb", "tally.what", "tallyentry.counts")
