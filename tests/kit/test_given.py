"""Conformance 46: a process manager is tested in memory, event by event."""

from __future__ import annotations

from datetime import timedelta
from unittest import TestCase

import pytest
from django.db import DatabaseError, connections

from pm_celery import Failure, ProcessManager, command, event, handle, on_failure
from pm_celery.exceptions import DeclarationError, InvalidMessage, Misuse, Refused
from pm_celery.testing import Injected, given
from tests.kit.parcels import (
    AskForRating,
    Delivered,
    Inspected,
    Noticed,
    Ordered,
    Pack,
    Packed,
    Paid,
    Parcel,
    Remind,
    Send,
    Unpack,
    Weighed,
    print_label,
)
from tests.test_package import in_a_fresh_interpreter

pytestmark = pytest.mark.any_database

ORDERED, PACKED, PAID, DELIVERED = Ordered("p"), Packed("p"), Paid("p"), Delivered("p")


def test_given_events_a_test_reads_state_status_commands_timers_and_transitions() -> None:
    """Conformance 46."""
    parcel = given(Parcel, Ordered("p", weight=3), PACKED).when(PAID)

    assert (parcel.key, parcel.status, parcel.state.weight, parcel.state.is_paid) == (
        "p",
        "started",
        3,
        True,
    )
    assert parcel.commands == [Send("p"), AskForRating("p")]
    assert parcel.sent[0] == Pack("p", weight=3)
    assert parcel.timers == {}
    assert parcel.timeout_at == parcel.now + timedelta(days=14)
    assert [step.handler for step in parcel.transitions] == ["ordered", "packed", "paid"]
    assert parcel.transitions[-1].message == PAID
    assert parcel.transitions[-1].timers == {"reminder": None}


def test_commands_are_those_of_the_last_step() -> None:
    """Conformance 46."""
    parcel = given(Parcel, ORDERED)

    assert parcel.commands == [Pack("p")]
    assert parcel.when(PACKED).commands == [print_label.s("p", copies=2)]
    assert parcel.when(Weighed(["p"])).commands == []
    assert parcel.elapse("1d").commands == [Remind("p")]


def test_before_its_first_event_there_is_no_instance() -> None:
    parcel = given(Parcel)

    assert (parcel.status, parcel.state.weight, parcel.key) == (None, 0, None)
    assert not parcel.has_ended


def test_what_comes_after_the_end_is_skipped_with_the_reason() -> None:
    """Conformance 46."""
    parcel = given(Parcel, ORDERED, DELIVERED).when(PAID).elapse("30d")

    assert parcel.skipped == [(PAID, "the instance is completed")]
    assert parcel.commands == []


def test_what_a_handler_ignores_is_skipped_with_its_reason() -> None:
    parcel = given(Parcel, ORDERED, PAID).when(Paid("p", amount=5))

    assert parcel.skipped == [(Paid("p", amount=5), "it is paid already")]


def test_an_event_that_comes_again_with_its_id_is_handled_once() -> None:
    parcel = given(Parcel, ORDERED)

    parcel.when(Weighed(["p"]), event_id="w").when(Weighed(["p"]), event_id="w")

    assert parcel.state.weight == 2


def test_another_event_under_the_same_id_is_a_dead_letter() -> None:
    parcel = given(Parcel, ORDERED)

    parcel.when(PACKED, event_id="1").when(PAID, event_id="1").when(PAID, event_id="1")

    [letter] = parcel.dead_letters
    assert (letter.place, letter.message, letter.exception) == ("publish", PAID, "EventIdConflict")
    with pytest.raises(Refused, match="the first event stands"):
        parcel.retry()
    assert parcel.discard().dead_letters[0].status == "discarded"


def test_an_event_of_another_instance_or_of_none_says_so() -> None:
    parcel = given(Parcel, ORDERED).when(Paid("q"), Weighed([]), Weighed(["p", "q"]))

    assert parcel.elsewhere == [
        (Paid("q"), "its key is 'q', and not 'p'"),
        (Weighed([]), "the correlate says: not mine"),
    ]
    assert (parcel.state.is_paid, parcel.state.weight) == (False, 2)


def test_an_event_without_an_instance_is_unmatched() -> None:
    parcel = given(Parcel).when(PAID).when(ORDERED)

    assert parcel.unmatched == [(PAID, "no instance")]
    assert not parcel.state.is_paid


def test_an_event_that_must_not_come_early_is_a_dead_letter_and_can_be_retried() -> None:
    parcel = given(Parcel).when(Inspected("p"))

    assert [letter.place for letter in parcel.dead_letters] == ["unmatched"]
    parcel.when(ORDERED).retry()
    assert [step.handler for step in parcel.transitions] == ["ordered", "inspected"]


def test_an_early_event_waits_for_the_start_event_and_no_longer_than_it_may() -> None:
    early = given(Parcel).when(Noticed("p"))
    late = given(Parcel).when(Noticed("p")).elapse("2h")

    assert early.waiting == [Noticed("p")]
    assert early.when(ORDERED).transitions[-1].handler == "noticed"
    assert late.unmatched == [(Noticed("p"), "no start event came in time")]


# -- failure ----------------------------------------------------------------------------------------


def test_a_handler_that_is_to_fail_fails_the_instance_after_its_retries() -> None:
    parcel = given(Parcel, ORDERED).failing("paid").when(PAID)

    assert (parcel.status, parcel.pending) == ("started", [PAID])
    parcel.elapse("10s").elapse("20s")
    assert parcel.status == "started"
    parcel.elapse("40s").when(PACKED)

    [letter] = parcel.dead_letters
    assert (letter.message, letter.handler, letter.attempts) == (PAID, "paid", 4)
    assert (parcel.status, parcel.parked) == ("failed", [PACKED])
    assert parcel.state.problem == "parcels.Paid: Injected"
    assert parcel.sent[-1] == Unpack("p")


def test_a_failed_instance_that_is_retried_goes_on_with_what_it_parked() -> None:
    parcel = given(Parcel, ORDERED).failing("paid", times=1, for_good=True).when(PAID, PACKED)

    parcel.retry()

    assert [step.handler for step in parcel.transitions][-2:] == ["paid", "packed"]
    assert parcel.commands == [Send("p"), AskForRating("p"), print_label.s("p", copies=2)]
    assert (parcel.status, parcel.dead_letters[0].status) == ("started", "retried")


def test_a_dead_letter_is_discarded_with_or_without_going_on() -> None:
    resumed = given(Parcel, ORDERED).failing("paid", for_good=True).when(PAID, PACKED).discard()
    left = given(Parcel, ORDERED).failing("paid", for_good=True).when(PAID, PACKED)
    left.discard(resume=False)

    assert (resumed.status, resumed.transitions[-1].handler) == ("started", "packed")
    assert (left.status, left.has_ended) == ("failed", True)
    assert left.skipped == [(PACKED, "the instance is failed")]


def test_an_error_that_is_not_meant_is_raised_with_what_was_being_handled() -> None:
    class Clumsy(ProcessManager):
        @handle(Ordered, start=True, correlate="parcel")
        def ordered(self, event: Ordered) -> None:
            raise ZeroDivisionError(event.parcel)

    with pytest.raises(ZeroDivisionError) as raised:
        given(Clumsy, ORDERED)

    assert "Clumsy.ordered() was handling parcels.Ordered" in raised.value.__notes__[0]


def test_an_error_that_is_meant_is_retried_as_in_production() -> None:
    class Clumsy(ProcessManager):
        @handle(Ordered, start=True, correlate="parcel")
        def ordered(self, event: Ordered) -> None:
            raise ZeroDivisionError(event.parcel)

    clumsy = given(Clumsy, ORDERED, raises=ZeroDivisionError).elapse("1h")

    assert (clumsy.status, len(clumsy.errors)) == ("failed", 4)


def test_a_failure_handler_that_fails_is_noted_on_the_letter() -> None:
    parcel = given(Parcel, ORDERED).failing("paid", for_good=True).failing("failed").when(PAID)

    assert "failed was to fail" in parcel.dead_letters[0].failure_handler_error
    assert parcel.status == "failed"


def test_what_was_parked_is_skipped_when_the_failure_handler_ends_the_instance() -> None:
    class Yielding(ProcessManager):
        @handle(Ordered, start=True, correlate="parcel")
        def ordered(self, event: Ordered) -> None: ...

        @handle(Paid, correlate="parcel")
        def paid(self, event: Paid) -> None: ...

        @on_failure
        def failed(self, failure: Failure) -> None:
            self.complete()

    yielding = given(Yielding, ORDERED).failing("paid", times=1).when(PAID, PAID).elapse("1h")
    assert yielding.status == "started"

    yielding.failing("paid").when(PAID, Paid("p", amount=1)).elapse("1h")

    assert yielding.status == "completed"
    assert yielding.skipped == [(Paid("p", amount=1), "the instance is completed")]


def test_an_instance_is_cancelled_once() -> None:
    parcel = given(Parcel, ORDERED, PAID).cancel()

    assert (parcel.status, parcel.timers, parcel.timeout_at) == ("cancelled", {}, None)
    assert [sent.status for sent in parcel.outbox] == ["dispatched", "dispatched", "cancelled"]
    with pytest.raises(Refused, match="already cancelled"):
        parcel.cancel()
    with pytest.raises(Refused, match="no such instance"):
        given(Parcel).cancel()


# -- commands ---------------------------------------------------------------------------------------


def test_with_command_handlers_a_whole_conversation_runs() -> None:
    parcel = given(
        Parcel,
        handlers={
            Pack: lambda command: Packed(command.parcel),
            Send: lambda command: [Delivered(command.parcel)],
            AskForRating: lambda command: None,
        },
    )

    parcel.when(ORDERED, PAID)

    assert parcel.status == "completed"
    assert [step.handler for step in parcel.transitions] == [
        "ordered",
        "packed",
        "paid",
        "delivered",
    ]
    assert parcel.published == [PACKED, DELIVERED]


def test_a_command_that_fails_twice_works_after_its_back_offs() -> None:
    handlers = {Send: lambda command: Delivered(command.parcel)}
    parcel = given(Parcel, ORDERED, handlers=handlers).failing(Send, times=2).when(PAID)

    assert (parcel.status, parcel.outbox[1].status) == ("started", "pending")
    parcel.elapse("1s")
    assert parcel.status == "started"
    parcel.elapse("2s")

    assert (parcel.status, parcel.outbox[1].attempts) == ("completed", 3)


def test_a_command_that_fails_for_good_is_told_to_the_process() -> None:
    parcel = given(Parcel, ORDERED, PAID).command_fails(Send, error=OSError("no van"))

    assert parcel.state.problem == "not sent: no van"
    assert parcel.commands == [Unpack("p")]
    assert [letter.place for letter in parcel.dead_letters] == ["command"]


def test_a_command_that_failed_can_be_retried_and_discarded() -> None:
    handlers = {Send: lambda command: Delivered(command.parcel)}
    parcel = given(Parcel, ORDERED, handlers=handlers)
    parcel.failing(Send, times=1, for_good=True).when(PAID)
    given_up = given(Parcel, ORDERED, PAID).command_fails(Send("p")).discard()

    assert parcel.retry().status == "completed"
    assert given_up.outbox[1].status == "discarded"


def test_a_celery_task_may_fail_as_well() -> None:
    parcel = given(Parcel, ORDERED, PACKED).command_fails(print_label.s("p", copies=2))

    assert parcel.dead_letters[0].place == "signature"
    assert parcel.state.problem == "parcels.print_label: Injected"


# -- what is not allowed ----------------------------------------------------------------------------


def test_what_a_test_got_wrong_is_told_at_once() -> None:
    @event
    class Unheard:
        parcel: str

    @command
    class Unsent:
        parcel: str

    parcel = given(Parcel, ORDERED)

    with pytest.raises(Misuse, match=r"does not handle tests\.Unheard, but Delivered"):
        parcel.when(Unheard("p"))
    with pytest.raises(InvalidMessage):
        parcel.when(Pack("p"))
    with pytest.raises(Misuse, match="no such handler, but delivered"):
        parcel.failing("payed")
    with pytest.raises(Misuse, match="no such command is under way"):
        parcel.command_fails(Unsent)
    with pytest.raises(Refused, match="no open dead letter"):
        parcel.retry()
    with pytest.raises(Misuse, match="give the events to publish"):
        given(Parcel, ORDERED, handlers={Pack: lambda command: "packed"})


def test_a_process_that_is_declared_wrongly_is_not_tested() -> None:
    class Endless(ProcessManager):
        pass

    with pytest.raises(DeclarationError, match="no start event"):
        given(Endless)


def test_two_messages_of_one_name_are_told_apart() -> None:
    @event(name="parcels.Ordered")
    class Other:
        parcel: str

    class Confused(ProcessManager):
        @handle(Other, start=True, correlate="parcel")
        def other(self, event: Other) -> None: ...

    with pytest.raises(DeclarationError, match="Two messages are declared as"):
        given(Confused, Other("p"))


# -- assertions -------------------------------------------------------------------------------------


def test_expect_accepts_what_is_so() -> None:
    given(Parcel, ORDERED).expect(
        status="started",
        state={"weight": 1, "is_paid": False},
        commands=[Pack("p")],
        timers={"reminder": "1d"},
        skipped=[],
        parked=[],
        handlers=["ordered"],
    ).when(PAID).when(PAID).expect(skipped=[PAID], commands=[]).expect(
        skipped=[(PAID, "it is paid already")]
    )


def test_expect_tells_every_difference_and_what_had_happened() -> None:
    parcel = given(Parcel, Ordered("p", weight=2))

    with pytest.raises(AssertionError) as failed:
        parcel.expect(
            status="completed",
            state={"weight": 3},
            commands=[Pack("p", weight=3), Send("p")],
            timers={"reminder": "2d"},
        )

    assert str(failed.value).splitlines() == [
        "status: expected 'completed', found 'started'",
        "state.weight: expected 3, found 2",
        "commands: expected 2, found 1",
        "  [0] expected: Pack(parcel='p', weight=3)",
        "  [0] found:    Pack(parcel='p', weight=2)",
        "        weight: expected 3, found 2",
        "  [1] missing: Send(parcel='p')",
        "timers: 'reminder' is due 2030-01-02 12:00:00 (in 1 day, 0:00:00), expected "
        "2030-01-03 12:00:00 (in 2 days, 0:00:00)",
        "",
        "Parcel p: started, 2030-01-01 12:00:00",
        "  #1 2030-01-01 12:00:00  event Ordered(parcel='p', weight=2) → ordered(), sends "
        "Pack(parcel='p', weight=2), sets the timer 'reminder'",
        "  state: Parcel(parcel='p', weight=2, is_paid=False, reminded=0, problem='')",
        "  timer 'reminder': due 2030-01-02 12:00:00",
        "  timeout: 2030-01-15 12:00:00",
    ]


def test_a_scenario_can_be_printed_at_any_time() -> None:
    parcel = given(Parcel).when(PAID, Weighed([]))
    parcel.when(ORDERED).failing("paid").when(Paid("p", amount=1), PACKED).elapse("5m")
    parcel.when(DELIVERED)

    assert str(given(Parcel)) == "Parcel: no instance yet, 2030-01-01 12:00:00"
    told = str(parcel)
    for line in (
        "unmatched: Paid(parcel='p', amount=10): no instance",
        "elsewhere: Weighed(parcels=[]): the correlate says: not mine",
        "dead: Paid(parcel='p', amount=1): Injected: paid was to fail",
        "parked: Packed(parcel='p'): behind a failure",
    ):
        assert line in told
    assert repr(parcel) == "<Parcel p: failed, 3 transitions>"


# -- where it runs ----------------------------------------------------------------------------------


def test_no_database_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise DatabaseError("a test in memory has asked the database")

    for connection in connections.all():
        monkeypatch.setattr(connection, "ensure_connection", refuse)

    given(Parcel, ORDERED, PAID).failing("delivered").when(DELIVERED).elapse("1h").retry().cancel()


def test_the_kit_is_imported_without_models_and_without_settings() -> None:
    code = (
        "from pm_celery.testing import explore, given\n"
        "import sys\n"
        "assert 'pm_celery.models' not in sys.modules\n"
        "from django.conf import settings\n"
        "print(settings.configured)"
    )

    assert in_a_fresh_interpreter(code) == "False"


class UnderUnittest(TestCase):
    def test_a_scenario_needs_no_pytest(self) -> None:
        """In the words of unittest."""
        parcel = given(Parcel, ORDERED).failing("paid", error=Injected("x")).when(PAID).elapse("1h")

        self.assertEqual(parcel.status, "failed")  # noqa: PT009
        with self.assertRaises(AssertionError):  # noqa: PT027
            parcel.expect(status="started")
