"""Errors that cannot be printed, are huge, or hold what no database stores: the message still ends as a dead
letter, its partition goes on, and whoever published is not to blame.

Breaks that turned these red: ``str(error)`` in place of ``wording.text_of``; no ``printable`` around what
is stored as a reason.
"""

from __future__ import annotations

from typing import Any

import pytest

from pm_celery import (
    ProcessManager,
    Retry,
    command,
    command_handler,
    event,
    handle,
    publish,
)
from pm_celery.models import DeadLetter, InboxMessage, OutboxCommand
from tests.driving import drain

pytestmark = pytest.mark.django_db(transaction=True)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@event(name="hostile.Asked")
class Asked:
    key: str


@command(name="hostile.Answer")
class Answer:
    key: str


def test_a_command_whose_error_cannot_be_printed_becomes_a_dead_letter() -> None:
    """It was run again for ever, and its error was told nowhere."""

    class Question(ProcessManager):
        @handle(Asked, start=True, correlate="key")
        def asked(self, event: Asked) -> None:
            self.send(Answer(key=event.key))

    @command_handler(Answer, retry=Retry("none"))
    def answer(command: Answer) -> None:
        raise Unprintable

    publish(Asked(key="k"))
    drain()

    assert DeadLetter.objects.get().exception == "Unprintable"
    assert OutboxCommand.objects.get().status == "dead"


@pytest.mark.parametrize("error", [Unprintable(), ValueError("\x00"), ValueError("\ud800")])
def test_a_correlate_s_error_that_no_row_can_hold_does_not_fail_the_publisher(
    error: Exception,
) -> None:
    def unusable(event: Any) -> str:
        raise error

    class Question(ProcessManager):
        @handle(Asked, start=True, correlate=unusable)
        def asked(self, event: Asked) -> None: ...

    publish(Asked(key="k"))

    assert DeadLetter.objects.get().exception == type(error).__name__
    assert InboxMessage.objects.get().status == "dead"
