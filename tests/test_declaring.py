"""What users declare: process managers, their handlers and options, and policies."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel

from pm_celery import (
    ProcessManager,
    Reaction,
    Retry,
    Wait,
    command,
    command_handler,
    event,
    handle,
    on_timeout,
    policy,
    publish,
    publish_many,
)
from pm_celery.checks import check_declarations
from pm_celery.exceptions import DeclarationError
from pm_celery.messages import message_type
from pm_celery.models import DeadLetter, InboxMessage, Instance, OutboxCommand, Transition
from pm_celery.registry import isolated_registries
from pm_celery.testing import given
from tests.driving import Time, drain

pytestmark = pytest.mark.django_db(transaction=True)


@event(name="declaring.ParcelRegistered")
class ParcelRegistered:
    parcel: UUID
    sender: str = ""


@event(name="declaring.ParcelScanned")
class ParcelScanned:
    parcel: UUID
    depot: str = ""


@event(name="declaring.ParcelReturned")
class ParcelReturned:
    parcel: UUID


@event(name="declaring.ParcelDelivered")
class ParcelDelivered:
    parcel: UUID


@command(name="declaring.Notify")
class Notify:
    parcel: UUID


PARCEL = UUID(int=7)

notified: list[UUID] = []


@command_handler(Notify)
def notify(command: Notify) -> None:
    notified.append(command.parcel)


@pytest.fixture(autouse=True)
def _nobody_is_notified_yet() -> None:
    notified.clear()


def reported(cls: Any) -> dict[str, str]:
    """What the system checks say of one class: text and hint, by id."""
    where = f"{cls.__module__}.{cls.__qualname__}"
    return {
        str(message.id).removeprefix("pm_celery."): f"{message.msg} | {message.hint}"
        for message in check_declarations()
        if where in message.msg
    }


def handler_of(process: type[ProcessManager], declared: type) -> Any:
    return process.definition.event_handlers[message_type(declared, "event")]


# -- state and handlers ------------------------------------------------------------------------------


def test_annotated_attributes_are_the_state_and_their_defaults_are_its_beginning() -> None:
    """Conformance 1."""

    class Parcel(ProcessManager):
        parcel: UUID | None = None
        weight: Decimal = Decimal("0.5")
        depots: list[str] = field(default_factory=list)
        carrier = "not annotated, so no state"

        @handle(ParcelRegistered, start=True, end=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

    first, second = Parcel.definition.initial(), Parcel.definition.initial()

    assert [f.name for f in dataclasses.fields(first)] == ["parcel", "weight", "depots"]  # type: ignore[arg-type]
    assert (first.parcel, first.weight, first.depots) == (None, Decimal("0.5"), [])  # type: ignore[attr-defined]
    assert first.depots is not second.depots  # type: ignore[attr-defined]


def test_each_handler_is_bound_to_exactly_one_event_class() -> None:
    """Conformance 1."""

    class Parcel(ProcessManager):
        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

        @handle(ParcelDelivered, end=True, correlate="parcel")
        def delivered(self, event: ParcelDelivered) -> None: ...

    bound = {h.event.cls: h.method for h in Parcel.definition.event_handlers.values()}

    assert bound == {ParcelRegistered: "registered", ParcelDelivered: "delivered"}


def test_a_subclass_inherits_fields_handlers_and_options() -> None:
    """Conformance 1."""

    class Parcel(ProcessManager):
        depot: str = "north"

        class Meta:
            abstract = True
            correlate = "parcel"
            timeout = "2d"

        @handle(ParcelRegistered, start=True)
        def registered(self, event: ParcelRegistered) -> None: ...

    class Letter(Parcel):
        stamps: int = 1

        @handle(ParcelDelivered, end=True)
        def delivered(self, event: ParcelDelivered) -> None: ...

    definition = Letter.definition

    assert {h.event.cls for h in definition.event_handlers.values()} == {
        ParcelRegistered,
        ParcelDelivered,
    }
    assert [f.name for f in dataclasses.fields(Letter)] == ["depot", "stamps"]  # type: ignore[arg-type]
    assert definition.timeout == timedelta(days=2)
    assert handler_of(Letter, ParcelRegistered).correlate == "parcel"
    assert not definition.abstract


@pytest.mark.parametrize("decorate", [dataclass, lambda cls: cls], ids=["dataclass", "plain"])
def test_the_annotated_attributes_of_a_mixin_are_state_as_well(decorate: Any) -> None:
    """Conformance 1. What a handler stores in them would silently be lost."""

    @decorate
    class HasDepots:
        depots: str = ""

    class ParcelWithMixin(HasDepots, ProcessManager):
        @handle(ParcelScanned, start=True, correlate="parcel")
        def scanned(self, event: ParcelScanned) -> None:
            self.depots += event.depot

    parcel = given(ParcelWithMixin, ParcelScanned(PARCEL, "north "), ParcelScanned(PARCEL, "south"))

    assert parcel.state.depots == "north south"


def test_an_abstract_process_hears_nothing() -> None:
    """Conformance 1."""

    class AbstractParcel(ProcessManager):
        class Meta:
            abstract = True

        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

    event_id = publish(ParcelRegistered(parcel=uuid4()))

    assert not InboxMessage.objects.filter(message_id=event_id).exists()
    assert reported(AbstractParcel) == {}


def test_a_meta_that_inherits_an_abstract_one_is_not_abstract_itself() -> None:
    """Conformance 1. As in Django's models: or the process would silently hear nothing."""

    class ParcelBase(ProcessManager):
        class Meta:
            abstract = True
            correlate = "parcel"

        @handle(ParcelRegistered, start=True)
        def registered(self, event: ParcelRegistered) -> None: ...

    class ParcelOfNow(ParcelBase):
        class Meta(ParcelBase.Meta):
            timeout = "1d"

    assert not ParcelOfNow.definition.abstract
    publish(ParcelRegistered(parcel=uuid4()))
    drain()
    assert Instance.objects.filter(process="tests.ParcelOfNow").count() == 1


def test_an_option_of_the_base_class_is_overridden_by_the_subclass() -> None:
    """Conformance 4."""

    class ParcelBase(ProcessManager):
        class Meta:
            abstract = True
            timeout = "2d"
            retry = Retry("fixed", max_retries=1)
            correlate = "parcel"

        @handle(ParcelRegistered, start=True)
        def registered(self, event: ParcelRegistered) -> None: ...

    class SlowParcel(ParcelBase):
        class Meta(ParcelBase.Meta):
            abstract = False
            timeout = "9d"

    assert SlowParcel.definition.timeout == timedelta(days=9)
    assert SlowParcel.definition.retry == Retry("fixed", max_retries=1)


def test_events_are_plain_classes_dataclasses_or_pydantic_models() -> None:
    """Conformance 1."""

    @event(name="declaring.Plain")
    class Plain:
        parcel: UUID

    @event(name="declaring.Frozen")
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Frozen:
        parcel: UUID
        depots: list[str] = field(default_factory=list)

    @event(name="declaring.Model")
    class Model(BaseModel):
        parcel: UUID
        weight: Decimal = Decimal(1)

    heard: list[object] = []

    class ParcelOfAnySort(ProcessManager):
        class Meta:
            correlate = "parcel"

        @handle(Plain, start=True)
        def plain(self, event: Plain) -> None:
            heard.append(event)

        @handle(Frozen)
        def frozen(self, event: Frozen) -> None:
            heard.append(event)

        @handle(Model, end=True)
        def model(self, event: Model) -> None:
            heard.append(event)

    parcel = uuid4()
    sent = [
        Plain(parcel=parcel),  # type: ignore[call-arg]
        Frozen(parcel=parcel, depots=["north"]),
        Model(parcel=parcel, weight=Decimal("2.50")),
    ]

    publish_many(sent)
    drain()

    assert heard == sent
    assert [type(e) for e in heard] == [Plain, Frozen, Model]


def test_a_plain_class_becomes_immutable_when_it_is_declared_an_event() -> None:
    """Conformance 1."""
    registered = ParcelRegistered(parcel=uuid4())

    with pytest.raises(dataclasses.FrozenInstanceError):
        registered.sender = "another"


def test_the_class_is_documented_as_its_author_wrote_it() -> None:
    """Conformance 1."""

    class Parcel(ProcessManager):
        """Follows a parcel."""

        @handle(ParcelRegistered, start=True, end=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None:
            """Begins."""

    assert Parcel.__doc__ == "Follows a parcel."
    assert Parcel.registered.__doc__ == "Begins."


# -- correlate ---------------------------------------------------------------------------------------


def test_correlate_names_a_field_of_the_event() -> None:
    """Conformance 2."""

    class ParcelByField(ProcessManager):
        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

    assert given(ParcelByField, ParcelRegistered(PARCEL)).key == str(PARCEL)


def test_a_mapping_sets_the_state_s_field_from_the_event_s() -> None:
    """Conformance 2."""
    seen: list[UUID | None] = []

    class ParcelByMapping(ProcessManager):
        number: UUID | None = None

        @handle(ParcelRegistered, start=True, correlate={"number": "parcel"})
        def registered(self, event: ParcelRegistered) -> None:
            seen.append(self.number)

        @handle(ParcelDelivered, correlate={"number": "parcel"})
        def delivered(self, event: ParcelDelivered) -> None:
            seen.append(self.number)

    parcel = given(ParcelByMapping, ParcelRegistered(PARCEL), ParcelDelivered(PARCEL))

    assert seen == [PARCEL, PARCEL]
    assert parcel.state.number == PARCEL


def test_a_mapping_sets_the_state_also_for_an_event_that_only_meta_lists() -> None:
    """Conformance 2."""

    class ParcelListed(ProcessManager):
        number: UUID | None = None

        class Meta:
            started_by = [ParcelRegistered]
            completed_by = [ParcelDelivered]
            correlate = {"number": "parcel"}

    assert given(ParcelListed, ParcelRegistered(PARCEL)).state.number == PARCEL


def test_correlate_may_be_a_function_of_the_event() -> None:
    """Conformance 2."""

    class ParcelByFunction(ProcessManager):
        @handle(ParcelScanned, start=True, correlate=lambda event: f"{event.depot}/{event.parcel}")
        def scanned(self, event: ParcelScanned) -> None: ...

    assert given(ParcelByFunction, ParcelScanned(PARCEL, "north")).key == f"north/{PARCEL}"


def test_one_correlate_in_meta_serves_all_handlers_and_a_handler_may_have_its_own() -> None:
    """Conformance 2."""

    class ParcelByMeta(ProcessManager):
        class Meta:
            @staticmethod
            def correlate(event: Any) -> str:
                return f"P-{event.parcel}"

        @handle(ParcelRegistered, start=True)
        def registered(self, event: ParcelRegistered) -> None: ...

        @handle(ParcelScanned, start=True, correlate="depot")
        def scanned(self, event: ParcelScanned) -> None: ...

    assert given(ParcelByMeta, ParcelRegistered(PARCEL)).key == f"P-{PARCEL}"
    assert given(ParcelByMeta, ParcelScanned(PARCEL, "north")).key == "north"


def test_a_lambda_in_meta_is_called_with_the_event() -> None:
    """Conformance 2."""

    class ParcelByLambda(ProcessManager):
        class Meta:
            correlate = lambda event: event.parcel  # noqa: E731

        @handle(ParcelRegistered, start=True)
        def registered(self, event: ParcelRegistered) -> None: ...

    assert given(ParcelByLambda, ParcelRegistered(PARCEL)).key == str(PARCEL)


# -- start-up errors ---------------------------------------------------------------------------------


def test_a_process_without_a_start_event_is_a_start_up_error() -> None:
    """Conformance 3."""

    class Parcel(ProcessManager):
        @handle(ParcelDelivered, correlate="parcel", end=True)
        def delivered(self, event: ParcelDelivered) -> None: ...

    text = reported(Parcel)["E001"]

    assert "Parcel" in text
    assert "start=True" in text
    assert "Meta.started_by" in text


def test_a_handler_without_correlate_is_a_start_up_error() -> None:
    """Conformance 3."""

    class Parcel(ProcessManager):
        @handle(ParcelRegistered, start=True)
        def registered(self, event: ParcelRegistered) -> None: ...

    text = reported(Parcel)["E002"]

    assert "Parcel.registered()" in text
    assert "correlate=" in text
    assert "Meta.correlate" in text


@pytest.mark.parametrize("target", [dict, Notify, int, "ParcelRegistered", None])
def test_a_target_that_is_no_event_is_a_start_up_error(target: Any) -> None:
    """Conformance 3."""

    class Parcel(ProcessManager):
        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

        @handle(target, correlate="parcel")
        def confused(self, event: Any) -> None: ...

    text = reported(Parcel)["E003"]

    assert "Parcel.confused()" in text
    assert "@event" in text


def test_an_event_s_undecorated_subclass_is_no_event() -> None:
    """Conformance 3. Its name on the wire would be its parent's."""

    class ExpressParcelRegistered(ParcelRegistered):
        pass

    class Parcel(ProcessManager):
        @handle(ExpressParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ExpressParcelRegistered) -> None: ...

    assert "ExpressParcelRegistered" in reported(Parcel)["E003"]


def test_two_handlers_for_one_event_are_a_start_up_error() -> None:
    """Conformance 3."""

    class Parcel(ProcessManager):
        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

        @handle(ParcelRegistered, correlate="parcel")
        def registered_too(self, event: ParcelRegistered) -> None: ...

    text = reported(Parcel)["E004"]

    assert "Parcel.registered_too()" in text
    assert ".registered()" in text
    assert "ParcelRegistered" in text


def test_a_subclass_that_handles_its_parent_s_event_again_is_a_start_up_error() -> None:
    """Conformance 3."""

    class ParcelBase(ProcessManager):
        class Meta:
            abstract = True

        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

    class Parcel(ParcelBase):
        @handle(ParcelRegistered, start=True, correlate="parcel")
        def arrived(self, event: ParcelRegistered) -> None: ...

    assert "E004" in reported(Parcel)


def test_a_subclass_may_override_a_handler_of_the_same_name() -> None:
    """Conformance 3."""

    class ParcelBase(ProcessManager):
        class Meta:
            abstract = True

        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

    class Parcel(ParcelBase):
        @handle(ParcelRegistered, start=True, end=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

    assert Parcel.definition.problems == []
    assert handler_of(Parcel, ParcelRegistered).end


@pytest.mark.parametrize("correlate", ["parcell", {"parcel": "parcell"}])
def test_a_correlate_that_names_no_field_of_the_event_is_a_start_up_error(correlate: Any) -> None:
    """Conformance 3."""

    class Parcel(ProcessManager):
        parcel: UUID | None = None

        @handle(ParcelRegistered, start=True, correlate=correlate)
        def registered(self, event: ParcelRegistered) -> None: ...

    text = reported(Parcel)["E005"]

    assert "Parcel.registered()" in text
    assert "'parcell'" in text
    assert "Did you mean 'parcel'?" in text


def test_a_correlate_that_names_no_field_of_a_pydantic_event_is_a_start_up_error() -> None:
    """Conformance 3."""

    @event(name="declaring.Weighed")
    class Weighed(BaseModel):
        parcel: UUID

    class Parcel(ProcessManager):
        @handle(Weighed, start=True, correlate="order")
        def weighed(self, event: Weighed) -> None: ...

    assert "'order', which Weighed lacks" in reported(Parcel)["E005"]


def test_a_correlate_that_names_no_field_of_the_state_is_a_start_up_error() -> None:
    """Conformance 3."""

    class Parcel(ProcessManager):
        number: UUID | None = None

        @handle(ParcelRegistered, start=True, correlate={"nummer": "parcel"})
        def registered(self, event: ParcelRegistered) -> None: ...

    text = reported(Parcel)["E005"]

    assert "Parcel.registered()" in text
    assert "'nummer'" in text
    assert "nummer: UUID | None = None" in text


@pytest.mark.parametrize(
    "correlate", ["", 7, {}, [], ["parcel"], {"a": "parcel", "b": "parcel"}, {"a": 1}, UUID(int=0)]
)
def test_a_correlate_of_an_unknown_sort_is_a_start_up_error(correlate: Any) -> None:
    """Conformance 3."""

    class Parcel(ProcessManager):
        @handle(ParcelRegistered, start=True, correlate=correlate)
        def registered(self, event: ParcelRegistered) -> None: ...

    assert "E005" in reported(Parcel)


def test_a_correlate_that_must_be_awaited_is_a_start_up_error() -> None:
    """Conformance 3. Every event would become a dead letter: a coroutine is no key."""

    async def ask(event: Any) -> str:
        return str(event.parcel)

    class Parcel(ProcessManager):
        @handle(ParcelRegistered, start=True, correlate=ask)
        def registered(self, event: ParcelRegistered) -> None: ...

    assert "E005" in reported(Parcel)


def test_an_event_listed_in_meta_that_lacks_the_correlate_s_field_is_a_start_up_error() -> None:
    """Conformance 3."""

    @event(name="declaring.TruckLeft")
    class TruckLeft:
        truck: str

    class Parcel(ProcessManager):
        class Meta:
            correlate = "parcel"
            completed_by = [TruckLeft]

        @handle(ParcelRegistered, start=True)
        def registered(self, event: ParcelRegistered) -> None: ...

    text = reported(Parcel)["E005"]

    assert ".Meta (TruckLeft)" in text
    assert "truck" in text


def test_every_mistake_of_a_class_is_named_at_once() -> None:
    """Conformance 3."""

    class Parcel(ProcessManager):
        class Meta:
            timout = "1d"
            retry = "often"

        @handle(ParcelDelivered, end=True)
        def delivered(self, event: ParcelDelivered) -> None: ...

        @handle(dict, correlate="parcel")
        def confused(self, event: Any) -> None: ...

    problems = [(p.id, p.text) for p in Parcel.definition.problems]

    assert sorted(id for id, _ in problems) == ["E001", "E002", "E003", "E008", "E008"]


def test_publishing_to_a_broken_process_raises_and_writes_nothing() -> None:
    """Conformance 3. Its event would be lost silently else."""

    class BrokenParcel(ProcessManager):
        @handle(ParcelRegistered, start=True)
        def registered(self, event: ParcelRegistered) -> None: ...

    class SoundParcel(ProcessManager):
        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

    with pytest.raises(DeclarationError, match=r"BrokenParcel.*Meta\.correlate.*pm_celery\.E002"):
        publish(ParcelRegistered(parcel=uuid4()))

    assert not InboxMessage.objects.exists()


# -- Meta --------------------------------------------------------------------------------------------


def test_meta_lists_several_start_events_and_several_end_events() -> None:
    """Conformance 4."""

    class ParcelOfLists(ProcessManager):
        class Meta:
            started_by = [ParcelRegistered, ParcelScanned]
            completed_by = (ParcelReturned, ParcelDelivered)
            correlate = "parcel"

    parcels = [uuid4() for _ in range(4)]
    publish(ParcelRegistered(parcel=parcels[0]))
    publish(ParcelScanned(parcel=parcels[1]))
    publish(ParcelReturned(parcel=parcels[0]))
    publish(ParcelDelivered(parcel=parcels[1]))
    publish(ParcelDelivered(parcel=parcels[2]))
    publish(ParcelRegistered(parcel=parcels[3]))
    drain()

    statuses = dict(
        Instance.objects.filter(process="tests.ParcelOfLists").values_list("key", "status")
    )
    assert statuses == {
        str(parcels[0]): "completed",
        str(parcels[1]): "completed",
        str(parcels[3]): "started",
    }


def test_an_event_listed_in_completed_by_needs_no_method_and_no_correlate_of_its_own() -> None:
    """Conformance 4."""

    class ParcelWithoutEnd(ProcessManager):
        class Meta:
            completed_by = [ParcelDelivered]

        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

        @handle(ParcelScanned, correlate="parcel")
        def scanned(self, event: ParcelScanned) -> None: ...

    parcel = uuid4()
    publish(ParcelRegistered(parcel=parcel))
    publish(ParcelDelivered(parcel=parcel))
    drain()

    instance = Instance.objects.get(process="tests.ParcelWithoutEnd")
    last = Transition.objects.get(instance=instance, number=2)
    assert instance.status == last.status == "completed"
    assert (last.name, last.handler) == ("declaring.ParcelDelivered", "")


def test_a_method_for_an_event_listed_in_meta_is_run_as_well() -> None:
    """Conformance 4."""

    class ParcelOfBoth(ProcessManager):
        signed: bool = False

        class Meta:
            started_by = [ParcelRegistered]
            completed_by = [ParcelDelivered]
            correlate = "parcel"

        @handle(ParcelDelivered)
        def delivered(self, event: ParcelDelivered) -> None:
            self.signed = True

    parcel = uuid4()
    publish(ParcelRegistered(parcel=parcel))
    publish(ParcelDelivered(parcel=parcel))
    drain()

    instance = Instance.objects.get(process="tests.ParcelOfBoth")
    assert instance.status == "completed"
    assert ParcelOfBoth.definition.load(instance.state).signed is True  # type: ignore[attr-defined]


def test_one_event_may_start_and_end_an_instance() -> None:
    """Conformance 4."""

    class ParcelAtOnce(ProcessManager):
        class Meta:
            correlate = "parcel"
            started_by = [ParcelRegistered]
            completed_by = [ParcelRegistered]

    publish(ParcelRegistered(parcel=uuid4()))
    drain()

    instance = Instance.objects.get(process="tests.ParcelAtOnce")
    assert (instance.status, instance.number) == ("completed", 1)


def test_timeout_and_retry_are_declared_in_meta_and_a_handler_may_have_its_own_retry() -> None:
    """Conformance 4."""
    own, common = Retry("none"), Retry("linear", max_retries=7)

    class Parcel(ProcessManager):
        class Meta:
            timeout = "36h"
            retry = common
            correlate = "parcel"

        @handle(ParcelRegistered, start=True)
        def registered(self, event: ParcelRegistered) -> None: ...

        @handle(ParcelDelivered, end=True, retry=own)
        def delivered(self, event: ParcelDelivered) -> None: ...

    assert Parcel.definition.timeout == timedelta(hours=36)
    assert handler_of(Parcel, ParcelRegistered).retry == common
    assert handler_of(Parcel, ParcelDelivered).retry == own


@pytest.mark.parametrize("listed", [ParcelDelivered, "ParcelDelivered", {ParcelDelivered}])
def test_an_event_list_that_is_no_list_is_a_start_up_error(listed: Any) -> None:
    """Conformance 4."""

    class Parcel(ProcessManager):
        class Meta:
            completed_by = listed

        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

    assert ".Meta.completed_by is no list" in reported(Parcel)["E008"]


def test_a_listed_class_that_is_no_event_is_a_start_up_error() -> None:
    """Conformance 4."""

    class Parcel(ProcessManager):
        class Meta:
            completed_by = [Notify]

        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

    assert ".Meta.completed_by" in reported(Parcel)["E003"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("30s", timedelta(seconds=30)),
        ("1m", timedelta(minutes=1)),
        ("24h", timedelta(days=1)),
        ("7d", timedelta(days=7)),
        ("1d12h30m", timedelta(days=1, hours=12, minutes=30)),
        (timedelta(hours=5), timedelta(hours=5)),
    ],
)
def test_a_timeout_is_written_as_people_write_durations(written: Any, meant: timedelta) -> None:
    """Conformance 5."""

    class Parcel(ProcessManager):
        class Meta:
            timeout = written

        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

    assert Parcel.definition.timeout == meant
    assert Parcel.definition.problems == []


@pytest.mark.parametrize("written", ["7 fortnights", "", "0s", "-1h", 60, timedelta(0)])
def test_a_timeout_that_is_no_duration_is_a_start_up_error(written: Any) -> None:
    """Conformance 5."""

    class Parcel(ProcessManager):
        class Meta:
            timeout = written

        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

    assert ".Meta.timeout" in reported(Parcel)["E008"]


@pytest.mark.parametrize("written", [Wait("soon"), Wait("0s"), Wait(5), "wait", "1h", 3])  # type: ignore[arg-type]
def test_an_unmatched_policy_that_cannot_be_is_a_start_up_error(written: Any) -> None:
    """Conformance 3."""

    class Parcel(ProcessManager):
        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

        @handle(ParcelDelivered, correlate="parcel", end=True, unmatched=written)
        def delivered(self, event: ParcelDelivered) -> None: ...

    text = reported(Parcel)["E008"]

    assert "Parcel.delivered()" in text
    assert 'Wait("1h")' in text


# -- names and discovery -----------------------------------------------------------------------------


def test_a_process_is_named_after_its_app_and_class_unless_it_is_given_a_name() -> None:
    """Conformance 7."""

    class ParcelA(ProcessManager):
        __module__ = "tests.testapp.somewhere.deep"

        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

    class ParcelB(ProcessManager):
        __module__ = "django.contrib.auth.processes"

        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

    class ParcelC(ProcessManager):
        class Meta:
            name = "post.parcel"

        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

    names = [cls.definition.name for cls in (ParcelA, ParcelB, ParcelC)]

    assert names == ["testapp.ParcelA", "auth.ParcelB", "post.parcel"]


def test_a_name_is_not_inherited() -> None:
    """Conformance 7. Two processes of one name would share their instances."""

    class ParcelBase(ProcessManager):
        class Meta:
            name = "post.base"

        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

    class ParcelChild(ParcelBase):
        @handle(ParcelDelivered, end=True, correlate="parcel")
        def delivered(self, event: ParcelDelivered) -> None: ...

    assert ParcelBase.definition.name == "post.base"
    assert ParcelChild.definition.name == "tests.ParcelChild"


def test_a_named_process_goes_on_after_a_rename_of_its_class() -> None:
    """Conformance 7."""
    parcel = uuid4()
    with isolated_registries():

        class OldParcel(ProcessManager):
            depots: list[str] = field(default_factory=list)

            class Meta:
                name = "post.parcel"

            @handle(ParcelRegistered, start=True, correlate="parcel")
            def registered(self, event: ParcelRegistered) -> None:
                self.depots.append("first")

        publish(ParcelRegistered(parcel=parcel))
        drain()
        publish(ParcelRegistered(parcel=parcel))

    class NewParcel(ProcessManager):
        depots: list[str] = field(default_factory=list)

        class Meta:
            name = "post.parcel"

        @handle(ParcelRegistered, start=True, correlate="parcel")
        def was_registered(self, event: ParcelRegistered) -> None:
            self.depots.append("after the rename")

    drain()

    instance = Instance.objects.get(process="post.parcel")
    assert NewParcel.definition.load(instance.state).depots == ["first", "after the rename"]  # type: ignore[attr-defined]


def test_a_named_event_goes_on_after_a_rename_of_its_class() -> None:
    """Conformance 7."""
    parcel = uuid4()
    heard: list[object] = []
    with isolated_registries():

        @event(name="post.Weighed")
        class OldWeighed:
            parcel: UUID

        class EarlierParcel(ProcessManager):
            class Meta:
                name = "post.parcel"

            @handle(OldWeighed, start=True, correlate="parcel")
            def weighed(self, event: OldWeighed) -> None: ...

        publish(OldWeighed(parcel=parcel))  # type: ignore[call-arg]

    @event(name="post.Weighed")
    class Weighed:
        parcel: UUID

    class Parcel(ProcessManager):
        class Meta:
            name = "post.parcel"

        @handle(Weighed, start=True, correlate="parcel")
        def weighed(self, event: Weighed) -> None:
            heard.append(event)

    drain()

    assert heard == [Weighed(parcel=parcel)]  # type: ignore[call-arg]


MODULE = """
from pm_celery import ProcessManager, event, handle

@event
class Opened{0}:
    key: str

class Account{0}(ProcessManager):
    @handle(Opened{0}, start=True, end=True, correlate="key")
    def opened(self, event): ...
"""

PROJECT = """
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["pm_celery", "bank", "insurance.apps.Insurance"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
django.setup()
from pm_celery import registry
print(",".join(sorted(listener.name for listener in registry.listeners)))
"""


def test_processes_are_found_in_modules_and_in_packages_of_every_app(tmp_path: Path) -> None:
    """Conformance 7."""
    files = {
        "bank/__init__.py": "",
        "bank/processes.py": MODULE.format("One"),
        "bank/policies.py": MODULE.format("Two"),
        "insurance/__init__.py": "",
        "insurance/apps.py": (
            "from django.apps import AppConfig\n"
            "class Insurance(AppConfig):\n    name = 'insurance'\n    label = 'cover'\n"
        ),
        "insurance/processes/__init__.py": "from insurance.processes import three\n",
        "insurance/processes/three.py": MODULE.format("Three"),
        "main.py": PROJECT,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert _run(tmp_path) == "bank.AccountOne,bank.AccountTwo,cover.AccountThree"


def test_a_processes_package_need_not_import_its_modules(tmp_path: Path) -> None:
    """Conformance 7. A file that nobody imports would be a process that silently hears nothing."""
    files = {
        "bank/__init__.py": "",
        "bank/processes/__init__.py": "",
        "bank/processes/one.py": MODULE.format("One"),
        "insurance/__init__.py": "",
        "insurance/apps.py": (
            "from django.apps import AppConfig\n"
            "class Insurance(AppConfig):\n    name = 'insurance'\n    label = 'cover'\n"
        ),
        "main.py": PROJECT,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert _run(tmp_path) == "bank.AccountOne"


def _run(folder: Path) -> str:
    path = os.pathsep.join([str(folder), str(Path(__file__).parent.parent)])
    ran = subprocess.run(
        [sys.executable, "main.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


# -- policies ----------------------------------------------------------------------------------------


def test_a_policy_reacts_to_its_event_and_leaves_no_instance() -> None:
    """Conformance 8."""

    @policy(ParcelDelivered)
    def tell_sender(event: ParcelDelivered, reaction: Reaction) -> None:
        reaction.send(Notify(parcel=event.parcel))

    parcel = uuid4()
    event_id = publish(ParcelDelivered(parcel=parcel))

    drain()

    row = InboxMessage.objects.get(message_id=event_id)
    assert (row.process, row.status) == ("tests.tell_sender", "handled")
    assert notified == [parcel]
    assert not Instance.objects.exists()


def test_a_policy_runs_once_for_an_event_that_is_published_twice() -> None:
    """Conformance 8."""

    @policy(ParcelDelivered, name="post.tell")
    def tell_sender(event: ParcelDelivered, reaction: Reaction) -> None:
        reaction.send(Notify(parcel=event.parcel))

    delivered = ParcelDelivered(parcel=uuid4())
    publish(delivered, event_id="delivered-1")
    drain()
    publish(delivered, event_id="delivered-1")

    drain()

    assert notified == [delivered.parcel]


def test_a_policy_that_fails_is_retried_and_then_a_dead_letter(time: Time) -> None:
    """Conformance 8."""
    runs: list[int] = []

    @policy(ParcelDelivered, retry=Retry("fixed", delay="10s", max_retries=2, jitter=False))
    def unlucky(event: ParcelDelivered, reaction: Reaction) -> None:
        runs.append(reaction.message.attempt)
        raise RuntimeError("no luck")

    event_id = publish(ParcelDelivered(parcel=uuid4()))
    drain()
    assert runs == [1]
    time.elapse("10s")
    assert runs == [1, 2]
    assert not DeadLetter.objects.exists()

    time.elapse("10s")

    letter = DeadLetter.objects.get()
    assert runs == [1, 2, 3]
    assert (letter.place, letter.message_ref, letter.error) == ("policy", event_id, "no luck")
    assert (letter.attempts, letter.handler) == (3, "unlucky")


def test_a_policy_that_fails_holds_up_no_other_event() -> None:
    """Conformance 8. It has no key, so there is no order to keep."""

    @policy(ParcelDelivered)
    def picky(event: ParcelDelivered, reaction: Reaction) -> None:
        if event.parcel.int == 0:
            raise RuntimeError("not this one")
        reaction.send(Notify(parcel=event.parcel))

    publish(ParcelDelivered(parcel=UUID(int=0)))
    for number in range(1, 6):
        publish(ParcelDelivered(parcel=UUID(int=number)))

    drain()

    assert sorted(parcel.int for parcel in notified) == [1, 2, 3, 4, 5]


def test_a_policy_may_decline_with_a_reason() -> None:
    """Conformance 8."""

    @policy(ParcelDelivered)
    def declines(event: ParcelDelivered, reaction: Reaction) -> object:
        reaction.send(Notify(parcel=event.parcel))
        return reaction.ignore("on Sundays")

    event_id = publish(ParcelDelivered(parcel=uuid4()))

    drain()

    row = InboxMessage.objects.get(message_id=event_id)
    assert (row.status, row.reason) == ("skipped", "on Sundays")
    assert notified == []
    assert not OutboxCommand.objects.exists()


def test_a_policy_and_a_process_hear_the_same_event() -> None:
    """Conformance 8."""

    @policy(ParcelRegistered)
    def welcome(event: ParcelRegistered, reaction: Reaction) -> None:
        raise RuntimeError("not today")

    class ParcelBeside(ProcessManager):
        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

    event_id = publish(ParcelRegistered(parcel=uuid4()))

    drain()

    statuses = dict(
        InboxMessage.objects.filter(message_id=event_id).values_list("process", "status")
    )
    assert statuses == {"tests.ParcelBeside": "handled", "tests.welcome": "pending"}


@pytest.mark.parametrize("retry", ["often", 3, Retry])
def test_a_policy_with_a_retry_that_is_none_is_a_start_up_error(retry: Any) -> None:
    """Conformance 8."""

    @policy(ParcelDelivered, retry=retry)
    def careless(event: ParcelDelivered, reaction: Reaction) -> None: ...

    assert "Retry" in reported(careless)["E008"]


@pytest.mark.parametrize("name", ["", "x" * 201, 7])
def test_a_policy_with_an_unusable_name_is_a_start_up_error(name: Any) -> None:
    """Conformance 8."""

    @policy(ParcelDelivered, name=name)
    def nameless(event: ParcelDelivered, reaction: Reaction) -> None: ...

    assert "name" in reported(nameless)["E008"]


def test_a_timeout_handler_belongs_to_the_class_that_declares_it() -> None:
    """Conformance 4."""

    class Parcel(ProcessManager):
        class Meta:
            timeout = "1d"

        @handle(ParcelRegistered, start=True, correlate="parcel")
        def registered(self, event: ParcelRegistered) -> None: ...

        @on_timeout
        def lost(self) -> None: ...

    assert Parcel.definition.timeout_handler == "lost"
    assert reported(Parcel).keys() == {"W004"}
