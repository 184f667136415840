"""Versions of events, commands and states: what one release stored, another one reads, or lets wait."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from pm_celery import event, execution, handle, publish, signals, upcast
from pm_celery.exceptions import InvalidMessage, Refused, UndecodablePayload
from pm_celery.export import exported
from pm_celery.messages import message_type
from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand, Transition
from pm_celery.operations import dead_letters, instances
from pm_celery.operations.editing import edit_and_retry
from pm_celery.operations.health import health
from pm_celery.operations.states import read_state
from pm_celery.process import ProcessManager
from pm_celery.publishing import publish_named
from pm_celery.registry import isolated_registries
from tests.driving import Time, advance_all, drain, run_commands
from tests.releases import release
from tests.test_shell import pm

pytestmark = pytest.mark.django_db(transaction=True)

FIRST = {"order": "o-1", "cents": 990}
SECOND = {"order": "o-1", "total": Decimal("9.90")}
NEWEST = {"order": "o-1", "total": Decimal("9.90"), "currency": "EUR"}


def instance() -> Instance:
    return Instance.objects.get(process="releases.order")


def letter() -> DeadLetter:
    return DeadLetter.objects.get(status="open")


def message(name: str = "releases.Placed", process: str = "releases.order") -> InboxMessage:
    return InboxMessage.objects.get(name=name, process=process, kind="event")


# -- events and commands -----------------------------------------------------------------------------


def test_what_an_older_release_published_is_handled_in_its_present_form_and_stays_as_it_was() -> (
    None
):
    with release(1) as old:
        publish(old.Placed(**FIRST))

    with release(3) as new:
        drain()

    assert new.of("placed") == new.of("counted") == new.of("charge") == [NEWEST]
    assert (message().version, json.loads(message().payload)) == (1, FIRST)
    assert message().status == "handled"
    assert OutboxCommand.objects.get().version == 3


def test_a_command_that_an_older_release_issued_is_run_in_its_present_form() -> None:
    with release(1) as old:
        publish(old.Placed(**FIRST))
        advance_all()

    with release(3) as new:
        drain()

    assert new.of("charge") == [NEWEST]
    command = OutboxCommand.objects.get()
    assert (command.version, json.loads(command.payload), command.status) == (1, FIRST, "done")


def test_a_dead_letter_of_an_older_release_is_retried_in_the_present_form() -> None:
    with release(1, "placed") as old:
        publish(old.Placed(**FIRST))
        advance_all()

    with release(3) as new:
        dead_letters.retry(letter().pk)
        drain()

    assert new.of("placed") == [NEWEST]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("broken", "told"), [("placed", "failed"), ("charge", "not_charged")])
def test_a_notice_of_what_failed_in_an_older_release_brings_it_in_the_present_form(
    broken: str, told: str, version: int
) -> None:
    with release(version, broken) as old:
        publish(old.Placed(**(FIRST if version == 1 else SECOND)))
        drain()
        notices = InboxMessage.objects.filter(kind__in=["failure", "command_failed"])
        notices.update(status="pending", due_at=notices.get().published_at)
        Instance.objects.filter(pk=instance().pk).update(
            status="failed" if broken == "placed" else "started"
        )

    with release(3) as new:
        drain()

    assert new.of(told) == [NEWEST]


def test_an_event_that_nobody_knew_is_routed_in_its_present_form() -> None:
    publish_named("releases.Placed", FIRST, "e-1")

    with release(3) as new:
        drain()

    assert new.of("placed") == [NEWEST]
    assert (message().version, message("releases.Placed", "").version) == (3, 1)


@pytest.mark.parametrize("version", [1, 2])
def test_another_service_says_which_version_it_writes(version: int) -> None:
    payload = FIRST if version == 1 else {"order": "o-1", "total": "9.90"}

    with release(3) as new:
        publish_named("releases.Placed", payload, "e-1", version=version)
        drain()

    assert new.of("placed") == [NEWEST]


def test_a_newer_version_from_another_service_waits_for_the_release_that_knows_it(
    time: Time,
) -> None:
    with release(1):
        publish_named("releases.Placed", {"order": "o-1", "total": "9.90"}, "e-1", version=2)
        drain()
    assert not DeadLetter.objects.exists()

    with release(3) as new:
        time.elapse("15s")

    assert new.of("placed") == [NEWEST]


@pytest.mark.any_database
@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None, [1], 32768])
def test_a_version_that_can_be_none_is_refused(version: Any) -> None:
    with release(3), pytest.raises(InvalidMessage, match=r"version=.*whole number from 1"):
        publish_named("releases.Placed", FIRST, "e-1", version=version)

    assert not InboxMessage.objects.exists()


def test_an_event_that_comes_again_after_an_upgrade_is_no_other_one() -> None:
    with release(1):
        publish_named("releases.Placed", FIRST, "e-1")

    with release(3):
        publish_named("releases.Placed", FIRST, "e-1")
        assert not DeadLetter.objects.exists()
        publish_named("releases.Placed", {**FIRST, "cents": 1}, "e-1")

    assert set(DeadLetter.objects.values_list("exception", flat=True)) == {"EventIdConflict"}


def test_an_upcast_that_raises_is_the_failure_of_that_message_and_says_so() -> None:
    with release(1) as old:
        publish(old.Placed(order="o-1", cents=-5))
        publish(old.Placed(order="o-2", cents=990))

    with release(3) as new:
        drain()

    # It may have run beside the other one first, in a batch that was rolled back.
    assert new.of("placed")[-1] == {**NEWEST, "order": "o-2"}
    (found,) = DeadLetter.objects.filter(process="releases.order")
    assert found.exception == "UndecodablePayload"
    assert "is of version 1" in found.error
    assert "in_whole_units raised ValueError: -5 cents?" in found.error


@pytest.mark.any_database
@pytest.mark.parametrize("returned", [None, "payload", {"total": object()}])
def test_an_upcast_that_returns_no_payload_is_named(returned: Any) -> None:
    @event(name="releases.Odd", version=2)
    class Odd:
        total: int

    @upcast(Odd, from_version=1)
    def to_second(payload: Any) -> Any:
        return returned

    with pytest.raises(UndecodablePayload, match="to_second raised"):
        message_type(Odd, "event").decode("{}", 1)


@pytest.mark.any_database
def test_without_an_upcast_an_older_payload_is_read_as_it_is() -> None:
    @event(name="releases.Plain", version=3)
    class Plain:
        order: str
        note: str = "none"

    declared = message_type(Plain, "event")

    assert declared.decode('{"order": "o-1"}', 1) == Plain(order="o-1")  # type: ignore[call-arg]
    with pytest.raises(UndecodablePayload, match=r"write @upcast\(Plain, from_version=1\)"):
        declared.decode('{"no": "o-1"}', 1)


@pytest.mark.any_database
def test_an_upcast_gets_values_as_they_are_stored_and_its_result_is_validated() -> None:
    @event(name="releases.Large", version=2)
    class Large:
        number: int
        share: float
        text: str
        total: Decimal

    @upcast(Large, from_version=1)
    def to_second(payload: dict[str, Any]) -> dict[str, Any]:
        return {**payload, "total": Decimal("1.10")}

    found = message_type(Large, "event").decode(
        '{"number": 1208925819614629174706177, "share": 0.1, "text": "\\u2028 🙂"}', 1
    )

    assert found == Large(2**80 + 1, 0.1, "\u2028 🙂", Decimal("1.10"))  # type: ignore[call-arg]
    assert str(found.total) == "1.10"


def test_a_command_of_a_newer_version_waits_and_is_announced(time: Time) -> None:
    news: list[dict[str, Any]] = []

    def note(**found: Any) -> None:
        news.append(found)

    with release(2) as new:
        publish(new.Placed(order="o-1", total=Decimal("9.90")))
        advance_all()
    signals.unknown_message.connect(note)
    try:
        with release(1) as old:
            assert run_commands() == 0  # it waits
            execution.run_each([str(OutboxCommand.objects.get().command_id)])
            assert "unknown_messages" in {problem.code for problem in health().problems}
    finally:
        signals.unknown_message.disconnect(note)
    assert (old.told, DeadLetter.objects.count()) == ([], 0)
    assert [(found["name"], found["version"]) for found in news] == 2 * [("releases.Charge", 2)]

    with release(3) as new:
        time.elapse("1m")

    assert new.of("charge") == [NEWEST]


def test_a_notice_of_a_newer_command_waits(time: Time) -> None:
    with release(2, "charge") as new:
        publish(new.Placed(order="o-1", total=Decimal("9.90")))
        drain()
        notices = InboxMessage.objects.filter(kind="command_failed")
        notices.update(status="pending", due_at=notices.get().published_at)
        # An older worker is to be kept from it by the command's version alone.
        Instance.objects.update(state_version=1)

    for handles_it in (True, False):
        with release(1) as old:
            if not handles_it:
                old.Order.definition.command_failed_handlers.clear()
                old.Order.definition.failure_handler = None
            drain()
        assert (old.told, notices.get().status, DeadLetter.objects.count()) == ([], "pending", 1)
        notices.update(due_at=notices.get().published_at)

    Instance.objects.update(state_version=2)
    with release(3) as newest:
        time.elapse("15s")
    assert newest.of("not_charged") == [NEWEST]


def test_a_letter_about_a_newer_version_is_retried_by_the_release_that_knows_it(time: Time) -> None:
    with release(2):
        publish_named("releases.Placed", {"order": "o-1"}, "e-1", version=2)
    assert letter().exception == "UndecodablePayload"

    with release(1), pytest.raises(Refused, match="up to version 1, and not version 2"):
        dead_letters.retry(letter().pk)

    InboxMessage.objects.update(payload='{"order": "o-1", "total": "9.90"}')
    with release(3) as new:
        dead_letters.retry(letter().pk)
        drain()
    assert new.of("placed") == [NEWEST]


def test_an_old_event_whose_key_was_unusable_is_correlated_again_in_its_present_form() -> None:
    with release(1) as old:
        publish(old.Placed(order="", cents=990))
    InboxMessage.objects.filter(status="dead").update(payload=json.dumps(FIRST))

    with release(3) as new:
        dead_letters.retry(letter().pk)
        drain()

    assert new.of("placed") == [NEWEST]
    assert message().version == 1


def test_an_old_payload_is_edited_in_its_own_version(settings: Any) -> None:
    settings.PM_CELERY = {"EDIT_PAYLOADS": True}
    with release(1, "placed") as old:
        publish(old.Placed(order="o-1", cents=-5))
        advance_all()

    with release(3) as new:
        with pytest.raises(Refused, match="in_whole_units raised KeyError: 'cents'"):
            edit_and_retry(letter().pk, '{"order": "o-1", "total": "9.90", "currency": "EUR"}')
        edit_and_retry(letter().pk, json.dumps(FIRST))
        drain()

    assert new.of("placed") == [NEWEST]
    assert message().version == 3


# -- states ------------------------------------------------------------------------------------------


def test_a_state_of_an_older_release_is_upgraded_when_it_is_loaded_and_stored_with_the_next_transition(
    admin_client: Client,
) -> None:
    with release(1) as old:
        publish(old.Placed(**FIRST))
        drain()

    with release(3) as new:
        publish(new.Asked("o-1"))
        drain()
        publish(new.Asked("o-1"))
        drain()

        steps = list(Transition.objects.order_by("number"))
        assert new.of("asked")[0] == {"asked": 0, "total": Decimal("9.90"), "currency": "EUR"}
        assert [step.state_version for step in steps] == [1, 3, 3]
        assert json.loads(steps[0].state) == {"asked": 0, "cents": 990}
        assert (instance().state, instance().state_version) == (steps[-1].state, 3)
        shown = read_state("releases.order", steps[0].state, 1)
        assert shown.data == {"asked": 0, "cents": 990}
        assert shown.problem == "it is of version 1, and this release has version 3"
        page = reverse("admin:pm_celery_instance_change", args=[instance().pk])
        for at in (1, 2, 3):
            answer = admin_client.get(page, {"at": at})
            assert (answer.status_code, "990" in answer.text) == (200, True)
        first = pm("show", "releases.order", "o-1", "--at", 1, "--json").document
        assert (first["state_version"], first["state"]["cents"]) == (1, 990)
        assert pm("show", "releases.order", "o-1", "--json").document["state_version"] == 3
        (document,) = exported()
        assert document["state_version"] == 3
        assert [step["state"].get("cents") for step in document["transitions"]] == [990, None, None]


def test_an_instance_whose_state_is_newer_waits_for_the_release_that_knows_it(time: Time) -> None:
    """In order, and without a dead letter; what needs no state goes on."""
    news: list[dict[str, Any]] = []

    def note(**found: Any) -> None:
        news.append(found)

    with release(2) as new:
        for order in ("o-1", "o-2"):
            publish(new.Placed(order=order, total=Decimal("9.90")))
        drain()
        ended = Instance.objects.filter(key="o-2")
        ended.update(status="completed", ended_at=instance_of("o-2").changed_at)

    signals.unknown_message.connect(note)
    try:
        with release(1) as old:
            publish(old.Asked("o-1"))
            publish(old.Placed(**FIRST))
            publish(old.Asked("o-2"))
            drain()
            time.elapse("1h")
    finally:
        signals.unknown_message.disconnect(note)

    waiting = InboxMessage.objects.filter(key="o-1", status="pending")
    assert [(row.name, row.attempts) for row in waiting] == [
        ("releases.Asked", 0),
        ("releases.Placed", 0),
    ]
    assert InboxMessage.objects.get(key="o-2", name="releases.Asked").status == "skipped"
    assert old.of("asked") == old.of("placed") == []
    assert not DeadLetter.objects.exists()
    assert "the state of releases.order up to version 1, and not version 2" in news[0]["why"]

    with release(3) as newest:
        time.elapse("15s")

    assert [place for place, _ in newest.told if place != "charge"][:1] == ["asked"]
    assert instance_of("o-1").state_version == 3
    assert newest.of("placed") == [NEWEST]


def instance_of(key: str) -> Instance:
    return Instance.objects.get(process="releases.order", key=key)


def test_an_upgrade_that_raises_is_a_failure_that_says_so_and_can_be_retried() -> None:
    with release(1) as old:
        publish(old.Placed(order="o-1", cents=-5))
        drain()

    with release(3) as new:
        publish(new.Asked("o-1"))
        drain()
        assert letter().exception == "UndecodableState"
        assert "is of version 1" in letter().error
        assert "upgrade_state(…, 1) raised ValueError: -5 cents?" in letter().error
        assert (instance().status, instance().state_version) == ("failed", 1)

        Instance.objects.update(state='{"asked": 0, "cents": 990}')
        dead_letters.retry(letter().pk)
        drain()
        assert new.of("asked") == [{"asked": 0, "total": Decimal("9.90"), "currency": "EUR"}]


def test_whatever_becomes_of_an_instance_its_rows_say_of_which_version_its_state_is() -> None:
    with release(2) as old:
        publish(old.Placed(**SECOND))
        drain()
    with release(3, "placed") as new:
        # Nobody loads the state for that.
        instances.cancel(instance().pk)
        publish(new.Placed(**{**NEWEST, "order": "o-2"}))
        drain()

    cancelled, failed = instance_of("o-1"), instance_of("o-2")
    assert (cancelled.status, cancelled.state_version) == ("cancelled", 2)
    assert (failed.state_version, failed.number) == (3, 2)
    versions = Transition.objects.order_by("number").values_list("state_version", flat=True)
    assert list(versions.filter(instance=cancelled)) == [2, 2]
    assert list(versions.filter(instance=failed)) == [3, 3]


def test_a_notice_for_a_newer_state_is_left_alone_by_a_release_that_has_no_handler_for_it() -> None:
    with release(2, "charge") as new:
        publish(new.Placed(**SECOND))
        drain()
        notices = InboxMessage.objects.filter(kind="command_failed")
        notices.update(status="pending", due_at=notices.get().published_at, version=1)

    with release(1) as old:
        old.Order.definition.command_failed_handlers.clear()
        old.Order.definition.failure_handler = None
        drain()

    assert notices.get().status == "pending"


def test_a_state_of_an_older_version_without_an_upgrade_is_read_as_it_is() -> None:
    with isolated_registries():

        @event(name="releases.Begun")
        class Begun:
            order: str

        def declare(version: int) -> type[ProcessManager]:
            class Plain(ProcessManager):
                asked: int = 0

                class Meta:
                    name = "releases.plain"
                    correlate = "order"
                    state_version = version

                @handle(Begun, start=True)
                def begun(self, event: Any) -> None:
                    self.asked += 1

            return Plain

        with isolated_registries():
            declare(1)
            publish(Begun("o-1"))  # type: ignore[call-arg]
            drain()
        declare(2)
        publish(Begun("o-1"))  # type: ignore[call-arg]
        drain()

    found = Instance.objects.get()
    assert (json.loads(found.state), found.state_version) == ({"asked": 2}, 2)
