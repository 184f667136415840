"""``pm prune``, ``pm export``: what is kept no longer, and what is kept elsewhere."""

from __future__ import annotations

from pm_celery import export
from pm_celery.conf import get_settings
from pm_celery.keeping import ENDED
from pm_celery.operations import pruning
from pm_celery.shell.asking import DONE, Family, Shell, Usage
from pm_celery.shell.selecting import STATUSES, duration, process_named, when

__all__ = ["add"]


def add(family: Family) -> None:
    parser = family.add(
        "prune",
        prune,
        "Remove what ended long ago, with all that belongs to it.",
        is_verb=True,
        is_dangerous=True,
    )
    parser.add_argument(
        "--older-than", metavar="DURATION", help="such as 30d (what PM_CELERY['RETENTION'] says)"
    )
    parser.add_argument("--process", metavar="NAME", help="of this process only")
    parser.add_argument("--status", choices=ENDED, help="that ended so only")
    parser.add_argument("--dry-run", action="store_true", help="say what, and remove nothing")
    parser = family.add("export", export_instances, "Instances as JSON Lines, one line for each.")
    parser.add_argument("--process", metavar="NAME", help="of this process")
    parser.add_argument("--status", action="append", choices=STATUSES, help="may be repeated")
    parser.add_argument("--since", metavar="WHEN", help="that changed then or later")
    parser.add_argument("--until", metavar="WHEN", help="that last changed before then")
    parser.add_argument(
        "--raw", action="store_true", help="with the values that are hidden elsewhere"
    )


def prune(shell: Shell) -> int:
    options = shell.options
    older_than = duration(options["older_than"]) if options["older_than"] else None
    process = process_named(options["process"], policies=True) if options["process"] else ""
    status = options["status"] or ""
    if older_than is None and not get_settings().retention.ages:
        raise Usage("How old? PM_CELERY['RETENTION'] keeps all for ever: give --older-than.")
    is_dry = options["dry_run"]
    if not is_dry:
        what = " ".join(filter(None, (status, process))) or "whatever has ended"
        age = f"longer than {options['older_than']} ago" if older_than else "as the settings say"
        shell.ask(f"Remove {what}, {age}?")
    with shell.bar("removing, rows looked at:") as bar:
        found = pruning.prune(
            older_than,
            process=process,
            status=status,
            dry_run=is_dry,
            progress=lambda looked_at, removed: bar.show(
                looked_at, f"{removed} instances removed, rows looked at:"
            ),
            by=shell.by,
            reason=shell.reason,
        )
    counts = [
        {"process": owner, "status": ended, "count": count}
        for (owner, ended), count in sorted(found.instances.items())
    ]
    shell.out.document(
        {
            "dry_run": is_dry,
            "instances": counts,
            "total": found.total,
            "other_rows": found.loose,
            "spared": found.spared,
        }
    )
    if counts:
        shell.out.table(["process", "status", "instances"], [list(row.values()) for row in counts])
    would = "would be " if is_dry else ""
    shell.out.line(
        f"{found.total} instances and {found.loose} other rows {would}removed.", "SUCCESS"
    )
    if found.spared:
        shell.out.line(
            f"{found.spared} were spared: they have an open dead letter or an unsettled command."
        )
    return DONE


def export_instances(shell: Shell) -> int:
    """Lines go out as they are read: with or without ``--json`` the result is JSON Lines."""
    options = shell.options
    process = process_named(options["process"]) if options["process"] else ""
    found = export.exported(
        process=process,
        statuses=options["status"] or (),
        since=when(options["since"]) if options["since"] else None,
        until=when(options["until"]) if options["until"] else None,
        raw=options["raw"],
        looked_at=lambda count: bar.step(count),
    )
    total = 0
    with shell.bar("looking at instances") as bar:
        for document in found:
            shell.out.raw(export.as_line(document))
            total += 1
    shell.out.note(f"{total} instances.")
    return DONE
