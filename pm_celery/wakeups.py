"""Wake-ups: the Celery messages that say "look here", and say it once.

The message may be lost, doubled or late. One that is outstanding longer than its lease counts as lost;
the tick then sends another.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.db import transaction

from pm_celery import clock
from pm_celery.broker import post_office
from pm_celery.conf import get_settings
from pm_celery.models import Wakeup
from pm_celery.statements import statements

__all__ = ["partitions_with_work", "wake", "wake_on_commit"]

ADVANCE_TASK = "pm_celery.advance"


def wake_on_commit(partitions: Collection[int]) -> None:
    """Wake partitions once the caller's transaction is committed; never fails the caller."""
    if partitions:
        alias = get_settings().database
        # No partial: Django asks a robust callback that fails for its name, and a partial has none.
        transaction.on_commit(lambda: wake(partitions), using=alias, robust=True)


def wake(partitions: Collection[int]) -> None:
    """Send a wake-up to each partition that has none outstanding."""
    if not partitions:
        return
    settings = get_settings()
    alias = settings.database
    fresh = statements(alias).wake(alias, sorted(partitions), clock.now())
    # If we die here, or the broker refuses, the wake-up stays outstanding until its lease ends:
    # that spares the next publishers a broker that is down.
    if not fresh:
        return
    with post_office() as post:
        for partition in fresh:
            route: dict[str, Any] = {} if settings.queues == 1 else {"queue": queue_of(partition)}
            post.send(
                ADVANCE_TASK,
                [partition],
                what=f"the wake-up of partition {partition}",
                argsrepr=f"({partition},)",
                kwargsrepr="{}",
                **route,
            )


def queue_of(partition: int) -> str:
    """The queue of a partition's wake-ups where ``PM_CELERY["QUEUES"]`` is above 1."""
    return f"pm_celery.{partition % get_settings().queues}"


def forget_lost() -> None:
    """Forget wake-ups whose lease has ended."""
    settings = get_settings()
    lost = Wakeup.objects.using(settings.database).filter(
        woken_at__lte=clock.now() - settings.wake_lease
    )
    lost.delete()


def partitions_with_work() -> list[int]:
    """Partitions in which something is due."""
    alias = get_settings().database
    return statements(alias).due_partitions(alias, clock.now())
