"""``manage.py replay_log``: a real event log through a process manager, with real workers."""

from __future__ import annotations

import contextlib
import difflib
import json
import secrets
import tempfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, DjangoHelpFormatter
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from pm_celery.conf import get_settings
from replay import outcome
from replay.bar import Bar
from replay.definition import Activity, Definition
from replay.interruption import interruptible
from replay.logs import Log, load
from replay.queue import own_queue
from replay.run import Stalled, replay
from replay.workers import WorkerDied, Workers
from replay.xes import XesError

HELP = """\
Replay an event log (XES, plain or gzip) through a process manager.

Each activity of the log becomes an event class, and the start and end activities make a process
manager. Every event is published, cases interleaved in the order of time, and handled by Celery
workers that this command starts and stops; it ticks as well, so no Beat is needed. Database and
broker are those of the settings. Every run is a process of its own: rows of earlier runs do not
interfere, and stay."""

EPILOG = """\
what is printed (with --json, one object with these keys):
  cases              cases of the log
  events             events that were published: all that are not ignored
  ignored            events whose transition is not the one of --transition
  handled            events that changed the state of their case
  skipped            events after the end of their case
  unmatched          events before the start of their case
  completed          instances that an end activity completed
  started            instances that are still running
  seconds            from publishing the first event until none was left to handle
  events_per_second

Other workers on the same database do not know the run's process, and set aside for 15 seconds what
they come across: stop them for the time, or be patient.

example:
  manage.py replay_log helpdesk.xes.gz --start "Insert ticket" --start "Assign seriousness" \\
      --start "Take in charge ticket" --end Closed"""

TITLES = {
    "cases": "cases",
    "events": "events published",
    "handled": "  handled",
    "skipped": "  skipped, after the end",
    "unmatched": "  unmatched, before the start",
    "ignored": "ignored, another transition",
    "completed": "instances completed",
    "started": "instances still started",
    "seconds": "seconds",
    "events_per_second": "events per second",
}


class HelpFormatter(DjangoHelpFormatter, RawDescriptionHelpFormatter):
    """Django's order of the options, our line breaks."""


class Command(BaseCommand):
    help = HELP

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(
            prog_name, subcommand, epilog=EPILOG, formatter_class=HelpFormatter, **kwargs
        )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE", help="the log")
        for name, verb in (("start", "starts"), ("end", "ends")):
            parser.add_argument(
                f"--{name}",
                action="append",
                default=[],
                metavar="ACTIVITY",
                help=f"an activity that {verb} a case; may be given several times",
            )
        parser.add_argument(
            "--transition",
            metavar="NAME",
            help="publish only events with this lifecycle:transition, in upper or lower case",
        )
        parser.add_argument(
            "--workers", type=int, default=2, metavar="N", help="how many workers (default: 2)"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        for name in ("start", "end"):
            if not options[name]:
                raise CommandError(f"Give at least one --{name} ACTIVITY, as the log writes it.")
        if options["workers"] < 1:
            raise CommandError("Give --workers a number, 1 or more.")
        check_tables()
        log = self.load(options["file"], options["transition"])
        self.check_activities(log, options["start"], options["end"])
        definition = define(log, options["start"], options["end"])
        seconds = self.replay(definition, log, options["workers"])
        self.report(definition, log, seconds, as_json=options["json"])

    def load(self, path: Path, transition: str | None) -> Log:
        try:
            log = load(path, transition)
        except OSError as error:
            raise CommandError(f"Cannot read {path}: {error.strerror or error}.") from error
        except XesError as error:
            raise CommandError(f"{error}. Give an XES log, plain or gzipped.") from error
        if not log.activities:
            raise CommandError(f"{path} has no events.")
        if not log.events:
            known = ", ".join(repr(name) for name in sorted(log.transitions) if name)
            raise CommandError(
                f"No event has the transition {transition!r}. "
                + (f"Those of the log: {known}." if known else "Leave out --transition.")
            )
        return log

    def check_activities(self, log: Log, start: list[str], end: list[str]) -> None:
        """A case can end later than the log does, but what never occurs can start none."""
        for name in start:
            if name not in log.activities:
                raise CommandError(f"--start {name!r} does not occur in the log. {near(name, log)}")
        for name in end:
            if name not in log.activities:
                self.warn(f"--end {name!r} does not occur in the log. {near(name, log)}")

    def replay(self, definition: Definition, log: Log, number: int) -> float:
        try:
            return self.replay_with_workers(definition, log, number)
        except KeyboardInterrupt:
            # Also while the workers start, or are stopped.
            raise CommandError("Stopped.", returncode=130) from None

    def replay_with_workers(self, definition: Definition, log: Log, number: int) -> float:
        bar = Bar(len(log.events))
        with (
            interruptible() as stop_if_asked,
            tempfile.TemporaryDirectory(prefix="replay-") as folder,
            own_queue(definition.queue),
            self.forgetting(definition),
            Workers(definition, number, Path(folder)) as workers,
        ):
            try:
                return replay(definition, log, workers, bar.show, stop_if_asked)
            except WorkerDied as died:
                raise CommandError(str(died)) from died
            except Stalled as stalled:
                raise CommandError(f"{stalled} Worker 1: {workers.log(1)}") from stalled
            finally:
                bar.clear()

    @contextlib.contextmanager
    def forgetting(self, definition: Definition) -> Iterator[None]:
        """Where the run is broken off, nobody knows its process any more: its events would wait for ever."""
        try:
            yield
        except BaseException:
            left = outcome.forget_unhandled(definition.process)
            self.warn(f"{left:,} events of {definition.process} were not handled and are removed.")
            raise

    def report(self, definition: Definition, log: Log, seconds: float, *, as_json: bool) -> None:
        messages, instances = (
            outcome.messages(definition.process),
            outcome.instances(definition.process),
        )
        found = {
            "cases": len(log.cases),
            "events": len(log.events),
            "ignored": log.ignored,
            "handled": messages.pop("handled", 0),
            "skipped": messages.pop("skipped", 0),
            "unmatched": messages.pop("unmatched", 0),
            "completed": instances.pop("completed", 0),
            "started": instances.pop("started", 0),
            "seconds": round(seconds, 3),
            "events_per_second": round(len(log.events) / seconds, 1),
        }
        if as_json:
            self.stdout.write(json.dumps(found))
        else:
            for key, title in TITLES.items():
                self.stdout.write(f"{title:<30}{found[key]:>12,}")
        if messages or instances:
            others = ", ".join(f"{n:,} {status}" for status, n in {**messages, **instances}.items())
            raise CommandError(
                f"Something failed: {others}. See the dead letters of {definition.process} in the admin."
            )

    def warn(self, text: str) -> None:
        self.stderr.write(self.style.WARNING(text))


def check_tables() -> None:
    connection = connections[get_settings().database]
    executor = MigrationExecutor(connection)
    wanted = [key for key in executor.loader.graph.leaf_nodes() if key[0] == "pm_celery"]
    if executor.migration_plan(wanted):
        raise CommandError("The tables are not there, or not up to date. Run: manage.py migrate")


def near(name: str, log: Log) -> str:
    """The activities that may have been meant."""
    lower = {activity.casefold() for activity in log.activities}
    found = difflib.get_close_matches(name.casefold(), lower, n=3, cutoff=0.5)
    meant = [repr(activity) for activity in log.activities if activity.casefold() in found]
    if meant:
        return f"Did you mean {' or '.join(meant)}?"
    often = ", ".join(repr(activity) for activity, _ in log.activities.most_common(10))
    return f"Its activities are: {often}{', …' if len(log.activities) > 10 else ''}."


def define(log: Log, start: Iterable[str], end: Iterable[str]) -> Definition:
    run = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    names = dict.fromkeys([*(event.activity for event in log.events), *start, *end])
    activities = tuple(Activity(name, name in start, name in end) for name in names)
    return Definition(run, activities)
