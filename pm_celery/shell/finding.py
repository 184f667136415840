"""``pm find``: instances by what somebody has in hand; ``pm index``: the indexes of fields of states."""

from __future__ import annotations

from pm_celery.conf import get_settings
from pm_celery.export import plain
from pm_celery.models import Instance
from pm_celery.operations import indexes
from pm_celery.operations.search import search
from pm_celery.shell.asking import DONE, Family, Shell, Usage
from pm_celery.shell.printing import moment
from pm_celery.shell.selecting import process_named

__all__ = ["add"]


def add(family: Family) -> None:
    parser = family.add(
        "find",
        find,
        "Instances by a whole key, their number, the id of an event, a command or a conversation, or a field "
        "of the state.",
    )
    parser.add_argument("term", metavar="TERM", help="4711, an id, or state.customer_id:42")
    parser = family.add(
        "index",
        index,
        "Make the index that instances are found by with a field of their states, or --drop it; without "
        "arguments: those that there are. PostgreSQL only.",
        is_verb=True,
        is_dangerous=True,
    )
    parser.add_argument("process", nargs="?", metavar="PROCESS")
    parser.add_argument("field", nargs="?", metavar="FIELD", help="of the state itself")
    parser.add_argument("--drop", action="store_true", help="remove it")


def find(shell: Shell) -> int:
    found = search(shell.options["term"])
    rows = Instance.objects.using(get_settings().database).defer("state")
    known = rows.in_bulk({id_ for meant in found for id_ in meant.instance_ids})
    table = []
    for meant in found:
        for row in (known[id_] for id_ in meant.instance_ids if id_ in known):
            table.append(
                [meant.meaning, row.pk, row.process, row.key, row.status, moment(row.changed_at)]
            )
            shell.out.record(
                {
                    "found_by": meant.meaning,
                    "id": row.pk,
                    "process": row.process,
                    "key": row.key,
                    "status": row.status,
                    "changed_at": plain(row.changed_at),
                }
            )
    if table:
        shell.out.table(["found by", "id", "process", "key", "status", "changed at"], table)
    else:
        shell.out.note("None.")
    return DONE


def index(shell: Shell) -> int:
    process, field = shell.options["process"], shell.options["field"]
    if process is None:
        if shell.options["drop"]:
            raise Usage("Which index? Give its process and field.")
        return _list(shell)
    if field is None:
        raise Usage(f"Of which field of {process}?")
    if shell.options["drop"]:
        # Its process may be long gone.
        indexes.drop(process, field, by=shell.by, reason=shell.reason)
        done, name = "dropped", None
    else:
        process = process_named(process)
        shell.ask(f"Every change of a state will cost more. Make an index of {process}.{field}?")
        name = indexes.create(process, field, by=shell.by, reason=shell.reason)
        done = "made"
    shell.out.document({"process": process, "field": field, "index": name})
    shell.out.line(f"index of {process}.{field}: {done}", "SUCCESS")
    return DONE


def _list(shell: Shell) -> int:
    found = indexes.existing()
    shell.out.document(
        [
            {
                "process": one.process,
                "field": one.field,
                "index": one.name,
                "is_valid": one.is_valid,
            }
            for one in found
        ]
    )
    if found:
        shell.out.table(
            ["process", "field", "index", ""],
            [
                [
                    one.process,
                    one.field,
                    one.name,
                    "" if one.is_valid else "broken off: make it again",
                ]
                for one in found
            ],
        )
    else:
        shell.out.note("None.")
    return DONE
