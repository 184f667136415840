"""The rows, and the questions that one may ask them. Rows send nothing and log nothing."""

from pm_celery.models.dead_letters import DeadLetter, FailedAttempt, LetterGroup
from pm_celery.models.inbox import InboxMessage
from pm_celery.models.instances import Instance, Transition
from pm_celery.models.operations import BulkAction, Intervention, Pause
from pm_celery.models.outbox import OutboxCommand
from pm_celery.models.tallies import Tally, TallyEntry
from pm_celery.models.timers import Timer
from pm_celery.models.upkeep import Batch, Heartbeat, Wakeup

__all__ = [
    "Batch",
    "BulkAction",
    "DeadLetter",
    "FailedAttempt",
    "Heartbeat",
    "InboxMessage",
    "Instance",
    "Intervention",
    "LetterGroup",
    "OutboxCommand",
    "Pause",
    "Tally",
    "TallyEntry",
    "Timer",
    "Transition",
    "Wakeup",
]
