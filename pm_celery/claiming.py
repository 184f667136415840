"""Claim and lock: which messages a batch looks at, and the cases that it then holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

from pm_celery import batches, clock, registry, wakeups
from pm_celery.cases import Case
from pm_celery.conf import get_settings
from pm_celery.definitions import ProcessDefinition
from pm_celery.keys import partition_of
from pm_celery.models import Timer
from pm_celery.policies import PolicyDefinition
from pm_celery.rows import Claim, Claimed
from pm_celery.statements import InstanceKey, Statements, statements

__all__ = ["Passed", "Selection", "claim", "lock"]

# How many messages of one instance a batch takes at least, however many instances it holds.
_AT_LEAST_OF_EACH = 5


# A case's messages as they were claimed, by id.
Rows = dict[int, Claimed]


@dataclass(slots=True)
class Selection:
    """What a batch looks at: instances by key, and messages of policies by id; each with what was claimed
    of it."""

    keys: dict[InstanceKey, Rows] = field(default_factory=dict)
    ids: Rows = field(default_factory=dict)

    @property
    def rows(self) -> list[Claimed]:
        """All that was claimed."""
        return list(chain(self.ids.values(), *(rows.values() for rows in self.keys.values())))

    @property
    def message_ids(self) -> list[int]:
        """The ids of all that was claimed."""
        return list(chain(self.ids, *self.keys.values()))

    def add(self, claimed: Claimed) -> None:
        if isinstance(registry.listeners.get(claimed.process), PolicyDefinition):
            self.ids[claimed.id] = claimed
        else:
            self.keys.setdefault((claimed.process, claimed.key), {})[claimed.id] = claimed

    def each(self) -> list[Selection]:
        """One selection for each case, so that only the culprit of a failure fails."""
        return [
            *(Selection({key: rows}) for key, rows in sorted(self.keys.items())),
            *(Selection(ids={id_: row}) for id_, row in sorted(self.ids.items())),
        ]

    def __len__(self) -> int:
        return len(self.keys) + len(self.ids)


@dataclass(slots=True)
class Passed(Selection):
    """What we saw and left to whoever held it just then: that one looks again after his commit.

    Left are these messages and not their instances, for publishers count on us, and not on him, for what
    comes later. And he, like a publisher, may have found our mark and woken nobody: so they are looked at
    once more when we are at rest.
    """

    def note(self, selection: Selection, held: Iterable[InstanceKey | int]) -> None:
        """Of a selection we hold these keys and ids; somebody else holds the others."""
        ours = set(held)
        for key, rows in selection.keys.items():
            if key in ours:
                self.keys.pop(key, None)
            else:
                self.keys.setdefault(key, {}).update(rows)
        for id_, row in selection.ids.items():
            if id_ in ours:
                self.ids.pop(id_, None)
            else:
                self.ids[id_] = row


def claim(lane: int, passed: Passed, *, arriving: bool = False) -> Claim:
    """Due messages of a lane, but for what was passed over; seen, not locked. Nothing, for one that is just
    arriving, if a worker is there."""
    settings = get_settings()
    now = clock.now()
    beside = wakeups.beside(lane)
    found = statements(settings.database).claim(
        settings.database,
        lane,
        wakeups.reach(lane),
        beside,
        now,
        settings.batch_size,
        passed.message_ids,
        awake_until=now + wakeups.counted_on_for(),
        # Twice, for clocks differ a little. What is on its way is outstanding for longer.
        attended_until=now + 2 * wakeups.AT_WORK if arriving else now,
        began_before=now - batches.FRESH,
    )
    found.beside = beside
    return found


def lock(
    alias: str,
    selection: Selection,
    passed: Passed,
    *,
    mark: int | None = None,
    before: int | None = None,
) -> list[Case]:
    """Lock what was selected, then read again what is open for exactly that: after the lock nothing
    can change under it. What somebody else holds is added to ``passed``.

    mark: of the batch that begins with this; it ends with the caller's transaction.
    before: leave out messages from this id on.
    """
    hot = statements(alias)
    cases = _lock_instances(alias, hot, selection.keys, mark)
    locked = hot.lock_messages(alias, list(selection.ids)) if selection.ids else []
    passed.note(selection, held=[*cases, *(row.id for row in locked)])
    if cases:
        each = max(get_settings().batch_size // len(cases), _AT_LEAST_OF_EACH)
        for row in hot.read_open(alias, list(cases), clock.now(), each, before):
            cases[row.process, row.key].rows.append(row)
        _read_timers(alias, cases.values())
    found = [case for case in cases.values() if case.rows or case.instance]
    found += [Case(registry.listeners.get(row.process), None, [row]) for row in locked]
    return found


def _lock_instances(
    alias: str, hot: Statements, keys: Iterable[InstanceKey], mark: int | None
) -> dict[InstanceKey, Case]:
    listeners = {process: registry.listeners.get(process) for process, _ in keys}
    # Rows of a process that this release does not know are only looked at, to set them back.
    cases = {key: Case(None, None, []) for key in keys if listeners[key[0]] is None}
    known = {key for key in keys if isinstance(listeners[key[0]], ProcessDefinition)}
    if not known:
        batches.end(mark)
        return cases
    # If we die, the placeholders vanish with us.
    wanted = [(process, key, partition_of(process, key)) for process, key in sorted(known)]
    for instance in hot.lock_instances(alias, wanted, clock.now(), mark):
        case = Case(listeners[instance.process], instance, [])
        cases[instance.process, instance.key] = case
    return cases


def _read_timers(alias: str, cases: Iterable[Case]) -> None:
    """The timers that stand, to compare fired ones with: one that was set again since is stale."""
    by_id = {
        case.instance.id: case
        for case in cases
        if case.instance and any(row.kind == "timer" for row in case.rows)
    }
    if by_id:
        timers = Timer.objects.using(alias).filter(instance_id__in=by_id)
        for timer in timers:
            by_id[timer.instance_id].timers[timer.name] = timer.message_id
