"""What becomes of each snippet of a page, by its language; found and run by Sybil.

Python runs, a page's blocks one after another. A block that begins with a file's name
(``# shop/events.py``) runs as that module, so a later one may import from it; the others run in
``shop.processes``. Blocks that readers do not see stand in HTML comments::

    <!-- invisible-code: python
    order = Order(42)
    -->

and a block that cannot run carries its reason in front: ``<!-- skip: next "why" -->``.
"""

from __future__ import annotations

import configparser
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from unittest import SkipTest

import pytest
import yaml
from celery import current_app
from celery.app.defaults import DEFAULTS
from django.test import override_settings
from sybil import Document, Example, Region
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import SkipParser
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer, RawFencedCodeBlockLexer

from pm_celery.conf import get_settings
from tests.docs import commands

DEFAULT_FILE = "shop/processes.py"
PROJECT = "mysite"
SETTINGS = "settings.py"

# Not Celery's own, but its fix-up for Django's.
_CELERY_BY_DJANGO = {"db_reuse_max"}
_DOCKERFILE = re.compile(
    r"(ARG|CMD|COPY|ENTRYPOINT|ENV|EXPOSE|FROM|HEALTHCHECK|LABEL|RUN|STOPSIGNAL|USER|VOLUME|WORKDIR) "
)
_FILE = re.compile(r"# ((?:\w+/)*\w+\.py)\b")
_python = PythonEvaluator()


class Page:
    """A page's snippets, in order, with the modules that its Python makes up."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.modules: dict[str, ModuleType] = {}
        self.document = Document.parse(str(path), Snippets(self), SkipParser())
        for skip in re.findall(r"<!-- *skip: (?:next|start) *(.*?)-->", self.document.text):
            assert skip, f"{path}: say why it is skipped"
        self.skipped: list[str] = []

    def run(self) -> None:
        """Run every snippet; what one raises says on which line it stands."""
        with _the_celery_app_stays():
            self._run()

    def _run(self) -> None:
        for example in self.document:
            try:
                example.evaluate()
            except SkipTest as skip:
                self.skipped.append(str(skip))
            except Exception as error:
                error.add_note(f"{self.document.path}:{example.line}")
                raise

    def python(self, example: Example) -> None:
        found = _FILE.match(example.parsed)
        file = found[1] if found else DEFAULT_FILE
        if file.endswith(SETTINGS):
            for variable in re.findall(r'os\.environ\["(\w+)"\]', example.parsed):
                self.patch.setenv(variable, "whatever")
            example.namespace = {"INSTALLED_APPS": [], "DATABASES": {"default": {}}}
            _python(example)
            check_settings(example.namespace)
        else:
            example.namespace = vars(self._module(file))
            _python(example)

    def _module(self, file: str) -> ModuleType:
        """The made-up module of that file, in the packages that it needs."""
        path = Path(file if "/" in file else f"{PROJECT}/{file}").with_suffix("")
        is_package = path.name == "__init__"
        names = (path.parent if is_package else path).parts
        for length in range(1, len(names) + 1):
            name, package = ".".join(names[:length]), ".".join(names[: length - 1])
            if name in self.modules:
                continue
            made = ModuleType(name)
            made.__package__ = name if is_package or length < len(names) else package
            made.__path__ = []
            self.modules[name] = made
            self.patch.setitem(sys.modules, name, made)
            if package:
                setattr(self.modules[package], names[length - 1], made)
        return self.modules[".".join(names)]


@contextmanager
def _the_celery_app_stays() -> Iterator[None]:
    before = current_app._get_current_object()
    try:
        yield
    finally:
        before.set_current()


def check_settings(namespace: dict[str, object]) -> None:
    """Refuse what neither we nor Celery know."""
    if "PM_CELERY" in namespace:
        with override_settings(PM_CELERY=namespace["PM_CELERY"]):
            get_settings()
    for name in namespace:
        key = name.removeprefix("CELERY_").lower()
        if name.startswith("CELERY_") and key not in {*DEFAULTS, *_CELERY_BY_DJANGO}:
            raise AssertionError(f"{name}: Celery has no such setting")


def console(example: Example) -> None:
    lines = commands.typed(example.parsed)
    assert lines, f"no line begins with {commands.PROMPT!r}"
    for line in lines:
        commands.check(line)


def text(example: Example) -> None:
    """Pictures and outputs; what one types is a console."""
    for line in example.parsed.splitlines():
        assert not line.startswith((commands.PROMPT, *commands.OURS)), f"a console: {line}"


def dockerfile(example: Example) -> None:
    joined = re.sub(r"\\\n", " ", example.parsed)
    for line in joined.splitlines():
        if line and not line.startswith("#"):
            assert _DOCKERFILE.match(line), f"no instruction of a Dockerfile: {line}"
        if line.startswith("CMD ["):
            commands.check(shlex.join(json.loads(line.removeprefix("CMD "))))


def ini(example: Example) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(example.parsed)
    for section in parser.values():
        if "ExecStart" in section:  # a unit of systemd's
            commands.check(section["ExecStart"].replace("\\\n", " "))


def parsed_yaml(example: Example) -> None:
    document = yaml.safe_load(example.parsed)
    services = document.get("services", {}) if isinstance(document, dict) else {}
    for service in services.values():  # a compose file
        if "command" in service:
            commands.check(shlex.join(service["command"]))


LANGUAGES: dict[str, Callable[[Example], None]] = {
    "console": console,
    "dockerfile": dockerfile,
    "html": text,
    "ini": ini,
    "json": lambda example: json.loads(example.parsed),
    "mermaid": text,
    "text": text,
    "toml": lambda example: tomllib.loads(example.parsed),
    "yaml": parsed_yaml,
}


class Snippets:
    """Sybil's parser for all of a page's blocks: a language that nobody handles is an error."""

    def __init__(self, page: Page) -> None:
        self.evaluators = {**LANGUAGES, "python": page.python}

    def __call__(self, document: Document) -> Iterable[Region]:
        fences = RawFencedCodeBlockLexer(re.compile(r"(?P<arguments>[^\n]*)$\n", re.MULTILINE))
        unseen = DirectiveInHTMLCommentLexer(directive=r"invisible-code")
        for region in (*fences(document), *unseen(document)):
            language = region.lexemes["arguments"].strip()
            if language.startswith("{"):
                continue  # a directive of Sphinx's
            where = f"{document.path}: {document.line_column(region.start)}"
            if language not in self.evaluators:
                raise LookupError(f"{where}: a snippet in {language or 'no language'!r}")
            region.parsed = region.lexemes["source"]
            region.evaluator = _silent(self.evaluators[language])
            yield region


def _silent(evaluator: Callable[[Example], object]) -> Callable[[Example], None]:
    """What an evaluator returns is a complaint to Sybil; ours raise."""

    def evaluate(example: Example) -> None:
        evaluator(example)

    return evaluate
