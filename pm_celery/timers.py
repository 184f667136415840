"""Timers and timeouts whose moment has come enter the inbox."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.db import connections, transaction

from pm_celery import clock, inbox, notices, tracing
from pm_celery.conf import get_settings
from pm_celery.models import InboxMessage, Instance, Timer, Transition
from pm_celery.rows import NewMessage

__all__ = ["fire_due", "timeout_message", "timer_message"]


def fire_due(limit: int = 1000) -> int:
    """Put due timers and timeouts into the inbox; how many. Several may do this at once.

    A row and its mark commit together, so that none is lost; and each setting of a timer has one
    message id, so that none is there twice.
    """
    return _fire_timers(limit) + _fire_timeouts(limit)


def _fire_timers(limit: int) -> int:
    alias = get_settings().database
    skip = connections[alias].features.has_select_for_update_skip_locked
    now = clock.now()
    if not Timer.objects.using(alias).due(now).exists():
        return 0
    with transaction.atomic(using=alias):
        due = list(Timer.objects.using(alias).select_for_update(skip_locked=skip).due(now)[:limit])
        # Of an instance only what routes the message: its state may be long.
        owners = (
            Instance.objects.using(alias)
            .only("process", "key", "partition")
            .in_bulk({timer.instance_id for timer in due})
        )
        traces = _traces_of_timers(alias, due)
        rows = [
            timer_message(timer, owners[timer.instance_id], now, traces.get(timer.causation_id, ""))
            for timer in due
            if timer.instance_id in owners
        ]
        inbox.put(rows)
        Timer.objects.using(alias).filter(pk__in=[timer.pk for timer in due]).update(fired_at=now)
    return len(due)


def timer_message(
    timer: Timer, instance: Instance, now: datetime, trace: str | None = None
) -> NewMessage:
    """The inbox row of a timer that fires: each setting of it has one id, so it is put in once.

    trace: of what set it, if the caller knows.
    """
    if trace is None:
        traces = _traces_of_timers(get_settings().database, [timer])
        trace = traces.get(timer.causation_id, "")
    return notices.timer_fired(timer, instance, now, trace)


def _traces_of_timers(alias: str, timers: Sequence[Timer]) -> dict[str, str]:
    """What the messages descend from in whose handlers they were set, while those are kept."""
    if not timers or not tracing.is_on():
        return {}
    causes = {timer.causation_id for timer in timers}
    rows = InboxMessage.objects.using(alias).filter(message_id__in=causes).exclude(trace="")
    return dict(rows.values_list("message_id", "trace"))


def _traces_of_timeouts(alias: str, instances: Sequence[Instance]) -> dict[int, str]:
    """What the first messages of instances descend from, while those are kept."""
    if not instances or not tracing.is_on():
        return {}
    steps = Transition.objects.using(alias).filter(instance__in=instances, number=1)
    first = dict(steps.exclude(inbox_id=None).values_list("inbox_id", "instance_id"))
    rows = InboxMessage.objects.using(alias).filter(pk__in=[pk for pk in first if pk is not None])
    return {first[pk]: trace for pk, trace in rows.values_list("pk", "trace")}


def _fire_timeouts(limit: int) -> int:
    alias = get_settings().database
    skip = connections[alias].features.has_select_for_update_skip_locked
    now = clock.now()
    if not Instance.objects.using(alias).timeout_passed(now).exists():
        return 0
    with transaction.atomic(using=alias):
        # Whom the engine holds just now is skipped: it may be ending, and the next tick looks again.
        due = list(
            Instance.objects.using(alias)
            .select_for_update(skip_locked=skip)
            .timeout_passed(now)[:limit]
        )
        traces = _traces_of_timeouts(alias, due)
        inbox.put(
            [
                timeout_message(row, row.timeout_at or now, now, traces.get(row.pk, ""))
                for row in due
            ]
        )
        Instance.objects.using(alias).filter(pk__in=[row.pk for row in due]).update(timeout_at=None)
    return len(due)


def timeout_message(
    instance: Instance, due_at: datetime, now: datetime, trace: str | None = None
) -> NewMessage:
    """The inbox row of an instance's timeout: its id lets it be put in once, whoever tries.

    trace: of what started it, if the caller knows.
    """
    if trace is None:
        trace = _traces_of_timeouts(get_settings().database, [instance]).get(instance.pk, "")
    return notices.timed_out(instance, due_at, now, clock.at_once(), trace)
