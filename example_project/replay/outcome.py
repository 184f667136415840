"""What became of the events and cases of one run, asked of pm_celery's tables."""

from __future__ import annotations

from collections import Counter

from django.db.models import Count

from pm_celery.conf import get_settings
from pm_celery.models import InboxMessage, Instance

__all__ = ["forget_unhandled", "instances", "is_anything_due", "messages", "open_messages"]


def _inbox(process: str):
    return InboxMessage.objects.using(get_settings().database).filter(process=process)


def is_anything_due(process: str) -> bool:
    """Whether an event of the process still waits to be handled."""
    return _inbox(process).open().exists()


def open_messages(process: str) -> int:
    """How many events of the process still wait to be handled."""
    return _inbox(process).open().count()


def messages(process: str) -> Counter[str]:
    """The process's events by status."""
    found = _inbox(process).values_list("status").annotate(Count("pk"))
    return Counter(dict(found.order_by()))


def instances(process: str) -> Counter[str]:
    """The process's instances by status."""
    found = Instance.objects.using(get_settings().database).filter(process=process)
    return Counter(dict(found.values_list("status").annotate(Count("pk")).order_by()))


def forget_unhandled(process: str) -> int:
    """Remove the events that nobody will handle, because the run that knows their process is over."""
    return _inbox(process).open().delete()[0]
