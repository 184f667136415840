"""``pm retry``, ``pm discard``, ``pm note``, ``pm edit``: dead letters by id; or all that match, as a bulk
action."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from functools import partial

from pm_celery.conf import get_settings
from pm_celery.models import DeadLetter
from pm_celery.models.dead_letters import Place
from pm_celery.operations import dead_letters, editing
from pm_celery.shell.asking import DONE, Family, Shell, Subject, Usage
from pm_celery.shell.bulks import act_on_all
from pm_celery.shell.selecting import LARGEST_ID, process_named, text_given, when

__all__ = ["add"]

# Options that choose letters, and the conditions of a bulk action that they are.
_CONDITIONS = {
    "process": "process",
    "key": "key",
    "name": "name",
    "exception": "exception",
    "place": "place",
    "handler": "handler",
    "group": "group",
    "message_id": "message_ref",
    "since": "died_at__gte",
    "until": "died_at__lt",
}


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
    parser = family.add(
        "note", note, "Write a note on a dead letter, in place of the one before.", is_verb=True
    )
    parser.add_argument("letter", type=int, metavar="LETTER", help="id")
    parser.add_argument("text", metavar="TEXT", help="@file reads a file, - the standard input")
    parser = family.add(
        "edit",
        edit,
        "Give what died another payload, and retry it; without a payload: print the one that it has.",
        is_verb=True,
    )
    parser.add_argument("letter", type=int, metavar="LETTER", help="id")
    parser.add_argument(
        "payload",
        nargs="?",
        metavar="PAYLOAD",
        help="JSON; @file reads a file, - the standard input",
    )


def _add_letters(parser: ArgumentParser) -> None:
    parser.add_argument("letter", nargs="*", type=int, metavar="LETTER", help="ids")
    parser.add_argument("--all", action="store_true", help="all open ones that match:")
    parser.add_argument("--process", metavar="NAME", help="of this process")
    parser.add_argument("--key", help="of this correlation key")
    parser.add_argument("--name", metavar="NAME", help="of this event, command or timer")
    parser.add_argument("--exception", metavar="CLASS", help="that died of it")
    parser.add_argument("--place", choices=list(Place.values), help="that died there")
    parser.add_argument("--handler", metavar="NAME", help="that died in this handler")
    parser.add_argument("--group", metavar="ID", help="of this group")
    parser.add_argument("--message-id", metavar="ID", help="of this event, in any inbox")
    parser.add_argument("--since", metavar="WHEN", help="that died then or later")
    parser.add_argument("--until", metavar="WHEN", help="that died before then")
    parser.add_argument(
        "--background", action="store_true", help="with --all: leave the work to the workers"
    )
    parser.add_argument("--dry-run", action="store_true", help="say which, and do nothing")


def retry(shell: Shell) -> int:
    if shell.options["all"]:
        return act_on_all(shell, "retry", _conditions(shell))
    subjects = _letters(shell)
    _ask(shell, "Retry", subjects)
    return shell.each(subjects, dead_letters.retry, "retried")


def discard(shell: Shell) -> int:
    resume = not shell.options["leave_failed"]
    if shell.options["all"]:
        verb = "discard_and_resume" if resume else "discard_for_good"
        return act_on_all(shell, verb, _conditions(shell))
    subjects = _letters(shell)
    _ask(shell, "Discard", subjects, always=True)
    return shell.each(subjects, partial(dead_letters.discard, resume=resume), "discarded")


def _ask(shell: Shell, verb: str, subjects: list[Subject], *, always: bool = False) -> None:
    if not shell.options["dry_run"] and (always or len(subjects) > 1):
        plural = "letter" if len(subjects) == 1 else "letters"
        shell.ask(f"{verb} {len(subjects)} {plural}?")


def _conditions(shell: Shell) -> dict[str, str]:
    if shell.options["letter"]:
        raise Usage("Name letters, or give --all with conditions; not both.")
    found = {}
    for option, condition in _CONDITIONS.items():
        value = shell.options[option]
        # An empty condition is one: letters of no process are those of events that were never routed.
        if value is None:
            continue
        if option == "process" and value:
            value = process_named(value, policies=True)
        elif option in ("since", "until"):
            value = when(value).isoformat()
        found[condition] = value
    return found


def _letters(shell: Shell) -> list[Subject]:
    options = shell.options
    conditions = [name for name in (*_CONDITIONS, "background") if options[name]]
    if not options["letter"]:
        # One who forgets a number must not settle all there are.
        raise Usage("Which letters? Give ids, or --all with or without conditions.")
    if conditions:
        raise Usage("Name letters, or give --all with conditions; not both.")
    return _named(options["letter"])


def note(shell: Shell) -> int:
    (subject,) = _named([shell.options["letter"]])
    text = text_given(shell.options["text"]).rstrip("\n")
    verb = "annotated" if text else "its note removed"
    return shell.each([subject], dead_letters.annotate, verb, note=text)


def edit(shell: Shell) -> int:
    (subject,) = _named([shell.options["letter"]])
    if shell.options["payload"] is None:
        # To be written into a file, changed there, and given back.
        payload = editing.editable(subject.id).shown
        shell.out.document({**subject.told, "payload": payload})
        shell.out.line(_in_ascii_where_needed(payload))
        return DONE
    payload = text_given(shell.options["payload"])
    return shell.each([subject], editing.edit_and_retry, "edited and retried", payload=payload)


def _in_ascii_where_needed(payload: str) -> str:
    """JSON that means the same, with JSON's own escapes for what no terminal is to get."""
    return "".join(
        char if char.isprintable() else " " if char in "\n\r\t" else json.dumps(char)[1:-1]
        for char in payload
    )


def _named(ids: list[int]) -> list[Subject]:
    # Beyond what a database's number holds there is none.
    rows = DeadLetter.objects.using(get_settings().database)
    known = rows.only("process", "key", "name").in_bulk(
        [id_ for id_ in ids if 0 < id_ <= LARGEST_ID]
    )
    for id_ in ids:
        if id_ not in known:
            raise Usage(f"There is no letter {id_}.")
    found = []
    for row in (known[id_] for id_ in dict.fromkeys(ids)):
        title = " ".join(filter(None, (f"letter {row.pk}", row.process, row.key, row.name)))
        told = {"id": row.pk, "process": row.process, "key": row.key, "name": row.name}
        found.append(Subject(row.pk, title, told))
    return found
