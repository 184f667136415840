"""Whether all is well: one answer for load balancers, monitors, the overview's banner and the shell."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import Error, connections
from django.db.migrations.executor import MigrationExecutor
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from pm_celery import clock, registry, signs, tallies, ticks, wakeups
from pm_celery.conf import Limits, get_settings
from pm_celery.keys import PARTITIONS
from pm_celery.models import InboxMessage, Instance, OutboxCommand, Timer

__all__ = ["Health", "Lags", "Problem", "health", "lags"]

_MOST_NAMES = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong. code: a stable name for monitors. grave: the health is bad by it alone."""

    code: str
    text: str
    grave: bool = True


@dataclass(frozen=True, slots=True)
class Lags:
    """How late the longest overdue row is, in seconds; 0 where nothing is overdue."""

    inbox: float = 0.0
    outbox: float = 0.0
    timers: float = 0.0


@dataclass(frozen=True, slots=True)
class Health:
    """``problems`` is empty where all is well; ``is_readable`` says whether the rest could be asked."""

    problems: tuple[Problem, ...] = ()
    lags: Lags = Lags()
    last_tick: datetime | None = None
    open_letters: int = 0
    workers: tuple[signs.Sign, ...] = ()
    is_readable: bool = True

    @property
    def is_ok(self) -> bool:
        """Whether nothing grave is wrong."""
        return not any(problem.grave for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        """For monitors."""
        return {
            "ok": self.is_ok,
            "problems": [
                {"code": one.code, "text": one.text, "grave": one.grave} for one in self.problems
            ],
            "lag": {
                "inbox": round(self.lags.inbox, 3),
                "outbox": round(self.lags.outbox, 3),
                "timers": round(self.lags.timers, 3),
            },
            "last_tick": self.last_tick and self.last_tick.isoformat(),
            "open_letters": self.open_letters,
            "workers": {sign.worker: sign.at.isoformat() for sign in self.workers},
        }


def health() -> Health:
    """Ask everything. A database that cannot be read, or is not migrated, is a problem, no error."""
    try:
        if not _is_migrated(get_settings().database):
            text = _("The tables of pm_celery are not migrated: run manage.py migrate.")
            return Health((Problem("unmigrated", text),), is_readable=False)
        return _health()
    except Error as error:
        # The first line: the rest may hold addresses and statements.
        words = (str(error).splitlines() or [""])[0][:200]
        text = _("The database cannot be read: %(error)s") % {"error": words}
        return Health((Problem("database", text),), is_readable=False)


def _health() -> Health:
    limits = get_settings().health
    now = clock.now()
    late = lags(now)
    last_tick = ticks.last_tick()
    since = now - limits.unknown
    letters, unknown = tallies.read(
        tallies.Asked(frozenset({tallies.OPEN})),
        tallies.Asked(frozenset({tallies.UNKNOWN}), 60, since),
    )
    open_letters = sum(found.count for found in letters)
    problems = [
        *_tick_problems(limits, last_tick, now),
        *_lag_problems(limits, late),
        *_letter_problems(limits, open_letters),
        *_unhandled_commands(),
        *_unknown({found.detail for found in unknown}),
    ]
    return Health(tuple(problems), late, last_tick, open_letters, tuple(signs.seen()))


def lags(now: datetime) -> Lags:
    """How late the longest overdue rows are: by their indexes, one row each."""
    alias = get_settings().database
    inbox: list[datetime] = []
    for partition in wakeups.partitions_with_work(range(PARTITIONS)):
        due = InboxMessage.objects.using(alias).due(partition, now)
        inbox += due.values_list("due_at", flat=True)[:1]
    commands = OutboxCommand.objects.using(alias).due(now).values_list("due_at", flat=True)
    timers = Timer.objects.using(alias).due(now).values_list("due_at", flat=True)
    timeouts = Instance.objects.using(alias).timeout_passed(now)
    passed = [*timers[:1], *timeouts.values_list("timeout_at", flat=True)[:1]]
    return Lags(_late(now, inbox), _late(now, commands[:1]), _late(now, passed))


def _late(now: datetime, moments: Any) -> float:
    return max(((now - at).total_seconds() for at in moments), default=0.0)


# -- what may be wrong ------------------------------------------------------------------------------

_migrated: set[tuple[str, object]] = set()


def _is_migrated(alias: str) -> bool:
    """Asked until the answer is yes: to read all migrations takes longer than all else."""
    connection = connections[alias]
    key = (alias, connection.settings_dict["NAME"])
    if key not in _migrated:
        executor = MigrationExecutor(connection)
        targets = [leaf for leaf in executor.loader.graph.leaf_nodes() if leaf[0] == "pm_celery"]
        if executor.migration_plan(targets):
            return False
        _migrated.add(key)
    return True


def _tick_problems(limits: Limits, last: datetime | None, now: datetime) -> list[Problem]:
    if last is None:
        text = _("Beat's tick has never run: no timer fires and nothing lost is found again.")
    elif now - last > limits.tick:
        seconds = int((now - last).total_seconds())
        text = _(
            "Beat's tick has not run for %(seconds)s s: no timer fires and nothing lost is found again."
        ) % {"seconds": seconds}
    else:
        return []
    return [Problem("tick", text)]


def _lag_problems(limits: Limits, late: Lags) -> list[Problem]:
    asked = (
        ("inbox_lag", late.inbox, limits.inbox, _("Messages wait to be handled for %(late)s s.")),
        (
            "outbox_lag",
            late.outbox,
            limits.outbox,
            _("Commands wait to be dispatched for %(late)s s."),
        ),
        ("timers_lag", late.timers, limits.timers, _("Timers or timeouts are due for %(late)s s.")),
    )
    return [
        Problem(code, text % {"late": int(seconds)})
        for code, seconds, limit, text in asked
        if seconds > limit.total_seconds()
    ]


def _letter_problems(limits: Limits, count: int) -> list[Problem]:
    if limits.open_letters is None or count <= limits.open_letters:
        return []
    text = ngettext("%(count)s dead letter is open.", "%(count)s dead letters are open.", count)
    return [Problem("open_letters", text % {"count": count})]


def _unhandled_commands() -> list[Problem]:
    names = {
        declared.name
        for declared in registry.messages
        if declared.kind == "command" and registry.command_handlers.get(declared.name) is None
    }
    if not names:
        return []
    text = _("No handler is declared for: %(names)s.") % {"names": _listed(names)}
    return [Problem("unhandled_commands", text, grave=False)]


def _unknown(names: set[str]) -> list[Problem]:
    if not names:
        return []
    text = _("Messages wait for a release that knows them: %(names)s.") % {"names": _listed(names)}
    # As in every deployment, as long as old workers are there.
    return [Problem("unknown_messages", text, grave=False)]


def _listed(names: set[str]) -> str:
    told = ", ".join(sorted(names)[:_MOST_NAMES])
    return f"{told}, …" if len(names) > _MOST_NAMES else told
