"""What every subcommand is given: its options, where to print, who asks and why."""

from __future__ import annotations

import argparse
import getpass
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.core.management.base import CommandError

from pm_celery.exceptions import Refused
from pm_celery.shell.printing import Bar, Output, as_it_is

__all__ = ["DONE", "REFUSED", "USAGE", "Family", "Shell", "Subject", "Usage"]

DONE, REFUSED, USAGE = 0, 1, 2


class Usage(CommandError):
    """What was asked for cannot be: an unknown name, options that contradict each other."""

    def __init__(self, text: str) -> None:
        super().__init__(text, returncode=USAGE)


@dataclass(frozen=True, slots=True)
class Subject:
    """A row that a verb is for: its id, and how people and scripts know it."""

    id: Any
    title: str
    told: dict[str, Any]


@dataclass(slots=True)
class Shell:
    """One call of ``manage.py pm``."""

    out: Output
    options: dict[str, Any]
    err: Any

    @property
    def by(self) -> str:
        """Who does it: ``--by``, else the shell's user."""
        if given := self.options.get("by"):
            return str(given)
        try:
            return getpass.getuser()
        except (KeyError, OSError):  # a container whose user has no name
            return "shell"

    @property
    def reason(self) -> str:
        return str(self.options.get("reason") or "")

    def bar(self, text: str, total: int | None = None) -> Bar:
        return Bar(text, total, err=self.err)

    def ask(self, question: str) -> None:
        """Ask a person before something that cannot be undone; a script means what it says. Raises
        ``CommandError``, with the exit code of a refusal, for any answer but yes."""
        if self.options.get("yes") or not sys.stdin.isatty():
            return
        self.err.write(f"{question} [y/N] ", as_it_is, ending="")
        self.err.flush()
        if input().strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was done.", returncode=REFUSED)

    def each(
        self, subjects: Iterable[Subject], verb: Callable[..., Any], done: str, **given: Any
    ) -> int:
        """Do it to each, say what became of each; the exit code."""
        subjects = list(subjects)
        counts = {True: 0, False: 0}
        dry = bool(self.options.get("dry_run"))
        with self.bar(done, len(subjects)) as bar:
            for subject in subjects:
                refused = None
                if not dry:
                    try:
                        verb(subject.id, **given, by=self.by, reason=self.reason)
                    except Refused as error:
                        refused = str(error)
                counts[refused is None] += 1
                said = f"refused: {refused}" if refused is not None else done
                self.out.line(
                    f"{subject.title}: {'would be ' if dry else ''}{said}",
                    "ERROR" if refused is not None else "SUCCESS",
                )
                self.out.record(
                    {
                        **subject.told,
                        "done": None if dry else refused is None,
                        "refused": refused,
                    }
                )
                bar.step()
        if len(subjects) != 1:
            would = "would be " if dry else ""
            self.out.note(f"{counts[True]} {would}{done}, {counts[False]} refused.")
        return REFUSED if counts[False] else DONE


class Family:
    """The subcommands of ``pm``, with the options that all of them have."""

    def __init__(self, parser: ArgumentParser) -> None:
        self._subparsers = parser.add_subparsers(required=True, metavar="VERB")

    def group(self, name: str, help: str) -> Family:
        """A subcommand that has subcommands."""
        return Family(self._subparsers.add_parser(name, help=help, description=help))

    def add(
        self,
        name: str,
        run: Callable[[Shell], int],
        help: str,
        *,
        is_verb: bool = False,
        is_dangerous: bool = False,
    ) -> ArgumentParser:
        """is_verb: it changes something, so it asks who, and why. is_dangerous: and cannot be undone."""
        parser = self._subparsers.add_parser(name, help=help, description=help)
        parser.set_defaults(run=run)
        parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
        if is_verb:
            parser.add_argument(
                "--by", metavar="NAME", help="who does it (default: the shell's user)"
            )
            parser.add_argument(
                "--reason", metavar="TEXT", help="why; it is kept with who and when"
            )
        if is_dangerous:
            parser.add_argument("--yes", action="store_true", help="do not ask on a terminal")
        # Django's own, which its parser knows before the subcommand only.
        for option in ("--no-color", "--force-color", "--traceback"):
            parser.add_argument(
                option, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )
        for option in ("--settings", "--pythonpath"):
            parser.add_argument(option, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        parser.add_argument(
            "-v", "--verbosity", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        return parser
