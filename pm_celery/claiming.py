"""Claim and lock: which messages a batch looks at, and the cases that it then holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pm_celery import batches, clock, registry, wakeups
from pm_celery.cases import Case
from pm_celery.conf import get_settings
from pm_celery.definitions import ProcessDefinition
from pm_celery.keys import partition_of
from pm_celery.models import Timer
from pm_celery.policies import PolicyDefinition
from pm_celery.rows import Claim, Claimed
from pm_celery.statements import InstanceKey, Statements, statements

__all__ = ["Selection", "claim", "lock"]

# How many messages of one instance a batch takes at least, however many instances it holds.
_AT_LEAST_OF_EACH = 5


@dataclass(slots=True)
class Selection:
    """What a batch looks at: instances by key, and messages of policies by id."""

    keys: set[InstanceKey] = field(default_factory=set)
    ids: set[int] = field(default_factory=set)
    message_ids: list[int] = field(default_factory=list)

    def add(self, claimed: Claimed) -> None:
        self.message_ids.append(claimed.id)
        if isinstance(registry.listeners.get(claimed.process), PolicyDefinition):
            self.ids.add(claimed.id)
        else:
            self.keys.add((claimed.process, claimed.key))

    def each(self) -> list[Selection]:
        """One selection for each case, so that only the culprit of a failure fails.

        Each keeps the message ids of the whole, for its mark: a few suspects too many cost little.
        """
        return [
            *(Selection({key}, set(), self.message_ids) for key in sorted(self.keys)),
            *(Selection(set(), {id_}, self.message_ids) for id_ in sorted(self.ids)),
        ]

    def __len__(self) -> int:
        return len(self.keys) + len(self.ids)


def claim(lane: int, passed: Selection, *, arriving: bool = False) -> Claim:
    """Due messages of a lane, but for what was passed over; seen, not locked. Nothing, for one that is just
    arriving, if a worker is there."""
    settings = get_settings()
    now = clock.now()
    return statements(settings.database).claim(
        settings.database,
        lane,
        wakeups.reach(lane),
        wakeups.beside(lane),
        now,
        settings.batch_size,
        passed.keys,
        passed.ids,
        awake_until=now + wakeups.counted_on_for(),
        # Twice, for clocks differ a little. What is on its way is outstanding for longer.
        attended_until=now + 2 * wakeups.AT_WORK if arriving else now,
        began_before=now - batches.FRESH,
    )


def lock(
    alias: str,
    selection: Selection,
    passed: Selection,
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
    # Whoever holds them, or has created them just now, looks again after its commit.
    passed.keys |= selection.keys - cases.keys()
    if cases:
        each = max(get_settings().batch_size // len(cases), _AT_LEAST_OF_EACH)
        for row in hot.read_open(alias, list(cases), clock.now(), each, before):
            cases[row.process, row.key].rows.append(row)
        _read_timers(alias, cases.values())
    found = [case for case in cases.values() if case.rows or case.instance]
    if selection.ids:
        locked = hot.lock_messages(alias, selection.ids)
        passed.ids |= selection.ids - {row.id for row in locked}
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
