"""What the kit holds in memory instead of tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pm_celery.rows import CommandRow, InboxRow

__all__ = ["Letter", "Place", "Received", "SentCommand", "StandingTimer"]

Place = Literal["publish", "correlate", "unmatched", "handler", "command", "signature"]


@dataclass(frozen=True, slots=True)
class Received:
    """A message of the inbox, with why it stands as it does. Its row is never changed: it is replaced."""

    row: InboxRow
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StandingTimer:
    """A timer that is set; fired, when it is in the inbox already."""

    name: str
    due_at: datetime
    payload: str
    message_id: str
    correlation_id: str
    causation_id: str
    is_fired: bool = False


@dataclass(frozen=True, slots=True)
class SentCommand:
    """A command of the outbox. Its row is never changed: it is replaced."""

    row: CommandRow
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter.

    message_id: of the message or command that died.
    """

    number: int
    place: Place
    name: str
    message_id: str
    payload: str
    exception: str
    error: str
    attempts: int
    handler: str = ""
    status: Literal["open", "retried", "discarded"] = "open"
    failure_handler_error: str = ""
