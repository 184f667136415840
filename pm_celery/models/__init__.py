"""The rows, and the questions that one may ask them. Rows send nothing and log nothing."""

from pm_celery.models.dead_letters import DeadLetter
from pm_celery.models.inbox import InboxMessage
from pm_celery.models.instances import Instance, Transition
from pm_celery.models.outbox import OutboxCommand
from pm_celery.models.timers import Timer
from pm_celery.models.upkeep import Batch, Heartbeat, Wakeup

__all__ = [
    "Batch",
    "DeadLetter",
    "Heartbeat",
    "InboxMessage",
    "Instance",
    "OutboxCommand",
    "Timer",
    "Transition",
    "Wakeup",
]
