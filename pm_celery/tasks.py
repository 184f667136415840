"""Celery's skin: few tasks, with names that never change, whose messages say only where to look."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery import Task, shared_task, signals

from pm_celery import engine, execution, outbox, retention, settling, signs, ticks
from pm_celery.accepting import JSON_ONLY, careful
from pm_celery.conf import get_settings
from pm_celery.exceptions import InvalidMessage, RefusedMessage
from pm_celery.execution import is_command_id
from pm_celery.keys import PARTITIONS
from pm_celery.operations import bulk as bulk_actions
from pm_celery.publishing import publish_named
from pm_celery.transience import repeated
from pm_celery.wording import text_of

__all__ = ["advance", "bulk", "prune", "publish", "run_command", "tick"]

# A signature of a task without a time limit holds its lease this long once it has begun, in seconds.
_SIGNATURE_SECONDS = 3600.0


@shared_task(name="pm_celery.advance", ignore_result=True, **JSON_ONLY)
@careful("pm_celery.advance")
def advance(lane: int) -> None:
    """Handle what is due in the partitions of a lane."""
    lanes = PARTITIONS + get_settings().queues
    if type(lane) is not int or not 0 <= lane < lanes:
        raise RefusedMessage(f"there is no lane {lane!r:.80}, they are 0 to {lanes - 1}")
    repeated(get_settings().database, partial(engine.advance, lane), times=3)


@shared_task(name="pm_celery.tick", ignore_result=True, **JSON_ONLY)
@careful("pm_celery.tick")
def tick() -> None:
    """Find what is due or stranded. Beat sends it."""
    repeated(get_settings().database, ticks.tick, times=3)


@shared_task(name="pm_celery.run_command", ignore_result=True, **JSON_ONLY)
@careful("pm_celery.run_command")
def run_command(command_id: str) -> str:
    """Run a command that has no task of its own here."""
    return execution.run(command_id)


@shared_task(name="pm_celery.prune", ignore_result=True, **JSON_ONLY)
@careful("pm_celery.prune")
def prune() -> int:
    """Remove what ``PM_CELERY["RETENTION"]`` no longer keeps. Beat sends it once an hour."""
    return retention.prune()


@shared_task(name="pm_celery.bulk", ignore_result=True, **JSON_ONLY)
@careful("pm_celery.bulk")
def bulk(bulk_id: int) -> None:
    """Go on with a bulk action that an operator asked for."""
    if type(bulk_id) is not int or not 0 < bulk_id < 2**63:
        raise RefusedMessage(f"there is no bulk action {bulk_id!r:.80}")
    repeated(get_settings().database, partial(bulk_actions.work, bulk_id), times=3)


# Acknowledged late: until the row is committed, the message is all there is of the event.
@shared_task(name="pm_celery.publish", bind=True, ignore_result=True, acks_late=True, **JSON_ONLY)
@careful("pm_celery.publish")
def publish(
    self: Task[Any, Any],
    name: str,
    payload: object,
    id: str | None = None,
    correlation_id: str | None = None,
    occurred_at: str | None = None,
    version: int = 1,
) -> str:
    """Publish an event for another service: wire name, JSON payload, event id; the version of the event that
    the payload is of.

    Without an id, that of the Celery task is taken, so that a redelivered message publishes once.
    """
    event_id = str(id if id is not None else self.request.id)
    put = partial(
        publish_named,
        name,
        payload,
        event_id,
        correlation_id=correlation_id,
        occurred_at=occurred_at,
        version=version,
    )
    try:
        return repeated(get_settings().database, put)
    except InvalidMessage as error:
        # No row can hold it, so there is nothing to try again with, and its sender is gone.
        raise RefusedMessage(text_of(error)) from None


# -- what became of the tasks that instances sent as signatures --------------------------------------


def _ours(task: Any) -> str | None:
    request = getattr(task, "request", None)
    headers = getattr(request, "headers", None) or {}
    found = headers.get(outbox.HEADER) or getattr(request, outbox.HEADER, None)
    # Celery copies headers to what a task sends in turn: only the task with the command's id counts.
    return found if found == getattr(request, "id", None) and is_command_id(found) else None


@signals.task_prerun.connect(dispatch_uid="pm_celery.signature_begins")
def _signature_begins(task: Any = None, **_: Any) -> None:
    if command_id := _ours(task):
        settling.extend_signature(command_id, task.time_limit or _SIGNATURE_SECONDS)


@signals.task_success.connect(dispatch_uid="pm_celery.signature_done")
def _signature_done(sender: Any = None, **_: Any) -> None:
    if command_id := _ours(sender):
        settling.settle_signature(command_id, None)


@signals.task_failure.connect(dispatch_uid="pm_celery.signature_failed")
def _signature_failed(sender: Any = None, exception: Any = None, **_: Any) -> None:
    if command_id := _ours(sender):
        settling.settle_signature(command_id, exception)


# -- signs of life ----------------------------------------------------------------------------------


# Before the task and not after it, for Celery's own receiver may close the connection then.
@signals.task_prerun.connect(dispatch_uid="pm_celery.sign_of_life")
def _sign_of_life(task: Any = None, **_: Any) -> None:
    if task.name.startswith("pm_celery.") and not task.request.is_eager:
        signs.give(task.request.hostname or "")
