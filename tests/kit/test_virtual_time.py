"""Conformance 47: time goes by as a test says, and what is due happens in order."""

from __future__ import annotations

from dataclasses import field
from datetime import UTC, datetime, timedelta

import pytest

from pm_celery import (
    Failure,
    ProcessManager,
    Retry,
    command,
    event,
    handle,
    on_failure,
    on_timeout,
    on_timer,
)
from pm_celery.exceptions import ChainTooDeep
from pm_celery.testing import given
from tests.kit.parcels import AskForRating, Ordered, Paid, Parcel, Remind, Unpack

pytestmark = pytest.mark.any_database

ORDERED, PAID = Ordered("p"), Paid("p")


@event(name="clocks.Began")
class Began:
    key: str


@event(name="clocks.Struck")
class Struck:
    key: str


@command(name="clocks.Ring")
class Ring:
    key: str


class Clock(ProcessManager):
    """Writes down what happened after how many seconds."""

    log: list[str] = field(default_factory=list)
    began: datetime | None = None

    class Meta:
        name = "clocks.Clock"
        correlate = "key"
        timeout = "1h"
        retry = Retry("linear", delay="1m", max_retries=2)

    def note(self, what: str) -> None:
        assert self.began is not None
        self.log.append(f"{what} after {(self.now - self.began).total_seconds():g}")

    @handle(Began, start=True)
    def begin(self, event: Began) -> None:
        self.began = self.now
        self.set_timer("late", "30m")
        self.set_timer("early", "10s")
        self.send(Ring(key=event.key), delay="90s")

    @handle(Struck)
    def struck(self, event: Struck) -> None:
        self.note("struck")

    @on_timer("early")
    def early(self) -> None:
        self.note("early")
        self.set_timer("late", "2m")

    @on_timer("late")
    def late(self) -> None:
        self.note("late")

    @on_timeout
    def timed_out(self) -> None:
        self.note("timed out")

    @on_failure
    def failed(self, failure: Failure) -> None:
        self.note(f"failed in run {failure.attempts}")


def test_elapse_fires_each_timer_and_the_timeout_at_its_own_moment_in_order() -> None:
    """Conformance 47."""
    clock = given(Clock, Began("k")).elapse("7d")

    assert clock.state.log == ["early after 10", "late after 130", "timed out after 3600"]
    assert clock.status == "timed_out"
    assert clock.now == datetime(2030, 1, 8, 12, tzinfo=UTC)


def test_elapse_goes_over_the_back_offs_of_a_handler_and_what_waits_behind_it() -> None:
    """Conformance 47."""
    clock = given(Clock, Began("k")).failing("struck", times=2).when(Struck("k"))

    clock.elapse("10m")

    # The timer of 10 seconds, and the one that was set in its handler, wait behind the event.
    assert clock.state.log == ["struck after 180", "early after 180", "late after 300"]
    assert clock.transitions[1].attempt == 3


def test_elapse_ends_in_the_failure_handler_where_attempts_are_spent() -> None:
    clock = given(Clock, Began("k")).failing("struck").when(Struck("k")).elapse("10m")

    assert clock.state.log == ["failed in run 3 after 180"]
    assert clock.parked == ["early"]


def test_a_delayed_command_is_dispatched_when_its_time_has_come() -> None:
    """Conformance 47."""
    clock = given(Clock, Began("k"), handlers={Ring: lambda command: Struck(command.key)})

    assert clock.elapse("89s").outbox[0].status == "pending"
    assert clock.elapse("1s").outbox[0].status == "done"
    assert clock.state.log[-1] == "struck after 90"


def test_a_delayed_command_that_is_cancelled_is_never_dispatched() -> None:
    parcel = given(Parcel, ORDERED, PAID).elapse("13d")
    early = given(Parcel, ORDERED).elapse("12d").when(PAID).elapse("30d")

    assert AskForRating("p") in parcel.sent
    assert [sent.status for sent in parcel.outbox][-1] == "dispatched"
    assert [(sent.command, sent.status) for sent in early.outbox][-2:] == [
        (AskForRating("p"), "cancelled"),
        (Unpack("p"), "dispatched"),
    ]


def test_a_command_that_expires_before_it_is_dispatched_again_dies() -> None:
    class Hasty(ProcessManager):
        @handle(Began, start=True, correlate="key")
        def begin(self, event: Began) -> None:
            self.send(Ring(key=event.key), expires="1s")

    hasty = given(Hasty, Began("k")).failing(Ring, times=1).elapse("5s")

    assert given(Hasty, Began("k")).failing(Ring, times=1).dead_letters == []
    assert hasty.dead_letters == []
    hasty = given(Hasty).failing(Ring, times=1).when(Began("k")).elapse("5s")
    assert hasty.dead_letters[0].exception == "CommandExpired"


def test_a_timer_that_sets_itself_again_fires_again() -> None:
    parcel = given(Parcel, ORDERED).elapse("4d")

    assert parcel.state.reminded == 2
    assert parcel.commands == [Remind("p"), Remind("p")]
    assert parcel.timers == {"reminder": parcel.now + timedelta(days=1)}


def test_timers_whose_moments_have_passed_fire_in_the_order_of_these() -> None:
    class Belated(ProcessManager):
        log: list[str] = field(default_factory=list)

        @handle(Began, start=True, correlate="key")
        def begin(self, event: Began) -> None:
            self.set_timer("second", at=self.now - timedelta(seconds=1))
            self.set_timer("first", at=self.now - timedelta(seconds=2))

        @on_timer("first")
        def first(self) -> None:
            self.log.append("first")

        @on_timer("second")
        def second(self) -> None:
            self.log.append("second")

    assert given(Belated, Began("k")).state.log == ["first", "second"]


def test_a_timer_whose_handler_failed_is_gone_when_that_is_discarded() -> None:
    parcel = given(Parcel, ORDERED).failing("remind", for_good=True).elapse("1d")

    assert parcel.timers.keys() == {"reminder"}
    assert parcel.discard().timers == {}


def test_time_begins_where_the_test_says() -> None:
    moment = datetime(1999, 12, 31, tzinfo=UTC)

    assert given(Clock, Began("k"), now=moment).state.began == moment
    assert given(Clock).elapse("1d").when(Began("k"), occurred_at=moment).state.began != moment


def test_events_and_commands_that_cause_one_another_for_ever_are_told() -> None:
    class Forever(ProcessManager):
        @handle(Began, start=True, correlate="key")
        def begin(self, event: Began) -> None:
            self.send(Ring(key=event.key))

    with pytest.raises(ChainTooDeep):
        given(Forever, Began("k"), handlers={Ring: lambda command: Began(command.key)})
