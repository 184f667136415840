"""Whether what a page says to type exists: programs, management commands, options, targets, variables.

Nothing is run here. What belongs to other projects (curl, systemctl, docker) is believed.
"""

from __future__ import annotations

import io
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stderr
from functools import cache
from importlib.util import find_spec

from celery.bin.celery import celery as celery_cli
from click import ClickException, Command, Context
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand, CommandError

from tests.docs.pages import ROOT

EXAMPLE_PROJECT = ROOT / "example_project"
PROMPT = "$ "
OTHERS = {
    "apt-get",
    "cat",
    "cd",
    "cp",
    "curl",
    "docker",
    "export",
    "git",
    "head",
    "journalctl",
    "kill",
    "mkdir",
    "rm",
    "sleep",
    "source",
    "systemctl",
    "touch",
}
# Command lines begin with one of these; a block of plain text may not hold one.
OURS = ("python ", "manage.py ", "celery ", "make ", "pip ", "django-admin ")

_OPERATORS = {"|", "||", "&&", "&", ";", "(", ")"}
_VARIABLE = re.compile(r"(\w+)=")


class NoSuchCommand(Exception):
    """A page tells to type what does not exist."""


def typed(block: str) -> list[str]:
    """What follows the prompts of a console block, lines that go on with a backslash joined."""
    joined = re.sub(r"\\\n", " ", block)
    return [line.removeprefix(PROMPT) for line in joined.splitlines() if line.startswith(PROMPT)]


def check(line: str) -> None:
    """Raise ``NoSuchCommand`` for what cannot be typed like that."""
    for words in _commands(line):
        while words and _VARIABLE.match(words[0]):
            _check_variable(words.pop(0))
        if words and words[0] == "sudo":
            words = words[1:]
        if not words:
            continue
        program, *rest = words
        name = program.rpartition("/")[2] if "/bin/" in program else program
        if name in ("python", "python3"):
            _check_python(rest)
        elif name in ("django-admin", "manage.py", "./manage.py"):
            _check_django(rest)
        elif name == "celery":
            _check_celery(rest)
        elif name == "make":
            _check_make(rest)
        elif name == "pip":
            _check_pip(rest)
        elif name in ("ruff", "mypy", "lint-imports", "pytest", "pre-commit", "mutmut"):
            continue  # contributors' tools: their own options
        elif name not in OTHERS:
            raise NoSuchCommand(f"{program}: nobody says what this is; see tests/docs/commands.py")


def _commands(line: str) -> Iterator[list[str]]:
    """The simple commands of a shell's line, without redirections."""
    lexer = shlex.shlex(line.replace(" 2>", " >"), posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for word in lexer:
        if skip:
            skip = False
        elif word in _OPERATORS:
            yield words
            words = []
        elif set(word) <= set("<>"):
            skip = True
        else:
            words.append(word)
    yield words


def _check_variable(word: str) -> None:
    name = word.partition("=")[0]
    if name.startswith("PM_") and name not in _our_variables():
        raise NoSuchCommand(f"{name}: nothing reads this variable")


@cache
def _our_variables() -> frozenset[str]:
    read = "".join(
        path.read_text()
        for folder in ("tests", "example_project", "pm_celery")
        for path in (ROOT / folder).rglob("*.py")
        if ROOT / "tests/docs" not in path.parents
    )
    return frozenset(re.findall(r"PM_[A-Z_]+", read))


def _check_python(words: list[str]) -> None:
    match words:
        case ["-m", "django", *rest]:
            _check_django(rest)
        case ["-m", "celery", *rest]:
            _check_celery(rest)
        case ["-m", "pip", *rest]:
            _check_pip(rest)
        case ["-m", module, *_]:
            if find_spec(module) is None:
                raise NoSuchCommand(f"python -m {module}: there is no such module")
        case ["manage.py", *rest]:
            _check_django(rest)
        case [script, *_] if not script.startswith("-"):
            if not any((home / script).exists() for home in (ROOT, EXAMPLE_PROJECT)):
                raise NoSuchCommand(f"python {script}: there is no such file")


def _check_django(words: list[str]) -> None:
    if not words:
        raise NoSuchCommand("manage.py: which command?")
    name, *arguments = words
    try:
        command = _django_command(name)
    except KeyError:
        raise NoSuchCommand(f"manage.py {name}: there is no such command") from None
    parser = command.create_parser("manage.py", name)
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            parser.parse_args(arguments)
    except (CommandError, SystemExit) as error:
        raise NoSuchCommand(f"manage.py {shlex.join(words)}: {said.getvalue() or error}") from None


def _django_command(name: str) -> BaseCommand:
    if (EXAMPLE_PROJECT / f"replay/management/commands/{name}.py").exists():
        sys.path[:0] = [] if str(EXAMPLE_PROJECT) in sys.path else [str(EXAMPLE_PROJECT)]

        return load_command_class("replay", name)
    app = get_commands()[name]
    return app if isinstance(app, BaseCommand) else load_command_class(app, name)


def _check_celery(words: list[str]) -> None:
    command: Command = celery_cli
    context = Context(celery_cli, info_name="celery")
    words = list(words)
    while True:
        try:
            _, rest, _ = command.make_parser(context).parse_args(words)
        except ClickException as error:
            raise NoSuchCommand(f"celery: {error.format_message()}") from None
        inner = getattr(command, "commands", {})
        if not inner or not rest:
            return
        if rest[0] not in inner:
            raise NoSuchCommand(f"celery {rest[0]}: there is no such command")
        command, words = inner[rest[0]], rest[1:]
        context = Context(command, info_name=rest[0], parent=context)


def _check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in words:
        if not _VARIABLE.match(word) and word not in targets:
            raise NoSuchCommand(f"make {word}: there is no such target")


def _check_pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for word in words:
        found = re.fullmatch(r"pm-celery\[(.*)\].*", word)
        for extra in found[1].split(",") if found else ():
            if extra not in extras:
                raise NoSuchCommand(f"pip install {word}: there is no such extra")
