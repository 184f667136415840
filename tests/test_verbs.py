"""What operators do to messages, commands, timers, instances and processes, and what they are told."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import current_app
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils.timezone import now
from kombu.exceptions import OperationalError

from pm_celery import publish
from pm_celery.admin import whereabouts
from pm_celery.exceptions import Refused
from pm_celery.models import (
    DeadLetter,
    InboxMessage,
    Instance,
    Intervention,
    OutboxCommand,
    Pause,
    Timer,
)
from pm_celery.operations import commands, dead_letters, instances, messages
from pm_celery.outbox import RUN_TASK
from pm_celery.rows import NEVER
from tests.driving import advance_all, drain, run_commands
from tests.orders import Paid, Placed, Plan
from tests.test_admin import REASON, act, everything, list_url, make_letter, make_timer, told
from tests.test_admin import make_command as command_of
from tests.test_admin import make_instance as instance_of
from tests.test_admin import make_message as message_of
from tests.test_plans import plan_of

pytestmark = pytest.mark.django_db(transaction=True)

PROCESS = "tests.Order"


def placed() -> UUID:
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    return order_id


def test_a_message_that_backs_off_is_handled_at_once_when_it_is_woken() -> None:
    order_id = placed()
    Plan.raise_in = {"paid": ValueError("the bank is down")}
    publish(Paid(order_id=order_id))
    advance_all()
    message = InboxMessage.objects.get(name="tests.Paid")
    InboxMessage.objects.filter(pk=message.pk).update(due_at=now() + timedelta(hours=1))
    Plan.raise_in = {}
    advance_all()
    assert message.attempts == 1

    messages.wake(message.pk, by="ann", reason=REASON)
    advance_all()

    message.refresh_from_db()
    assert message.status == "handled"
    done = Intervention.objects.get()
    assert (done.verb, done.by, done.reason, done.key) == (
        "wake message",
        "ann",
        REASON,
        str(order_id),
    )


def test_what_is_not_to_be_woken_says_why_and_nothing_is_written() -> None:
    instance = instance_of()
    later = now() + timedelta(hours=1)
    open_ones = {"handled_at": None, "due_at": later}
    first = message_of(instance, status="pending", **open_ones)
    behind = message_of(instance, status="pending", **open_ones)
    paused = instance_of("order-2", process="paused")
    Pause.objects.create(process="paused", paused_at=now())
    held = message_of(paused, status="pending", handled_at=None, due_at=NEVER)
    before = everything()

    for message, says in (
        (behind, f"message {first.pk} of its instance comes before it"),
        (held, "paused"),
        (message_of(instance, status="handled"), "already handled"),
        (message_of(instance, status="skipped"), "already skipped"),
        (message_of(instance, status="dead"), "dead letter"),
        (message_of(instance, status="parked", **open_ones), "parked"),
        (message_of(instance, status="waiting", **open_ones), "start event"),
    ):
        with pytest.raises(Refused, match=says):
            messages.wake(message.pk)
    with pytest.raises(Refused, match="no such message"):
        messages.wake(0)
    InboxMessage.objects.filter(pk__gt=held.pk).delete()
    assert everything() == before


def test_a_delayed_command_runs_when_it_is_dispatched_and_never_when_it_is_cancelled() -> None:
    order_id = placed()
    OutboxCommand.objects.all().delete()
    instance = Instance.objects.get(key=str(order_id))
    later = now() + timedelta(days=1)
    ship = {"name": "tests.Ship", "payload": f'{{"order_id": "{order_id}"}}', "due_at": later}
    now_or_never = [command_of(instance, status="pending", **ship) for _ in range(2)]
    Plan.ran = []

    commands.dispatch(now_or_never[0].pk, by="ann", reason=REASON)
    commands.cancel(now_or_never[1].pk, by="ann", reason=REASON)
    run_commands()

    assert Plan.ran == ["ship"]
    for command in now_or_never:
        command.refresh_from_db()
    assert [command.status for command in now_or_never] == ["done", "cancelled"]
    verbs = Intervention.objects.filter(instance=instance).values_list("verb", "by", "reason")
    assert list(verbs) == [
        ("dispatch command", "ann", REASON),
        ("cancel command", "ann", REASON),
    ]
    for verb in (commands.dispatch, commands.cancel):
        for command, says in zip(now_or_never, ("already done", "already cancelled"), strict=True):
            with pytest.raises(Refused, match=says):
                verb(command.pk)


def test_a_command_that_the_broker_did_not_take_is_not_said_to_be_handed_to_celery(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*args: Any, **options: Any) -> None:
        raise OperationalError("no broker")

    monkeypatch.setattr(current_app, "send_task", refuses)
    monkeypatch.setattr(current_app.tasks[RUN_TASK], "apply_async", refuses)
    command = command_of(instance_of(), status="pending", due_at=now() + timedelta(days=1))

    ((level, text),) = told(act(admin_client, "dispatch", command))

    assert (level, "the broker did not take it" in text) == ("warning", True)
    command.refresh_from_db()
    assert command.status == "dispatched"


def test_a_command_that_may_have_run_is_not_cancelled_nor_a_running_task_doubled() -> None:
    instance = instance_of()
    ahead = now() + timedelta(minutes=1)
    leased = command_of(instance, dispatches=1, due_at=ahead)
    backing_off = command_of(instance, status="pending", dispatches=1, due_at=ahead)
    signature = command_of(instance, kind="signature", dispatches=1, due_at=ahead)
    expired = command_of(instance, status="pending", expires_at=now())

    for command in (leased, backing_off):
        with pytest.raises(Refused, match="may have run"):
            commands.cancel(command.pk)
    with pytest.raises(Refused, match="may still run"):
        commands.dispatch(signature.pk)
    with pytest.raises(Refused, match="time is over"):
        commands.dispatch(expired.pk)
    commands.dispatch(leased.pk)
    leased.refresh_from_db()
    assert leased.dispatches == 2


def test_a_failed_instance_is_retried_by_its_only_open_letter() -> None:
    order_id = placed()
    Plan.raise_in = {"paid": KeyError("terminal")}
    publish(Paid(order_id=order_id))
    drain()
    instance = Instance.objects.get(key=str(order_id))
    letter = DeadLetter.objects.get()
    Plan.raise_in = {}

    assert instances.retry(instance.pk, by="ann", reason=REASON) == letter.pk
    drain()

    instance.refresh_from_db()
    assert instance.status == "started"
    assert Intervention.objects.get(instance=instance).reason == REASON
    with pytest.raises(Refused, match="has not failed"):
        instances.retry(instance.pk)


def test_of_several_letters_nobody_guesses_which_one_is_meant() -> None:
    letter = make_letter()
    assert letter.instance is not None
    twin = DeadLetter.objects.get(pk=letter.pk)
    twin.pk = None
    twin.save()

    with pytest.raises(Refused, match="several open dead letters"):
        instances.retry(letter.instance.pk)
    DeadLetter.objects.update(status="discarded", settled_at=now())
    with pytest.raises(Refused, match="no open dead letter"):
        instances.retry(letter.instance.pk)


def test_a_timer_is_moved_to_a_moment_that_is_to_come(admin_client: Client) -> None:
    timer = make_timer(instance_of())
    before = everything()

    for moment, says in (
        ("2001-01-01T00:00", "This moment has passed"),
        ("tomorrow", "Enter a valid date/time"),
        ("", "This field is required"),
    ):
        assert says in act(admin_client, "move", timer, due_at=moment).text
    assert everything() == before
    moved = act(admin_client, "move", timer, due_at="2999-01-31T12:00")

    assert told(moved) == [("success", "1 moved.")]
    timer.refresh_from_db()
    assert timer.due_at.isoformat() == "2999-01-31T12:00:00+00:00"


@pytest.mark.parametrize("resume", [True, False])
def test_a_letter_whose_instance_was_deleted_is_not_open_for_ever(resume: bool) -> None:
    letter = make_letter()
    Instance.objects.all().delete()
    with pytest.raises(Refused, match="no such instance"):
        dead_letters.retry(letter.pk)

    dead_letters.discard(letter.pk, resume=resume, by="ann", reason=REASON)

    letter.refresh_from_db()
    assert (letter.status, letter.settled_by) == ("discarded", "ann")
    assert Intervention.objects.get().letter_id == letter.pk


def test_a_timer_is_not_moved_to_where_no_database_and_no_page_can_follow(
    admin_client: Client, settings: Any
) -> None:
    settings.TIME_ZONE = "America/New_York"
    timer = make_timer(instance_of())
    before = Timer.objects.values().get()

    moved = act(admin_client, "move", timer, due_at="9999-12-31T23:59")

    assert told(moved) == [("warning", "1 not moved: the moment is too far away.")]
    assert Timer.objects.values().get() == before


def test_a_process_is_paused_and_resumed_from_the_list_of_all(admin_client: Client) -> None:
    order_id = placed()
    first = admin_client.get(list_url(Pause))
    assert {line.process for line in first.context["lines"]} >= {PROCESS}

    paused = act(admin_client, "pause", Pause(process=PROCESS))
    publish(Paid(order_id=order_id))
    drain()
    listed = admin_client.get(list_url(Pause))
    again = act(admin_client, "pause", Pause(process=PROCESS), Pause(process="none"))
    resumed = act(admin_client, "resume", Pause(process=PROCESS))
    drain()

    assert told(paused) == [("success", "1 paused.")]
    (line,) = [line for line in listed.context["lines"] if line.process == PROCESS]
    assert line.pause is not None
    assert (line.held, line.pause.paused_by, line.pause.reason) == ("1", "admin", REASON)
    assert told(again)[-1][0] == "warning"
    assert "it is paused already" in told(again)[-1][1]
    assert told(resumed)[-1] == ("success", "1 resumed.")
    assert InboxMessage.objects.get(name="tests.Paid").status == "handled"
    assert list(LogEntry.objects.values_list("object_id", flat=True)) == [PROCESS] * 2


# -- where things are --------------------------------------------------------------------------------


def test_each_message_and_command_is_found_where_it_is(admin_client: Client) -> None:
    letter = make_letter("order-f")
    instance, failed = instance_of(), letter.instance
    assert failed is not None
    ahead, past = now() + timedelta(hours=3), now() - timedelta(hours=2)
    open_ones = {"status": "pending", "handled_at": None}
    inbox = {
        "due": message_of(instance, **open_ones, due_at=past),
        "backing_off": message_of(instance, **open_ones, due_at=ahead),
        "unknown": message_of(instance, **open_ones, due_at=ahead, attempts=0),
        "waiting": message_of(instance, status="waiting", handled_at=None, due_at=ahead),
        "held": message_of(instance, **open_ones, due_at=NEVER),
        "parked": message_of(failed, status="parked", handled_at=None, due_at=NEVER),
        "dead": letter.message,
        "skipped": message_of(instance, status="skipped"),
    }
    outbox = {
        "due": command_of(instance, status="pending", due_at=past),
        "delayed": command_of(instance, status="pending", due_at=ahead),
        "backing_off": command_of(instance, status="pending", due_at=ahead, dispatches=1),
        "leased": command_of(instance, due_at=ahead),
        "lost": command_of(instance, due_at=past),
        "dead": command_of(instance, status="dead"),
        "done": command_of(instance, status="done", settled_at=now()),
    }
    make_letter("order-c", command=outbox["dead"], message=None)
    timers = {
        "due": make_timer(instance, name="a", due_at=past),
        "coming": make_timer(instance, name="b", due_at=ahead),
    }

    for model, rows in ((InboxMessage, inbox), (OutboxCommand, outbox), (Timer, timers)):
        for where, row in rows.items():
            answer = admin_client.get(list_url(model), {"where": where})
            assert [found.pk for found in answer.context["cl"].result_list] == [row.pk], where
            if where == "due":
                assert "2\xa0hours late" in answer.text
            if where in ("delayed", "coming", "waiting"):
                assert "in 2\xa0hours" in answer.text or "in 3\xa0hours" in answer.text
            if where == "held":
                assert "held by a pause" in answer.text


WHERE = {
    ("inbox", choice): "pm_inbox_due"
    for choice in ("due", "backing_off", "unknown", "waiting", "held")
} | {
    ("outbox", choice): "pm_outbox_due"
    for choice in ("due", "delayed", "backing_off", "leased", "lost")
}
WHERE |= {("inbox", "skipped"): "pm_inbox_settled_before"}
WHERE |= {("outbox", "done"): "pm_outbox_settled_before"}
WHERE |= {("timers", choice): "pm_timer_due" for choice in ("due", "coming")}
WHERE |= {("inbox", "dead"): "pm_letter_open", ("outbox", "dead"): "pm_letter_open"}


@pytest.mark.postgresql
@pytest.mark.parametrize(("table", "choice"), WHERE)
def test_each_filter_is_answered_by_an_index(table: str, choice: str) -> None:
    ask, rows = {
        "inbox": (whereabouts.MessageFilter, InboxMessage.objects.all()),
        "outbox": (whereabouts.CommandFilter, OutboxCommand.objects.all()),
        "timers": (whereabouts.TimerFilter, Timer.objects.all()),
    }[table]
    question = ask.__new__(ask)

    plan = plan_of(lambda: list(question.ids(rows, choice, now())))

    assert WHERE[table, choice] in plan
    if WHERE[table, choice].endswith("_due"):
        # And not the whole of it.
        assert re.search(r"Index Cond: \([^,]*due_at", plan), plan
