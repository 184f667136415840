"""The catalogues are whole, and what they are compiled to is what they say.

Breaks that turned these red: a message marked in a template and not collected; an edited .po that was not
compiled; ``%(count)s`` left out of a translation; a fuzzy one.
"""

from __future__ import annotations

import ast
import re
from gettext import GNUTranslations
from html.parser import HTMLParser
from pathlib import Path

import django
import pytest
from babel.messages import Catalog, Message

from pm_celery.exceptions import Refused
from tests.catalogues import (
    LANGUAGES,
    PACKAGE,
    catalogue,
    compiled,
    compiled_from,
    marked,
    placeholders,
    translations,
)

pytestmark = pytest.mark.any_database

COLLECT = "`make messages` collects and compiles"
every_language = pytest.mark.parametrize("language", LANGUAGES)


def messages_of(found: Catalog) -> list[Message]:
    return [message for message in found if message.id]


def test_german_is_there() -> None:
    assert "de" in LANGUAGES


@every_language
def test_the_catalogue_holds_what_is_marked_and_nothing_besides(language: str) -> None:
    wanted = marked()

    held = {message.id for message in messages_of(catalogue(language))}

    # A message that is used with and without a plural is one.
    singulars = {message[0] for message in held if isinstance(message, tuple)}
    assert {told: file for told, file in wanted.items() if told not in held | singulars} == {}, (
        COLLECT
    )
    assert held - set(wanted) == set(), COLLECT


@every_language
def test_everything_is_translated_and_nothing_is_a_guess(language: str) -> None:
    found = catalogue(language)

    assert [message.id for message in messages_of(found) if not all(translations(message))] == []
    assert [message.id for message in messages_of(found) if message.fuzzy] == []
    assert list(found.obsolete) == []


@every_language
def test_a_translation_has_the_placeholders_and_the_ends_of_its_message(language: str) -> None:
    wrong = []
    for message in messages_of(catalogue(language)):
        one, *plural = message.id if isinstance(message.id, tuple) else (message.id,)
        # In the plural's last form and in the others: a number that is always 1 may be written.
        of_its_own = placeholders(plural[0] if plural else one)
        for text in translations(message):
            same_end = re.search(r"[.:?]?\s*$", one)[0] == re.search(r"[.:?]?\s*$", text)[0]  # type: ignore[index]
            if placeholders(text) not in (of_its_own, placeholders(one)) or not same_end:
                wrong.append((message.id, text))

    assert wrong == []


@every_language
def test_what_django_reads_is_what_translators_wrote(language: str) -> None:
    found = compiled(language)

    wanted = compiled_from(catalogue(language))

    assert {key: text for key, text in found._catalog.items() if key} == {  # type: ignore[attr-defined]
        key: text
        for key, text in wanted._catalog.items()
        if key  # type: ignore[attr-defined]
    }, COLLECT
    assert found.plural(1) != found.plural(2)  # type: ignore[attr-defined]


@every_language
def test_what_django_says_itself_is_said_in_its_words(language: str) -> None:
    """Django makes one of all catalogues: another "Save" of ours would stand on others' pages as well."""
    ours = compiled(language)._catalog  # type: ignore[attr-defined]
    differ = {}
    for path in Path(django.__file__).parent.rglob(f"locale/{language}/LC_MESSAGES/django.mo"):
        with path.open("rb") as file:
            theirs = GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        differ |= {
            key: ours[key] for key in theirs if key and ours.get(key, theirs[key]) != theirs[key]
        }

    assert differ == {}


# -- what is not marked -----------------------------------------------------------------------------


class _Words(HTMLParser):
    """The texts of a template without its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        self.found += [of.get(name) or "" for name in ("title", "aria-label", "alt", "placeholder")]
        if tag == "input" and of.get("type") == "submit":
            self.found.append(of.get("value") or "")

    def handle_data(self, data: str) -> None:
        self.found.append(data)


# Names of CSS classes.
_CLASSES = re.compile(r"{%\s*block (page_class|bodyclass)\s*%}.*{%\s*endblock\s*%}")
_TAGS = re.compile(
    r"{%\s*(blocktranslate|comment)\b.*?{%\s*end\1\s*%}|{%.*?%}|{{.*?}}|{#.*?#}", re.DOTALL
)


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.html")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_template_holds_a_word_that_is_not_marked(path: Path) -> None:
    words = _Words()

    words.feed(_TAGS.sub(" ", _CLASSES.sub("", path.read_text())))

    assert [" ".join(text.split()) for text in words.found if any(map(str.isalpha, text))] == []


def test_whatever_an_operator_is_refused_with_is_marked() -> None:
    """Or is somebody else's text: what pydantic, a correlate or the database says."""
    others = {
        "str(error)",
        "f'{name_of(error)}: {text_of(error, hide)}'",
        "f'{name_of(error)}: {words}'",
    }
    wrong = []
    for path in sorted([*PACKAGE.glob("operations/*.py"), *PACKAGE.glob("admin/*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Refused":
                told = ast.unparse(node.args[0])
                is_lazy = re.match(r"_\(|_[A-Z]+\b|unknown$", told)
                if not is_lazy and told not in others:
                    wrong.append(f"{path.name}:{node.lineno} {told}")

    assert wrong == []


def test_a_refusal_puts_values_into_its_text_when_it_is_read() -> None:
    assert str(Refused("100% of it")) == "100% of it"
