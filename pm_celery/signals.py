"""What the package announces; nothing in it logs or counts but receivers of these.

Sent with ``send_robust`` once the news is committed: a receiver that raises harms nobody. All arguments
are plain values.
"""

from __future__ import annotations

from typing import Any

from django.db import transaction
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


class News(Signal):
    """A signal that can wait for the commit of what it tells."""

    def send_on_commit(self, alias: str, *, sender: type, **news: Any) -> None:
        """Send it once the caller's transaction is committed; not at all if that is rolled back."""
        transaction.on_commit(
            lambda: self.send_robust(sender=sender, **news), using=alias, robust=True
        )


# A transaction of the engine: partition, transitions, skipped, unmatched (numbers).
batch_recorded = News()
# A run failed and will be repeated: process, key, name, message_id, error (the exception), error_text (its
# words, without what ``PM_CELERY["REDACT"]`` hides), attempts, retry_at.
message_retried = News()
# The same of a command: process, key, name, command_id, error, error_text, attempts, retry_at.
command_retried = News()
# A command ran: process, key, name, command_id, status.
command_settled = News()
# A dead letter was opened: letter_id, place, process, key, name, message_id, error, error_text.
died = News()
# A row waits for a release that knows its type, or its instance's state: process, name, version, message_id;
# why: what it is that this one does not know.
unknown_message = News()
# A batch was found whose worker died in it: messages (their number).
worker_lost = News()
# A Celery message asked a task of ours for what cannot be, and nothing was done: task, why.
message_refused = News()
# Celery could not take a message: error, what. The tick will find the row.
broker_unreachable = News()
# An operator's verb did something: verb, by, subject, reason.
operated = News()
# A prune removed something: instances, rows that belonged to none, spared (numbers).
pruned = News()
