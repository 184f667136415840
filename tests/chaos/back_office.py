"""The operator: settles each dead letter as a person would."""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

from pm_celery.exceptions import Refused
from pm_celery.models import DeadLetter, InboxMessage
from pm_celery.operations import dead_letters
from tests.chaos.shop.models import Repair

__all__ = ["settle_letters"]

_BY = "chaos"


def settle_letters() -> None:
    """Discard refused cards, for trying again is pointless; mend the rest, and retry."""
    for letter in DeadLetter.objects.open().order_by("pk"):
        with suppress(Refused):
            if letter.exception == "CardRefused":
                dead_letters.discard(letter.pk, by=_BY)
            elif _was_heard_of(letter):
                if letter.exception == "NotMended":
                    Repair.objects.create(order_id=UUID(letter.key))
                dead_letters.retry(letter.pk, by=_BY)


def _was_heard_of(letter: DeadLetter) -> bool:
    """Whether the failure handler was called: after a retry it would not be any more."""
    notices = InboxMessage.objects.filter(message_id=f"failure:{letter.pk}")
    return not notices.filter(status="pending").exists()
