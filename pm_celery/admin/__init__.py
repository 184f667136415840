"""The admin: every row to look at, none to edit, and the verbs of whoever may use them."""

from pm_celery.admin.bulk import BulkActionAdmin
from pm_celery.admin.dead_letters import DeadLetterAdmin
from pm_celery.admin.instances import InstanceAdmin, TransitionAdmin
from pm_celery.admin.messages import InboxMessageAdmin, OutboxCommandAdmin
from pm_celery.admin.pauses import PauseAdmin
from pm_celery.admin.timers import TimerAdmin
from pm_celery.admin.upkeep import BatchAdmin, HeartbeatAdmin, WakeupAdmin

__all__ = [
    "BatchAdmin",
    "BulkActionAdmin",
    "DeadLetterAdmin",
    "HeartbeatAdmin",
    "InboxMessageAdmin",
    "InstanceAdmin",
    "OutboxCommandAdmin",
    "PauseAdmin",
    "TimerAdmin",
    "TransitionAdmin",
    "WakeupAdmin",
]
