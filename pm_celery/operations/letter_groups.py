"""Questions about dead letters: of what did they die, how many, when; and what hangs on one of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime

from django.db.models import OuterRef, Q, QuerySet, Subquery

from pm_celery import clock, tallies
from pm_celery.conf import get_settings
from pm_celery.models import DeadLetter, FailedAttempt, InboxMessage, Intervention, LetterGroup
from pm_celery.models.dead_letters import LetterStatus
from pm_celery.tallies import DIED, OPEN

__all__ = ["SPANS", "Behind", "Group", "Groups", "History", "behind", "groups", "history"]

#: Over what one may look: name to period (one of ``tallies.PERIODS``) and number of periods.
SPANS = {"hour": (60, 60), "day": (900, 96), "week": (3600, 168)}
_MOST_GROUPS = 100
_MOST_BEHIND = 25
_COUNT_BEHIND = 1000
_MOST_ATTEMPTS = 50
_MOST_OTHERS = 20


@dataclass(frozen=True, slots=True)
class Group:
    """Letters that died of the same.

    open, died: how many are open now, and how many there were in all, both exact.
    last_at: when the newest one that is still kept died; None if none is.
    series: how many died in each period, the last one is now.
    """

    id: str
    process: str
    place: str
    name: str
    exception: str
    open: int
    died: int
    first_at: datetime
    last_at: datetime | None
    series: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups with the most open letters first, and how many there are in all.

    since, period: when the series begin, and the length of each of their periods in seconds.
    """

    shown: list[Group]
    total: int
    open: int
    since: datetime
    period: int


def groups(
    *,
    process: str | None = None,
    only_open: bool = True,
    span: str = "day",
    most: int = _MOST_GROUPS,
) -> Groups:
    """Groups of letters, in a number of queries that is the same for any number of letters and groups.

    process: only of this one ("" is for events that were not routed yet).
    only_open: only those with open letters. span: over what the series go, one of ``SPANS``.
    """
    alias = get_settings().database
    period, periods = SPANS[span]
    now_in = int(clock.now().timestamp()) // period
    since = datetime.fromtimestamp((now_in - periods + 1) * period, clock.now().tzinfo)
    counts: dict[str, dict[str, int]] = defaultdict(lambda: {OPEN: 0, DIED: 0})
    for found in tallies.ever({OPEN, DIED}):
        if process is None or found.process == process:
            counts[found.detail][found.what] += found.count
    chosen = [id_ for id_, of in counts.items() if of[OPEN] > 0 or not only_open]
    chosen.sort(key=lambda id_: (-counts[id_][OPEN], -counts[id_][DIED], id_))
    series: dict[str, list[int]] = defaultdict(lambda: [0] * periods)
    for found in tallies.over_time({DIED}, period, since):
        at = int((found.start - since).total_seconds()) // period
        if 0 <= at < periods:
            series[found.detail][at] += found.count
    rows = {row.pk: row for row in _with_last(alias, chosen[:most])}
    shown = [
        Group(
            id=id_,
            process=rows[id_].process,
            place=rows[id_].place,
            name=rows[id_].name,
            exception=rows[id_].exception,
            open=counts[id_][OPEN],
            died=counts[id_][DIED],
            first_at=rows[id_].first_at,
            last_at=_latest(rows[id_]),
            series=tuple(series[id_]),
        )
        for id_ in chosen[:most]
        if id_ in rows
    ]
    total_open = sum(counts[id_][OPEN] for id_ in chosen)
    return Groups(shown, len(chosen), total_open, since, period)


def _with_last(alias: str, ids: list[str]) -> QuerySet[LetterGroup]:
    """Groups with the moments of their newest letters: for each status the first entry of an index."""
    letters = DeadLetter.objects.using(alias).order_by("-pk")
    of_group = letters.filter(group=OuterRef("pk")).values("died_at")
    newest = {
        f"last_{status}": Subquery(of_group.filter(status=status)[:1])
        for status in LetterStatus.values
    }
    return LetterGroup.objects.using(alias).filter(pk__in=ids).annotate(**newest)


def _latest(row: LetterGroup) -> datetime | None:
    moments = (getattr(row, f"last_{status}") for status in LetterStatus.values)
    return max(filter(None, moments), default=None)


# -- one letter -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Behind:
    """What is parked behind a letter: the first messages in order, and how many; ``more`` if even more."""

    first: list[InboxMessage]
    count: int
    more: bool


@dataclass(frozen=True, slots=True)
class History:
    """What happened to a letter's message or command: failed attempts and letters, the newest first, and
    what operators did to this letter."""

    attempts: list[FailedAttempt]
    others: list[DeadLetter]
    interventions: list[Intervention]


def behind(letter: DeadLetter) -> Behind:
    """What waits until a letter is settled; nothing, if its instance did not fail because of it."""
    if letter.status != LetterStatus.OPEN or letter.message_id is None or not letter.instance_id:
        return Behind([], 0, False)
    alias = get_settings().database
    rows = InboxMessage.objects.using(alias).of_instance(letter.process, letter.key)
    parked = rows.filter(status="parked")
    count = parked.order_by()[: _COUNT_BEHIND + 1].count()
    first = list(parked.defer("payload", "reason")[:_MOST_BEHIND])
    return Behind(first, min(count, _COUNT_BEHIND), count > _COUNT_BEHIND)


def history(letter: DeadLetter) -> History:
    """What happened to a letter's message or command, and to the letter."""
    alias = get_settings().database
    attempts: list[FailedAttempt] = []
    others: list[DeadLetter] = []
    if letter.message_id is not None or letter.command_id is not None:
        same = (
            Q(message=letter.message_id)
            if letter.message_id is not None
            else Q(command=letter.command_id)
        )
        failed = FailedAttempt.objects.using(alias).filter(same)
        attempts = list(failed.order_by("-pk")[:_MOST_ATTEMPTS])
        letters = DeadLetter.objects.using(alias).filter(same).exclude(pk=letter.pk)
        texts = ("payload", "error", "traceback", "original_payload", "failure_handler_error")
        others = list(letters.defer(*texts).order_by("-pk")[:_MOST_OTHERS])
    done = Intervention.objects.using(alias).filter(letter=letter).order_by("-pk")
    return History(attempts, others, list(done[:_MOST_OTHERS]))
