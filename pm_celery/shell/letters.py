"""``pm retry``, ``pm discard``: dead letters, by id or all that match."""

from __future__ import annotations

from argparse import ArgumentParser
from functools import partial

from pm_celery.conf import get_settings
from pm_celery.models import DeadLetter
from pm_celery.models.dead_letters import Place
from pm_celery.operations import dead_letters
from pm_celery.shell.asking import Family, Shell, Subject, Usage
from pm_celery.shell.selecting import process_named, when
from pm_celery.walking import portions

__all__ = ["add"]

_COLUMNS = ("process", "key", "name", "exception", "place", "group_id", "died_at")


def add(family: Family) -> None:
    parser = family.add(
        "retry",
        retry,
        "Run what died again, with all its attempts.",
        is_verb=True,
        is_dangerous=True,
    )
    _add_letters(parser)
    parser = family.add("discard", discard, "Give what died up.", is_verb=True, is_dangerous=True)
    _add_letters(parser)
    parser.add_argument(
        "--leave-failed",
        action="store_true",
        help="leave failed instances failed for good (else they go on without it)",
    )


def _add_letters(parser: ArgumentParser) -> None:
    parser.add_argument("letter", nargs="*", type=int, metavar="LETTER", help="ids")
    parser.add_argument("--all", action="store_true", help="all open ones that match:")
    parser.add_argument("--process", metavar="NAME", help="of this process")
    parser.add_argument("--key", help="of this correlation key")
    parser.add_argument("--name", metavar="NAME", help="of this event, command or timer")
    parser.add_argument("--exception", metavar="CLASS", help="that died of it")
    parser.add_argument("--place", choices=list(Place.values), help="that died there")
    parser.add_argument("--group", metavar="ID", help="of this group")
    parser.add_argument("--since", metavar="WHEN", help="that died then or later")
    parser.add_argument("--dry-run", action="store_true", help="say which, and do nothing")


def retry(shell: Shell) -> int:
    subjects = _letters(shell)
    _ask(shell, "Retry", subjects)
    return shell.each(subjects, dead_letters.retry, "retried")


def discard(shell: Shell) -> int:
    subjects = _letters(shell)
    _ask(shell, "Discard", subjects, always=True)
    verb = partial(dead_letters.discard, resume=not shell.options["leave_failed"])
    return shell.each(subjects, verb, "discarded")


def _ask(shell: Shell, verb: str, subjects: list[Subject], *, always: bool = False) -> None:
    if subjects and not shell.options["dry_run"] and (always or len(subjects) > 1):
        plural = "letter" if len(subjects) == 1 else "letters"
        shell.ask(f"{verb} {len(subjects)} {plural}?")


def _letters(shell: Shell) -> list[Subject]:
    options = shell.options
    names = ("process", "key", "name", "exception", "place", "group", "since")
    filters = [f"--{name}" for name in names if options[name]]
    if options["letter"]:
        if options["all"] or filters:
            raise Usage("Name letters, or give --all with conditions; not both.")
        return _named(options["letter"])
    if not options["all"]:
        # One who forgets a number must not settle all there are.
        raise Usage("Which letters? Give ids, or --all with or without conditions.")
    since = when(options["since"]) if options["since"] else None
    process = process_named(options["process"], policies=True) if options["process"] else None
    wanted = {
        "process": process,
        "key": options["key"],
        "name": options["name"],
        "exception": options["exception"],
        "place": options["place"],
        "group_id": options["group"],
    }
    rows = DeadLetter.objects.using(get_settings().database).open()
    found = []
    # In the order of their ids: those of one instance have to be retried in the order of its messages.
    for portion in portions(rows, "died_at", *_COLUMNS, since=since):
        found += [
            row
            for row in portion
            if all(value is None or row[name] == value for name, value in wanted.items())
        ]
    found.sort(key=lambda row: row["pk"])
    return [_subject(row["pk"], row["process"], row["key"], row["name"]) for row in found]


def _named(ids: list[int]) -> list[Subject]:
    # Beyond what a database's number holds there is none.
    known = DeadLetter.objects.using(get_settings().database).in_bulk(
        [id_ for id_ in ids if 0 < id_ < 2**63]
    )
    for id_ in ids:
        if id_ not in known:
            raise Usage(f"There is no letter {id_}.")
    rows = [known[id_] for id_ in dict.fromkeys(ids)]
    return [_subject(row.pk, row.process, row.key, row.name) for row in rows]


def _subject(id_: int, process: str, key: str, name: str) -> Subject:
    title = " ".join(filter(None, (f"letter {id_}", process, key, name)))
    return Subject(id_, title, {"id": id_, "process": process, "key": key, "name": name})
