"""The oldest running instance of each process, without an index for it and without reading the table.

Ids grow, and what has ended never runs again. So a mark for each process, below which none of its instances
runs, only ever moves up: the tick moves it, a portion of the table at a time, and who asks looks at the row
there. The marks are kept among the tallies.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from django.db.models import Q

from pm_celery import clock, tallies
from pm_celery.conf import get_settings
from pm_celery.models import Heartbeat, Instance, Tally

__all__ = ["find", "move_marks"]

OLDEST = "oldest"
_EVERY = timedelta(seconds=60)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ROWS_AT_ONCE = 20_000
_ROWS_ON_A_PAGE = 20_000
# A transaction that began earlier may still commit an instance with a lower id.
_UNCERTAIN = timedelta(minutes=10)


def find(processes: Collection[str]) -> dict[str, Instance]:
    """The oldest running instance of each of these processes: started, or failed and waiting for somebody.

    A process is missing while its mark has not come near: for minutes, after very many ended at once.
    """
    rows = Instance.objects.using(get_settings().database).defer("state")
    marks = _marks(processes)
    there = {row.process: row for row in rows.running().filter(pk__in=marks.values())}
    found = {process: row for process, row in there.items() if marks.get(process) == row.pk}
    missing = set(processes) - found.keys()
    begins = _first_id(0) if missing - marks.keys() else 0
    for process in missing:
        most = _ROWS_ON_A_PAGE // len(missing)
        next_one = _first_running(process, marks.get(process, begins), most)
        if next_one is not None:
            found[process] = next_one
    return found


def move_marks() -> None:
    """Move the marks up to the oldest that run; once a minute. The tick does it.

    Several at once, or one that dies, do no harm: a mark that is lower than it could be is true as well.
    """
    alias = get_settings().database
    now = clock.now()
    beats = Heartbeat.objects.using(alias).filter(name=OLDEST)
    if beats.filter(beat_at__gt=now - _EVERY).exists():
        return
    if not beats.update(beat_at=now):
        row = Heartbeat(name=OLDEST, beat_at=now)
        Heartbeat.objects.using(alias).bulk_create([row], ignore_conflicts=True)
    running = {sum_.process for sum_ in tallies.ever({"started", "failed"}) if sum_.count > 0}
    marks = _marks(running)
    still = set(
        Instance.objects.using(alias)
        .running()
        .filter(pk__in=marks.values())
        .values_list("pk", flat=True)
    )
    for process in running:
        mark = marks.get(process, 0)
        if mark not in still:
            _set_mark(alias, process, mark, _next_mark(alias, process, mark, now))


def _next_mark(alias: str, process: str, mark: int, now: datetime) -> int:
    """Where the oldest runs, or as far as it is certain that none does, within a portion of the table."""
    rows = Instance.objects.using(alias)
    # Behind it, for it has ended: a gap that begins with it may be longer than a portion.
    portion = _portion(_first_id(mark + 1), _ROWS_AT_ONCE)
    certain = Q(started_at__lte=now - _UNCERTAIN)
    running = rows.running().filter(portion, process=process).order_by("pk")
    first = running.values_list("pk", flat=True).first()
    if first is not None:
        portion &= Q(pk__lte=first)
    passed = rows.filter(portion & certain).order_by("-pk").values_list("pk", flat=True).first()
    return mark if passed is None else passed


def _first_running(process: str, begins: int, most: int) -> Instance | None:
    rows = Instance.objects.using(get_settings().database).defer("state").running()
    return rows.filter(_portion(begins, most), process=process).order_by("pk").first()


def _first_id(mark: int) -> int:
    """The id of the first row that is not below the mark: what was pruned may have left a long gap."""
    rows = Instance.objects.using(get_settings().database).filter(pk__gte=mark).order_by("pk")
    return rows.values_list("pk", flat=True).first() or mark


def _portion(begins: int, most: int) -> Q:
    """So many ids. By ids and not by LIMIT: what is read is bounded whatever is in the rows."""
    return Q(pk__gte=begins, pk__lt=begins + most)


def _marks(processes: Collection[str]) -> dict[str, int]:
    rows = Tally.objects.using(get_settings().database)
    found = rows.filter(period=0, start=_EPOCH, what=OLDEST, process__in=processes)
    return dict(found.values_list("process", "count"))


def _set_mark(alias: str, process: str, before: int, mark: int) -> None:
    if mark == before:
        return
    key = {
        "period": 0,
        "start": _EPOCH,
        "what": OLDEST,
        "process": process,
        "detail": "",
        "bucket": -1,
    }
    rows = Tally.objects.using(alias)
    if not rows.filter(**key).update(count=mark):
        rows.bulk_create([Tally(**key, count=mark, seconds=0.0)], ignore_conflicts=True)
