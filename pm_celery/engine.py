"""The heart: handle what is due.

claim due rows ► lock their instances ► decide ► record ► commit ► dispatch, until nothing is due.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import suppress

from django.db import transaction

from pm_celery import batches, clock, failures, outbox, pauses, signals, tracing, wakeups
from pm_celery.cases import Case, HandlerFailed, decide_case
from pm_celery.claiming import Passed, Selection, claim, lock
from pm_celery.conf import get_settings
from pm_celery.definitions import ProcessDefinition
from pm_celery.recording import Recorded, record
from pm_celery.rows import Claim
from pm_celery.transience import is_transient, repeated
from pm_celery.unrouted import route_unrouted

__all__ = ["advance"]


def advance(lane: int, *, counts_on_others: bool = True) -> bool:
    """Handle what is due in the partitions of a lane until nothing is, or until the time for one wake-up
    is over.

    Whoever finds a worker in the lane leaves: that one looks again. Whoever finds an instance locked leaves
    it, for the same reason. True if there was more to do than time, or than one worker should do; others
    have been woken then.

    counts_on_others: False for whoever knows that there is no worker, whatever the lane's mark says.
    """
    try:
        return _advance(lane, counts_on_others)
    except Exception:
        # Who comes next, be it ourselves once more, would find our mark, and leave.
        with suppress(Exception):
            wakeups.rest(lane)
        raise


def _advance(lane: int, counts_on_others: bool) -> bool:
    settings = get_settings()
    is_common = len(wakeups.reach(lane)) > 1
    passed = Passed()
    beside: set[int] = set()
    began = time.monotonic()
    at_rest, looked_again, looks = False, False, 0
    while True:
        claimed = claim(lane, passed, arriving=looks == 0 and counts_on_others)
        looks += 1
        if claimed.is_attended:
            return False
        if not claimed.rows:
            if not at_rest:
                wakeups.rest(lane)
                at_rest = True
            elif passed and not looked_again:
                looked_again = True
                _run_claimed(Claim(passed.rows, beside=sorted(beside)), passed)
            else:
                return False
            continue
        if claimed.is_full and is_common:
            batches.end(claimed.mark)
            _share(lane)
            return True
        beside.update(claimed.beside)
        _run_claimed(claimed, passed)
        # Where others hold all of it there is nothing to go on with: whoever we woke would find the same.
        was_ours = not passed or not {row.id for row in claimed.rows} <= set(passed.message_ids)
        spent = time.monotonic() - began if was_ours else 0.0
        if is_common and spent > settings.batch_seconds:
            _share(lane)
            return True
        if spent > settings.advance_seconds:
            wakeups.rest(lane)
            if is_common:
                # Where there is a listener, it goes on; two at a time would be in each other's way.
                wakeups.announce([lane])
            else:
                wakeups.wake([lane])
            return True
        # One message at the first look is most often all there is: then the next look is the last one. In a
        # stream there is more by now, and who publishes meanwhile is to go on counting on us.
        looked_again = False
        at_rest = looks == 1 and len(claimed.rows) == 1
        if at_rest:
            wakeups.rest(lane)


def _share(lane: int) -> None:
    """Leave a backlog to several workers, of which each looks at a partition of its own."""
    wakeups.rest(lane)
    wakeups.wake(wakeups.partitions_with_work(wakeups.reach(lane)))


# -- one batch --------------------------------------------------------------------------------------


def _run_claimed(claimed: Claim, passed: Passed) -> None:
    """Run what was claimed: together what may be, alone what was tried before or is suspect."""
    suspects = batches.suspect_messages_of(claimed.left_over)
    together, alone = Selection(), Selection()
    rows = pauses.hold_back(claimed.rows) if claimed.is_any_paused else claimed.rows
    for row in rows:
        if row.process:
            (alone if row.tried or row.id in suspects else together).add(row)
    # An instance with one suspect message is not to be run with the others either.
    for key in alone.keys:
        together.keys.pop(key, None)
    if together:
        _run(together, passed, claimed.mark)
    else:
        batches.end(claimed.mark)
    for selection in alone.each():
        _run_counted(selection, passed)
    for row in rows:
        if not row.process:
            route_unrouted(row.id)
    if claimed.beside:
        # Their own workers may have passed over what we held, and we do not look there again.
        wakeups.wake(wakeups.partitions_with_work(claimed.beside))


def _run(selection: Selection, passed: Passed, mark: int | None = None) -> None:
    """Run a batch; if a handler raises, note its failure and run the other cases one by one."""
    alias = get_settings().database
    if mark is None:
        mark = batches.begin(selection.message_ids)
    try:
        repeated(alias, lambda: _transact(selection, passed, mark=mark))
    except HandlerFailed as failed:
        batches.end(mark)
        _note_failure(failed, passed)
        culprit = failed.case
        for single in selection.each():
            if len(selection) > 1 and not _is_of(single, culprit):
                _run(single, passed)
    except Exception as error:
        # No handler raised this: recording failed, and it is not known whose fault it was.
        batches.end(mark)
        if is_transient(error):
            raise
        if len(selection) == 1:
            _run_counted(selection, passed)
            return
        for single in selection.each():
            _run(single, passed)


def _is_of(selection: Selection, case: Case) -> bool:
    first = case.rows[0]
    return (first.process, first.key) in selection.keys or first.id in selection.ids


def _note_failure(failed: HandlerFailed, passed: Passed) -> None:
    """Count a failed run; what stood before it in its instance is run again first, without it."""
    alias = get_settings().database
    before = [
        row for row in failed.case.rows if row.id < failed.row.id and row.due_at <= clock.now()
    ]
    if before and isinstance(failed.case.listener, ProcessDefinition):
        selection = Selection({(failed.row.process, failed.row.key): {}})
        try:
            repeated(alias, lambda: _transact(selection, passed, before=failed.row.id))
        except HandlerFailed as earlier:
            _note_failure(earlier, passed)
            return
        except Exception as error:
            if is_transient(error):
                raise
            # One of them cannot be recorded: alone, the first of them succeeds, or is found out.
            _run_counted(selection, passed)
            return
    failures.note(failed.row, failed.handler, failed.error, counted=False)


def _transact(
    selection: Selection,
    passed: Passed,
    *,
    mark: int | None = None,
    before: int | None = None,
) -> Recorded:
    """The steps of the heart, in one transaction, and what follows its commit.

    If we die before the commit, nothing of it happened, and the batch's mark tells the next worker; if
    we die after it, the commands' leases end and the tick dispatches them.
    """
    alias = get_settings().database
    with tracing.batch() as traced:
        with transaction.atomic(using=alias, durable=True):
            cases = lock(alias, selection, passed, mark=mark, before=before)
            traced.join(row for case in cases for row in case.rows)
            _decide(cases)
            recorded = record(alias, cases, clock.now())
        traced.commit()
        outbox.dispatch(recorded.to_dispatch())
    _announce(cases, recorded)
    return recorded


def _decide(cases: Sequence[Case]) -> None:
    now = clock.now()
    began = time.monotonic()
    end = began + get_settings().batch_seconds
    # In any order: which instances the end of the time cuts off is chance, and never always the same.
    for case in random.sample(cases, len(cases)):
        if case.rows:
            decide_case(case, now, lambda: time.monotonic() > end)
        if time.monotonic() > end:
            break
    wakeups.note_pace(time.monotonic() - began, sum(len(case.rows) for case in cases))


def _announce(cases: Sequence[Case], recorded: Recorded) -> None:
    for case in cases:
        for row in case.unknown:
            signals.unknown_message.send_robust(
                sender=Case,
                process=row.process,
                name=row.name,
                version=row.version,
                message_id=row.message_id,
                why=case.unknown_because,
            )
    statuses = [mark.status for mark in recorded.marks]
    signals.batch_recorded.send_robust(
        sender=Case,
        partition=cases[0].rows[0].partition if cases and cases[0].rows else None,
        transitions=len(recorded.transitions),
        skipped=statuses.count("skipped"),
        unmatched=statuses.count("unmatched"),
    )


# -- one message at a time --------------------------------------------------------------------------


def _run_counted(selection: Selection, passed: Passed) -> None:
    """Run the first message of a case by itself; its attempt is counted, and committed, before.

    A message that kills its worker so runs out of attempts instead of looping.
    """
    alias = get_settings().database
    row = failures.count_attempt(selection.keys, selection.ids)
    if row is None:
        # Nothing is due here (its first message waits, and what is behind it now waits too), or another
        # worker is at it.
        passed.note(selection, held=())
        return
    try:
        recorded = repeated(alias, lambda: _transact(selection, passed, before=row.id + 1))
    except HandlerFailed as failed:
        if failed.row.id != row.id:
            failures.refund(row)
        failures.note(failed.row, failed.handler, failed.error, counted=failed.row.id == row.id)
        return
    except Exception as error:
        failures.refund(row)
        if is_transient(error):
            raise
        failures.note_unrecordable(selection.keys, selection.ids, error)
        return
    if not any(mark.id == row.id and mark.status != "pending" for mark in recorded.marks):
        # It did not run: someone held the lock, or this release does not know it.
        failures.refund(row)
