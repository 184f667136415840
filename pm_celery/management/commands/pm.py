"""``manage.py pm``: what operators ask and do, from a shell."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import (
    BaseCommand,
    CommandError,
    DjangoHelpFormatter,
    no_translations,
)
from django.db import DatabaseError

from pm_celery.exceptions import Refused, SettingsError
from pm_celery.shell import (
    bulks,
    commands,
    diagrams,
    events,
    finding,
    instances,
    keeping,
    letters,
    lists,
    processes,
    show,
    state,
    timers,
)
from pm_celery.shell.asking import REFUSED, USAGE, Family, Shell
from pm_celery.shell.printing import Output
from pm_celery.wording import one_line

_FAMILIES = (
    state,
    lists,
    finding,
    show,
    diagrams,
    events,
    letters,
    bulks,
    instances,
    timers,
    commands,
    processes,
    keeping,
)
_INTERRUPTED = 130

EPILOG = """\
exit codes:
  0    done
  1    something was refused, or is not well
  2    what was asked for cannot be: an unknown name or id, options that contradict each other
  130  interrupted; what was done stays done"""


class _Formatter(DjangoHelpFormatter, RawDescriptionHelpFormatter):
    pass


class Command(BaseCommand):
    help = "See what happens to process instances, and put it right."
    # Whoever is called at night wants to see how things stand, above all where a check fails.
    requires_system_checks: Any = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(
            prog_name, subcommand, formatter_class=_Formatter, epilog=EPILOG, **kwargs
        )

    def add_arguments(self, parser: ArgumentParser) -> None:
        family = Family(parser)
        for module in _FAMILIES:
            module.add(family)

    # English, whatever LANGUAGE_CODE says: scripts read it, and so do colleagues to whom it is sent.
    @no_translations
    def handle(self, *args: Any, **options: Any) -> None:
        colour = True if options["force_color"] else False if options["no_color"] else None
        out = Output(
            self.stdout,
            self.stderr,
            as_json=options["json"],
            colour=colour,
            verbosity=options["verbosity"],
        )
        try:
            code = options["run"](Shell(out, options, self.stderr))
            self.stdout.flush()
        except KeyboardInterrupt:
            self.stderr.write("Interrupted; what was done stays done.")
            code = _INTERRUPTED
        except BrokenPipeError:
            # Whoever reads has seen enough (`pm export | head`); nor may Python fail when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        except Refused as error:
            raise CommandError(one_line(error), returncode=REFUSED) from None
        except DatabaseError as error:
            words = (one_line(str(error).partition("\n")[0]))[:200]
            raise CommandError(
                f"The database: {words}. manage.py pm check may tell more.", returncode=REFUSED
            ) from error
        except (SettingsError, UnicodeEncodeError) as error:
            raise CommandError(one_line(error), returncode=USAGE) from None
        if code:
            sys.exit(code)
