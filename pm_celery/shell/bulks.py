"""Verbs for all letters that match: a bulk action that is worked off here; and ``pm bulks stop``."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from pm_celery.exceptions import Refused
from pm_celery.export import plain
from pm_celery.operations import bulk
from pm_celery.operations.bulk import Progress
from pm_celery.shell.asking import DONE, REFUSED, Family, Shell, Subject
from pm_celery.transience import is_transient

__all__ = ["act_on_all", "add", "told"]

# Nobody has so many: the true number is asked for before somebody says yes to it.
_MOST_COUNTED = 10_000_000
# Between two looks at what a worker does, in seconds.
_PAUSE = 0.2


def add(family: Family) -> None:
    inner = family.group("bulks", "Bulk actions, which pm list bulks tells.")
    parser = inner.add("stop", stop, "Let bulk actions end where they are.", is_verb=True)
    parser.add_argument("bulk", nargs="+", type=int, metavar="BULK", help="ids")
    parser.add_argument("--dry-run", action="store_true", help="say which, and do nothing")


def stop(shell: Shell) -> int:
    ids = dict.fromkeys(shell.options["bulk"])
    return shell.each(
        [Subject(id_, f"bulk action {id_}", {"id": id_}) for id_ in ids], bulk.stop, "stopped"
    )


def told(progress: Progress) -> dict[str, Any]:
    """A bulk action, for scripts."""
    found = asdict(progress)
    return {**found, "asked_at": plain(progress.asked_at), "ended_at": plain(progress.ended_at)}


def act_on_all(shell: Shell, verb: str, conditions: Mapping[str, str]) -> int:
    """Ask, start it, and work it off here; what it came to, truly counted."""
    done = "retried" if verb == "retry" else "discarded"
    total = bulk.matching(conditions, most=_MOST_COUNTED)
    if shell.options["dry_run"] or not total:
        is_dry = shell.options["dry_run"]
        shell.out.document(
            {"verb": verb, "conditions": conditions, "total": total, "dry_run": is_dry}
        )
        shell.out.line(f"{total} {'would be ' if is_dry else ''}{done}")
        return DONE
    letters = "letter" if total == 1 else "letters"
    if total > 1 or verb != "retry":
        shell.ask(f"{'Retry' if verb == 'retry' else 'Discard'} {total} {letters}?")
    started = bulk.start(verb, conditions, by=shell.by, reason=shell.reason)
    if not shell.options["background"]:
        _work(shell, started.pk, started.total, done)
    progress = bulk.progress(started.pk)
    shell.out.document(told(progress))
    is_well = not (progress.refused or (progress.ended_at and progress.left))
    shell.out.line(f"bulk action {progress.id}: {progress}", "SUCCESS" if is_well else "ERROR")
    return DONE if is_well else REFUSED


def _work(shell: Shell, bulk_id: int, total: int, done: str) -> None:
    """Work until it has ended: a worker, whom it is sent to as well, may have some of it."""
    with shell.bar(done, total) as bar:
        try:
            while True:
                try:
                    bulk.work(bulk_id, seconds=math.inf, after_each=bar.step)
                except Exception as error:
                    if not is_transient(error):
                        raise
                progress = bulk.progress(bulk_id)
                bar.show(progress.total - progress.left)
                if progress.ended_at is not None:
                    return
                # A worker is at it, or the database had no time.
                time.sleep(_PAUSE)
        except KeyboardInterrupt:
            # Else the tick would send a worker to go on with it.
            with suppress(Refused):
                bulk.stop(bulk_id, by=shell.by, reason="interrupted")
            raise
