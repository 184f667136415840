"""A verb for all dead letters that a filter finds: asked for once, done by a worker, counted exactly.

Each letter is a transaction of its own, which also holds its count and the cursor. So one that is refused
undoes no other, and whoever goes on after a crash finds everything before the cursor done and counted, and
nothing behind it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connections, transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop, override

from pm_celery import bulks, clock
from pm_celery.conf import get_settings
from pm_celery.exceptions import Refused
from pm_celery.models import BulkAction, DeadLetter
from pm_celery.operations import dead_letters
from pm_celery.operations.interventions import intervene
from pm_celery.transience import is_transient, repeated
from pm_celery.wording import name_of

__all__ = ["CONDITIONS", "VERBS", "Progress", "matching", "progress", "start", "stop", "work"]

#: What may be done to many, by the names that the admin's actions have as well.
VERBS: dict[str, Callable[..., None]] = {
    "retry": lambda *args, **named: dead_letters.retry(*args, **named),
    "discard_and_resume": lambda *args, **named: dead_letters.discard(*args, resume=True, **named),
    "discard_for_good": lambda *args, **named: dead_letters.discard(*args, resume=False, **named),
}
_EQUAL = ("group", "process", "place", "name", "exception", "handler", "key", "message_ref")
_MOMENTS = ("died_at__gte", "died_at__lt")
#: By what letters can be chosen: equal to a text; moments in ISO format.
CONDITIONS = (*_EQUAL, *_MOMENTS)

# How long one message keeps a worker from other work, in seconds.
_WORK_SECONDS = 5.0
_AT_ONCE = 2000
_MOST_REASONS = 20
_LONGEST_REASON = 200
_OTHER = gettext_noop("other reasons")
_SETTLED = dead_letters.ALREADY_SETTLED
# Letters that are looked up to tell which of them failed again.
_MOST_LOOKED_UP = 10_000


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a bulk action is.

    total: the letters that it found when it was asked for; done: those that the verb acted on.
    already_settled: somebody else, or an earlier verb, was faster.
    refused: why others were not acted on, each reason with its number.
    failed_again: of those retried, how many have a newer letter; where ``at_least``, it may be more.
    left: still to come, or never, if it was stopped.
    """

    id: int
    verb: str
    conditions: dict[str, str]
    total: int
    done: int
    already_settled: int
    refused: dict[str, int]
    failed_again: int
    at_least: bool
    left: int
    by: str
    reason: str
    asked_at: datetime
    ended_at: datetime | None
    stopped_by: str

    def __str__(self) -> str:
        done = "retried" if self.verb == "retry" else "discarded"
        parts = [f"{self.done} {done}"]
        if self.already_settled:
            parts.append(f"{self.already_settled} already settled")
        if self.failed_again:
            least = "at least " if self.at_least else ""
            parts.append(f"{least}{self.failed_again} failed again")
        parts += [f"{count} refused ({reason})" for reason, count in self.refused.items()]
        if self.left:
            parts.append(f"{self.left} {'left alone' if self.ended_at else 'to come'}")
        return ", ".join(parts)


def start(
    verb: str, conditions: Mapping[str, str], *, by: str = "", reason: str = ""
) -> BulkAction:
    """Ask for a verb for all open letters that fulfil the conditions now. Raises ``Refused``.

    verb: one of ``VERBS``.
    conditions: of ``CONDITIONS``, each with its value; none at all means every open letter.
    """
    if verb not in VERBS:
        raise Refused(_("there is no such verb; known: %(names)s"), names=", ".join(VERBS))
    checked = _checked(conditions)
    alias = get_settings().database
    with transaction.atomic(using=alias):
        letters = DeadLetter.objects.using(alias)
        last = letters.order_by("-pk").values_list("pk", flat=True).first() or 0
        total = _open(alias, checked, last).count()
        if not total:
            raise Refused(_("no open letter is like that"))
        now = clock.now()
        bulk = BulkAction.objects.using(alias).create(
            verb=verb,
            conditions=json.dumps(checked, ensure_ascii=False),
            total=total,
            last=last,
            by=by[:255] or "unknown",
            reason=reason,
            asked_at=now,
        )
        details = {"bulk": bulk.pk, "conditions": checked, "total": total}
        intervene(alias, f"bulk {verb}", bulk, by=by, reason=reason, details=details)
        # If we die between the commit and the message, the tick sends it.
        transaction.on_commit(lambda: bulks.send(bulk.pk), using=alias, robust=True)
    return bulk


def stop(bulk_id: int, *, by: str = "", reason: str = "") -> None:
    """Let a bulk action end where it is; what it has done stands. Raises ``Refused``."""
    alias = get_settings().database
    with transaction.atomic(using=alias):
        bulk = BulkAction.objects.using(alias).select_for_update().filter(pk=bulk_id).first()
        if bulk is None:
            raise Refused(_("there is no such bulk action"))
        if bulk.ended_at is not None:
            raise Refused(_("it has ended already"))
        bulk.ended_at, bulk.stopped_by = clock.now(), by[:255] or "unknown"
        bulk.save(using=alias, update_fields=["ended_at", "stopped_by"])
        intervene(alias, "stop bulk", bulk, by=by, reason=reason, details={"bulk": bulk.pk})


def matching(conditions: Mapping[str, str], *, most: int) -> int:
    """How many open letters fulfil the conditions; counted up to ``most``. Raises ``Refused``."""
    alias = get_settings().database
    return _open(alias, _checked(conditions), None)[:most].count()


def _checked(conditions: Mapping[str, str]) -> dict[str, str]:
    for name, value in conditions.items():
        if name not in CONDITIONS:
            raise Refused(
                _("letters are not chosen by %(name)s; known: %(names)s"),
                name=repr(name),
                names=", ".join(CONDITIONS),
            )
        if not isinstance(value, str) or "\x00" in value:
            raise Refused(_("%(name)s: give a text"), name=name)
        if name in _MOMENTS and _moment(value) is None:
            raise Refused(
                _("%(name)s: give a moment with its time zone, 2030-01-31T12:00:00Z"), name=name
            )
    return dict(conditions)


def _moment(value: str) -> datetime | None:
    try:
        found = parse_datetime(value)
    except (ValueError, ValidationError):
        return None
    return found if found is not None and found.tzinfo is not None else None


def _open(alias: str, conditions: Mapping[str, str], last: int | None) -> QuerySet[DeadLetter]:
    letters = DeadLetter.objects.using(alias)
    # Its own index knows a group's open ones; the other one, of what is open, knows nothing of groups.
    found = letters.filter(status="open") if "group" in conditions else letters.open()
    found = found.filter(**conditions)
    return found if last is None else found.filter(pk__lte=last)


# -- the worker's part --------------------------------------------------------------------------------


def work(
    bulk_id: int,
    *,
    seconds: float = _WORK_SECONDS,
    after_each: Callable[[], object] | None = None,
) -> None:
    """Go on with a bulk action for so long; then send a worker again, so that others have their turn.

    after_each: is called after each letter, for whoever shows how far it is.
    Several may do this at once: whoever finds it locked leaves, and who finds a letter behind the cursor
    passes over it. If we die, the tick sends another worker.
    """
    alias = get_settings().database
    end = time.monotonic() + seconds
    while portion := _portion(alias, bulk_id):
        for letter_id in portion:
            if not _do_or_pass_over(alias, bulk_id, letter_id):
                return
            if after_each is not None:
                after_each()
            if time.monotonic() > end:
                # If we die before this line, or the broker refuses, the tick finds it quiet.
                bulks.send(bulk_id)
                return
    _end(alias, bulk_id)


def _portion(alias: str, bulk_id: int) -> list[int]:
    """The next letters' ids; none if there are no more, or nothing to do."""
    bulk = BulkAction.objects.using(alias).filter(pk=bulk_id, ended_at=None).first()
    if bulk is None:
        return []
    letters = _open(alias, json.loads(bulk.conditions), bulk.last).filter(pk__gt=bulk.cursor)
    return list(letters.order_by("pk").values_list("pk", flat=True)[:_AT_ONCE])


def _do_or_pass_over(alias: str, bulk_id: int, letter_id: int) -> bool:
    """Let the verb act on one letter, and count it; whether to go on.

    A lost race or lock is repeated. One that never passes is this letter's, and is counted as that: if it
    was the database that is away, counting fails as well, and the tick sends a worker again.
    """
    try:
        return repeated(alias, lambda: _do(alias, bulk_id, letter_id))
    except Exception as error:
        if not is_transient(error):
            raise
        return _do(alias, bulk_id, letter_id, failed=error)


def _do(alias: str, bulk_id: int, letter_id: int, failed: Exception | None = None) -> bool:
    """The same once; failed: nothing is tried any more, and this is counted.

    If we die before the commit, neither happened: the next worker begins with this very letter. If we die
    after it, the next worker begins behind it.
    """
    with transaction.atomic(using=alias, durable=True):
        bulk = _locked(alias, bulk_id)
        if bulk is None:
            return False
        if letter_id <= bulk.cursor:
            return True
        refused: Counter[str] = Counter(json.loads(bulk.refused))
        try:
            with transaction.atomic(using=alias):
                if failed is not None:
                    raise failed
                VERBS[bulk.verb](letter_id, by=bulk.by, reason=bulk.reason)
                DeadLetter.objects.using(alias).filter(pk=letter_id).update(bulk=bulk)
        except Refused as why:
            # What is stored is the same whatever language the worker speaks.
            with override(None):
                told = str(why)
            _note(refused, told.rstrip(".")[:_LONGEST_REASON])
        except Exception as error:
            if failed is None and is_transient(error):
                raise
            # Its words may hold what is not to be shown.
            _note(refused, name_of(error)[:_LONGEST_REASON])
        else:
            bulk.done += 1
        bulk.refused = json.dumps(refused, ensure_ascii=False)
        bulk.cursor, bulk.worked_at = letter_id, clock.now()
        bulk.save(using=alias, update_fields=["done", "refused", "cursor", "worked_at"])
    return True


def _locked(alias: str, bulk_id: int) -> BulkAction | None:
    """The bulk action, locked; None if it has ended, or another worker is at it."""
    skip = connections[alias].features.has_select_for_update_skip_locked
    bulks_ = BulkAction.objects.using(alias).select_for_update(skip_locked=skip)
    return bulks_.filter(pk=bulk_id, ended_at=None).first()


def _note(refused: Counter[str], why: str) -> None:
    if why not in refused and len(refused) >= _MOST_REASONS:
        why = _OTHER
    refused[why] += 1


def _end(alias: str, bulk_id: int) -> None:
    """Nothing is left: those that it never met were settled by others before their turn."""
    with transaction.atomic(using=alias):
        bulk = _locked(alias, bulk_id)
        if bulk is None:
            return
        refused: Counter[str] = Counter(json.loads(bulk.refused))
        met = bulk.done + refused.total()
        if bulk.total > met:
            refused[_SETTLED] += bulk.total - met
        # A letter whose transaction was under way when they were counted has an id from before.
        bulk.total = max(bulk.total, met)
        bulk.refused = json.dumps(refused, ensure_ascii=False)
        bulk.ended_at = bulk.worked_at = clock.now()
        bulk.save(using=alias, update_fields=["total", "refused", "ended_at", "worked_at"])


# -- how far it is ----------------------------------------------------------------------------------


def progress(bulk_id: int) -> Progress:
    """How far a bulk action is, and how many failed again. Raises ``Refused`` if there is none."""
    alias = get_settings().database
    bulk = BulkAction.objects.using(alias).filter(pk=bulk_id).first()
    if bulk is None:
        raise Refused(_("there is no such bulk action"))
    refused: dict[str, int] = json.loads(bulk.refused)
    left = max(0, bulk.total - bulk.done - sum(refused.values()))
    again, at_least = _failed_again(alias, bulk) if bulk.verb == "retry" else (0, False)
    return Progress(
        id=bulk.pk,
        verb=bulk.verb,
        conditions=json.loads(bulk.conditions),
        total=bulk.total,
        done=bulk.done,
        already_settled=refused.pop(_SETTLED, 0),
        refused=refused,
        failed_again=again,
        at_least=at_least,
        left=left,
        by=bulk.by,
        reason=bulk.reason,
        asked_at=bulk.asked_at,
        ended_at=bulk.ended_at,
        stopped_by=bulk.stopped_by,
    )


def _failed_again(alias: str, bulk: BulkAction) -> tuple[int, bool]:
    """How many of the letters that it retried have a newer one, and whether there may be more.

    Asked from the side that has fewer letters, its own or the newer ones, and of that side's first ones.
    """
    letters = DeadLetter.objects.using(alias)
    newer = letters.filter(pk__gt=bulk.last)
    from_its_own = bulk.done <= _MOST_LOOKED_UP
    some, is_cut = (letters.filter(bulk=bulk), False) if from_its_own else _first_of(newer)
    found = 0
    for path in ("message", "command"):
        same = {path: OuterRef(path)}
        other = newer.filter(**same) if from_its_own else letters.filter(bulk=bulk, **same)
        rows: Any = some.filter(**{f"{path}__isnull": False})
        found += rows.filter(Exists(other)).values(path).distinct().count()
    return found, is_cut


def _first_of(letters: QuerySet[DeadLetter]) -> tuple[QuerySet[DeadLetter], bool]:
    """The first letters that are looked up, and whether there are more. By their last id: MariaDB takes no
    LIMIT in a subquery."""
    last, most = _MOST_LOOKED_UP - 1, _MOST_LOOKED_UP + 1
    ids = list(letters.order_by("pk").values_list("pk", flat=True)[last:most])
    return letters.filter(pk__lte=ids[0]) if ids else letters, len(ids) > 1
