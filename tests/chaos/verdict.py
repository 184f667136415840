"""The verdict: the ledger, and the package's own tables, against what the outside world published."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from uuid import UUID

from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand, Timer, Transition
from tests.chaos.market import Placed
from tests.chaos.shop.fates import FATES, Fate
from tests.chaos.shop.models import Entry, Order

__all__ = ["Verdict", "ended", "judge", "pending"]

_SHOWN = 10
_EVENT_KINDS = ("event", "timer", "timeout", "command_failed", "failure")


@dataclass
class Verdict:
    """What is wrong, each thing in words; and how much there was."""

    orders: int = 0
    events: int = 0
    commands: int = 0
    letters: int = 0
    redispatched: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)

    @property
    def faults(self) -> dict[str, list[str]]:
        names = ("lost", "doubled", "out_of_order", "unexplained", "wrong", "pending")
        return {name: getattr(self, name) for name in names}

    @property
    def is_clean(self) -> bool:
        return not any(self.faults.values())

    def text(self) -> str:
        """The faults, the first of each sort."""
        lines = []
        for name, faults in self.faults.items():
            lines += [f"{name}: {fault}" for fault in faults[:_SHOWN]]
            if len(faults) > _SHOWN:
                lines.append(f"{name}: ... {len(faults) - _SHOWN} more")
        return "\n".join(lines)


def pending() -> dict[str, int]:
    """What is not settled yet, by table."""
    open_ = InboxMessage.objects.filter(status__in=["pending", "waiting", "parked", "dead"])
    return {
        "inbox messages": open_.count(),
        "commands": OutboxCommand.objects.filter(
            status__in=["pending", "dispatched", "dead"]
        ).count(),
        "timers": Timer.objects.count(),
        "open letters": DeadLetter.objects.open().count(),
    }


def ended() -> int:
    """How many instances have ended."""
    return Instance.objects.exclude(ended_at=None).count()


def judge(placed: Sequence[Placed]) -> Verdict:
    """Compare. Nothing may run any more."""
    verdict = Verdict(orders=len(placed))
    verdict.events = InboxMessage.objects.filter(kind="event").count()
    verdict.commands = OutboxCommand.objects.count()
    verdict.letters = DeadLetter.objects.count()
    verdict.redispatched = OutboxCommand.objects.filter(dispatches__gt=1).count()
    _judge_ledger(verdict, placed)
    _judge_business_rows(verdict, placed)
    _judge_instances(verdict, placed)
    _judge_transitions(verdict)
    _judge_messages(verdict)
    _judge_commands(verdict)
    _judge_letters(verdict, placed)
    verdict.pending += [f"{number} {name}" for name, number in pending().items() if number]
    return verdict


def _judge_ledger(verdict: Verdict, placed: Sequence[Placed]) -> None:
    events: dict[UUID, list[str]] = defaultdict(list)
    effects: dict[UUID, list[str]] = defaultdict(list)
    for order_id, kind, name in Entry.objects.order_by("pk").values_list(
        "order_id", "kind", "name"
    ):
        (events if kind == "event" else effects)[order_id].append(name)
    for order in placed:
        fate = FATES[order.fate]
        ghost = order.fate == "ghost"
        handled, ran = events.pop(order.order_id, []), effects.pop(order.order_id, [])
        expected = () if ghost else (*fate.outside, *fate.inside)
        _compare(verdict, order, "event", expected, handled)
        _compare(verdict, order, "effect", fate.effects, ran)
        _judge_order(verdict, order, fate, handled)
    for order_id in {*events, *effects}:
        verdict.doubled.append(f"{order_id}: an order that nobody placed")


def _compare(
    verdict: Verdict, order: Placed, what: str, expected: Sequence[str], found: Sequence[str]
) -> None:
    wanted, there = Counter(expected), Counter(found)
    where = f"{order.order_id} ({order.fate})"
    verdict.lost += [f"{where}: the {what} {name!r}" for name in (wanted - there).elements()]
    verdict.doubled += [f"{where}: the {what} {name!r}" for name in (there - wanted).elements()]


def _judge_order(verdict: Verdict, order: Placed, fate: Fate, handled: Sequence[str]) -> None:
    """What the outside published in sequence, in this sequence; and effects after their causes."""
    outside = [name for name in handled if name in fate.outside]
    at = {name: position for position, name in enumerate(handled)}
    pairs = [*zip(fate.outside, fate.outside[1:], strict=False), *fate.after]
    if outside != sorted(outside, key=fate.outside.index) or any(
        first in at and second in at and at[first] > at[second] for first, second in pairs
    ):
        verdict.out_of_order.append(f"{order.order_id} ({order.fate}): {', '.join(handled)}")


def _judge_business_rows(verdict: Verdict, placed: Sequence[Placed]) -> None:
    """Each order's row is there where its events are: they committed together, or not at all."""
    there = set(Order.objects.values_list("order_id", flat=True))
    meant = {order.order_id for order in placed if order.fate != "ghost"}
    verdict.lost += [f"{order_id}: its business row" for order_id in meant - there]
    verdict.wrong += [f"{order_id}: the row of a rolled-back order" for order_id in there - meant]


def _judge_instances(verdict: Verdict, placed: Sequence[Placed]) -> None:
    found = {
        (process.rpartition(".")[2], key): (status, state, ended_at)
        for process, key, status, state, ended_at in Instance.objects.values_list(
            "process", "key", "status", "state", "ended_at"
        )
    }
    for order in placed:
        fate = FATES[order.fate]
        if order.fate == "ghost":
            continue
        where = f"{order.order_id} ({order.fate})"
        status, state, ended_at = found.pop((fate.process, str(order.order_id)), ("", "", None))
        if not status:
            verdict.lost.append(f"{where}: its instance")
        elif status != fate.status or ended_at is None:
            verdict.wrong.append(f"{where}: {status}, and not {fate.status}")
        elif len(fate.placed) > 1 and json.loads(state)["items"] != [1, 2]:
            verdict.wrong.append(f"{where}: its state is {state}")
    verdict.wrong += [f"{process} {key}: an instance of nobody's" for process, key in found]


def _judge_transitions(verdict: Verdict) -> None:
    """Numbered without gaps, each message once, and the last one's state is the instance's."""
    last = {
        pk: (number, state, status)
        for pk, number, state, status in Instance.objects.values_list(
            "pk", "number", "state", "status"
        )
    }
    for instance, steps in _transitions():
        numbers = [step[1] for step in steps]
        if numbers != list(range(1, len(numbers) + 1)):
            verdict.wrong.append(f"instance {instance}: transitions are numbered {numbers}")
        if last.get(instance) != (numbers[-1], steps[-1][4], steps[-1][5]):
            verdict.wrong.append(f"instance {instance} is not as its last transition left it")
        messages = Counter(step[3] for step in steps if step[2] in _EVENT_KINDS)
        verdict.doubled += [
            f"instance {instance}: a transition of {message_id}"
            for message_id, count in messages.items()
            if count > 1
        ]


def _transitions() -> Iterator[tuple[int, list[tuple[int, int, str, str, str, str]]]]:
    steps = (
        Transition.objects.order_by("instance_id", "number")
        .values_list("instance_id", "number", "kind", "message_id", "state", "status")
        .iterator()
    )
    for instance, found in groupby(steps, key=itemgetter(0)):
        yield instance, list(found)


def _judge_messages(verdict: Verdict) -> None:
    """Each message was handled; nothing was skipped or unmatched, for nothing was late."""
    strange = InboxMessage.objects.exclude(
        status__in=["handled", "pending", "parked", "waiting", "dead"]
    )
    verdict.lost += [
        f"{name} {message_id} is {status}: {reason}"
        for name, message_id, status, reason in strange.values_list(
            "name", "message_id", "status", "reason"
        )
    ]


def _judge_commands(verdict: Verdict) -> None:
    """Each command ran, but for the charges that were refused."""
    strange = OutboxCommand.objects.exclude(status__in=["done", "pending", "dispatched", "dead"])
    strange = strange.exclude(status="discarded", reason__startswith="CardRefused")
    verdict.lost += [
        f"{name} {command_id} is {status}: {reason}"
        for name, command_id, status, reason in strange.values_list(
            "name", "command_id", "status", "reason"
        )
    ]


def _judge_letters(verdict: Verdict, placed: Sequence[Placed]) -> None:
    """One letter for each order that was to have one, of its exception; any other is unexplained."""
    expected = Counter(
        (str(order.order_id), FATES[order.fate].letter)
        for order in placed
        if FATES[order.fate].letter
    )
    letters = DeadLetter.objects.values_list("key", "exception", "name", "attempts", "error")
    for key, exception, name, attempts, error in letters:
        if expected[key, exception]:
            expected[key, exception] -= 1
        else:
            verdict.unexplained.append(f"{key}: {name}, run {attempts}: {exception}: {error}")
    verdict.lost += [f"{key}: the letter of its {name}" for key, name in expected.elements()]
