"""What the package announces; nothing in it logs or counts but receivers of these.

Sent with ``send_robust`` once the news is committed: a receiver that raises harms nobody. All arguments
are plain values.
"""

from django.dispatch import Signal

__all__ = [
    "batch_recorded",
    "broker_unreachable",
    "command_retried",
    "command_settled",
    "died",
    "message_refused",
    "message_retried",
    "operated",
    "pruned",
    "unknown_message",
    "worker_lost",
]

# A transaction of the engine: partition, transitions, skipped, unmatched (numbers).
batch_recorded = Signal()
# A run failed and will be repeated: process, key, name, message_id, error (the exception), error_text (its
# words, without what ``PM_CELERY["REDACT"]`` hides), attempts, retry_at.
message_retried = Signal()
# The same of a command: process, key, name, command_id, error, error_text, attempts, retry_at.
command_retried = Signal()
# A command ran: process, key, name, command_id, status.
command_settled = Signal()
# A dead letter was opened: letter_id, place, process, key, name, message_id, error, error_text.
died = Signal()
# A row waits for a release that knows its type, or its instance's state: process, name, version, message_id;
# why: what it is that this one does not know.
unknown_message = Signal()
# A batch was found whose worker died in it: messages (their number).
worker_lost = Signal()
# A Celery message asked a task of ours for what cannot be, and nothing was done: task, why.
message_refused = Signal()
# Celery could not take a message: error, what. The tick will find the row.
broker_unreachable = Signal()
# An operator's verb did something: verb, by, subject, reason.
operated = Signal()
# A prune removed something: instances, rows that belonged to none, spared (numbers).
pruned = Signal()
