"""The app's page: what the overview tells, as far as somebody may see it, in words and lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Model
from django.urls import NoReverseMatch, reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand, Timer
from pm_celery.models.instances import InstanceStatus
from pm_celery.operations.health import Health, Problem
from pm_celery.operations.overview import MOST_COUNTED, Course, Overview, ProcessRow, overview

__all__ = ["Page", "age", "page_of"]

# Of which table one has to see the rows to be told of a problem; of others everybody is told.
_ABOUT: dict[str, type[Model]] = {
    "inbox_lag": InboxMessage,
    "outbox_lag": OutboxCommand,
    "timers_lag": Timer,
    "open_letters": DeadLetter,
    "unknown_messages": InboxMessage,
}
# A worker that was not seen for so long is perhaps no more; it gives a sign every ten seconds if it works.
_SILENT = timedelta(minutes=1)
_HEIGHT = 24

Urls = Mapping[type[Model], str]
"""The lists that somebody may see, with their addresses."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A number or a word, where it leads, and whether it is bad news."""

    text: str
    url: str = ""
    is_bad: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """One of the numbers at the top."""

    name: str
    cell: Cell
    note: str = ""


@dataclass(frozen=True, slots=True)
class Sparkline:
    """A line of numbers for SVG: ``points`` lie in a box of ``width`` by ``height``."""

    id: str
    title: str
    description: str
    points: str
    width: int
    height: int = _HEIGHT
    is_bad: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A process, in cells; those that somebody may not see are not there."""

    process: str
    note: str
    pause: str
    cells: tuple[Cell, ...]
    sparklines: tuple[Sparkline, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """The course of the last hour, day or week, with its sums."""

    name: str
    sparklines: tuple[tuple[Sparkline, int], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """All that the template needs."""

    at: datetime
    health: Health
    problems: tuple[Problem, ...]
    figures: tuple[Figure, ...]
    headings: tuple[str, ...]
    line_headings: tuple[str, ...]
    rows: tuple[Row, ...]
    spans: tuple[Span, ...]
    last_tick: str
    workers: tuple[tuple[str, str, bool], ...]


def page_of(app_list: Sequence[Mapping[str, Any]], site_name: str) -> Page | None:
    """The page for somebody who sees these tables on an admin site; None for whoever sees none."""
    urls = {
        found["model"]: found["admin_url"]
        for app in app_list
        for found in app["models"]
        if found["perms"].get("view")
        and found.get("admin_url")
        and found["model"]._meta.app_label == "pm_celery"
    }
    if not urls:
        return None
    seen = overview()
    return Page(
        at=seen.at,
        health=seen.health,
        problems=tuple(
            problem
            for problem in seen.health.problems
            if problem.code not in _ABOUT or _ABOUT[problem.code] in urls
        ),
        figures=_figures(seen, urls),
        headings=_headings(urls),
        line_headings=_line_headings(urls),
        rows=_rows(seen, urls, site_name),
        spans=tuple(_spans(seen, urls)),
        last_tick=age(seen.at - seen.health.last_tick) if seen.health.last_tick else "",
        workers=tuple(
            (sign.worker, age(seen.at - sign.at), seen.at - sign.at > _SILENT)
            for sign in seen.health.workers
        ),
    )


def age(span: timedelta) -> str:
    """A span of time in its two largest units."""
    seconds = max(0, int(span.total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return _("%(days)s d %(hours)s h") % {"days": days, "hours": hours % 24}
    if hours:
        return _("%(hours)s h %(minutes)s min") % {"hours": hours, "minutes": minutes % 60}
    if minutes:
        return _("%(minutes)s min %(seconds)s s") % {"minutes": minutes, "seconds": seconds % 60}
    return _("%(seconds)s s") % {"seconds": seconds}


# -- the numbers at the top -------------------------------------------------------------------------


def _figures(seen: Overview, urls: Urls) -> tuple[Figure, ...]:
    lags, bad = seen.health.lags, {problem.code for problem in seen.health.problems}
    found = []
    if InboxMessage in urls:
        found.append(
            _lag(_("Lag of the inbox"), lags.inbox, urls[InboxMessage], "inbox_lag" in bad)
        )
    if OutboxCommand in urls:
        found.append(
            _lag(_("Lag of the outbox"), lags.outbox, urls[OutboxCommand], "outbox_lag" in bad)
        )
    if Timer in urls:
        due = f"{MOST_COUNTED}+" if seen.timers_due >= MOST_COUNTED else str(seen.timers_due)
        late = _("the longest for %(age)s") % {"age": age(timedelta(seconds=lags.timers))}
        cell = Cell(due, urls[Timer], "timers_lag" in bad)
        found.append(Figure(_("Timers due"), cell, late if seen.timers_due else ""))
    if DeadLetter in urls:
        count = seen.health.open_letters
        url = _with(urls[DeadLetter], status__exact="open")
        found.append(Figure(_("Open dead letters"), Cell(str(count), url, count > 0)))
    return tuple(found)


def _lag(name: str, seconds: float, url: str, is_bad: bool) -> Figure:
    if not seconds:
        return Figure(name, Cell(_("none"), url))
    return Figure(name, Cell(age(timedelta(seconds=seconds)), url, is_bad))


def _with(url: str, **query: str) -> str:
    return f"{url}?{urlencode(query)}"


# -- a row for each process -------------------------------------------------------------------------


def _headings(urls: Urls) -> tuple[str, ...]:
    found: list[str] = []
    if Instance in urls:
        found += [str(status.label) for status in InstanceStatus]
        found += [_("started today"), _("oldest running")]
    if DeadLetter in urls:
        found.append(_("open dead letters"))
    return tuple(found)


def _line_headings(urls: Urls) -> tuple[str, ...]:
    found = []
    if InboxMessage in urls:
        found.append(_("messages handled"))
    if DeadLetter in urls:
        found.append(_("failed runs"))
    return tuple(found)


def _rows(seen: Overview, urls: Urls, site_name: str) -> tuple[Row, ...]:
    if not _headings(urls) and not _line_headings(urls):
        return ()
    return tuple(
        Row(
            process=row.process or _("(of no process)"),
            note=_note(row),
            pause=_pause(row),
            cells=tuple(_cells(row, seen.at, urls, site_name)),
            sparklines=_sparklines(f"pm-{number}", row.process, row.last_hour, urls),
        )
        for number, row in enumerate(seen.processes)
    )


def _note(row: ProcessRow) -> str:
    if row.kind == "policy":
        return _("policy")
    return "" if row.kind or not row.process else _("not declared in this release")


def _pause(row: ProcessRow) -> str:
    if row.pause is None:
        return ""
    if row.pause.resumed_at is not None:
        return _("is being resumed")
    told = {"by": row.pause.paused_by or _("somebody"), "reason": row.pause.reason}
    return (
        _("paused by %(by)s: %(reason)s") % told
        if row.pause.reason
        else _("paused by %(by)s") % told
    )


def _cells(row: ProcessRow, now: datetime, urls: Urls, site_name: str) -> list[Cell]:
    cells = []
    if Instance in urls:
        for status in InstanceStatus:
            count = row.counts[status]
            url = _with(urls[Instance], process=row.process, status__exact=status) if count else ""
            cells.append(Cell(str(count), url, status == InstanceStatus.FAILED and count > 0))
        cells += [Cell(str(row.began_today)), _oldest(row, now, site_name)]
    if DeadLetter in urls:
        url = _with(urls[DeadLetter], process=row.process, status__exact="open")
        cells.append(
            Cell(str(row.open_letters), url if row.open_letters else "", row.open_letters > 0)
        )
    return cells


def _oldest(row: ProcessRow, now: datetime, site_name: str) -> Cell:
    if row.oldest is None:
        return Cell("-")
    try:
        url = reverse(
            "admin:pm_celery_instance_change", args=[row.oldest.pk], current_app=site_name
        )
    except NoReverseMatch:
        url = ""
    return Cell(age(now - row.oldest.started_at), url)


# -- sparklines -------------------------------------------------------------------------------------


def _spans(seen: Overview, urls: Urls) -> list[Span]:
    names = (_("Last hour"), _("Last day"), _("Last week"))
    found = []
    for name, course in zip(names, seen.courses, strict=False):
        lines = _sparklines(f"pm-in-all-{course.period}", name, course, urls)
        sums = [sum(numbers) for numbers in _numbers(course, urls)]
        if lines:
            found.append(Span(name, tuple(zip(lines, sums, strict=True))))
    return found


def _numbers(course: Course, urls: Urls) -> list[tuple[int, ...]]:
    found = []
    if InboxMessage in urls:
        found.append(course.handled)
    if DeadLetter in urls:
        found.append(course.failed)
    return found


def _sparklines(id_: str, of: str, course: Course, urls: Urls) -> tuple[Sparkline, ...]:
    return tuple(
        Sparkline(
            id=f"{id_}-{number}",
            title=f"{of}: {heading}",
            description=_described(numbers, course.period),
            points=_points(numbers),
            width=max(1, len(numbers) - 1),
            is_bad=numbers is course.failed and any(numbers),
        )
        for number, (heading, numbers) in enumerate(
            zip(_line_headings(urls), _numbers(course, urls), strict=True)
        )
    )


def _described(numbers: Sequence[int], period: int) -> str:
    minutes = period // 60
    most = ngettext(
        "%(total)s in all, %(most)s at most in a minute",
        "%(total)s in all, %(most)s at most in %(minutes)s minutes",
        minutes,
    )
    return most % {"total": sum(numbers), "most": max(numbers, default=0), "minutes": minutes}


def _points(numbers: Sequence[int]) -> str:
    most = max(numbers, default=0)
    # A margin of one, or the line would be cut off at its highest and its lowest.
    room = _HEIGHT - 2
    heights = (round(room * number / most, 1) if most else 0 for number in numbers)
    return " ".join(f"{at},{_HEIGHT - 1 - height:g}" for at, height in enumerate(heights))
