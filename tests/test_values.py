"""Values keep their types, ids travel along the chain, and a handler says how its instance ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from pydantic import AliasChoices, BaseModel, Field

from pm_celery import (
    Failure,
    Message,
    ProcessManager,
    Reaction,
    Retry,
    command,
    command_handler,
    event,
    handle,
    on_command_failed,
    on_failure,
    on_timeout,
    on_timer,
    policy,
    publish,
)
from pm_celery.messages import message_type
from pm_celery.models import (
    DeadLetter,
    InboxMessage,
    Instance,
    OutboxCommand,
    Timer,
    Transition,
)
from pm_celery.registry import isolated_registries
from tests.driving import Time, drain

pytestmark = pytest.mark.django_db(transaction=True)


class Unit(Enum):
    METRE = "m"
    FOOT = "ft"


class Quality(StrEnum):
    GOOD = "good"


class Rank(IntEnum):
    FIRST = 1


class Point(NamedTuple):
    x: float
    y: float


@dataclass(frozen=True)
class Sensor:
    serial: UUID
    unit: Unit
    bought: date | None = None


@dataclass
class Station:
    name: str
    sensors: list[Sensor] = field(default_factory=list)
    by_serial: dict[UUID, Sensor] = field(default_factory=dict)


class Limits(BaseModel):
    low: Decimal
    high: Decimal | None = None


SENSOR = Sensor(UUID(int=5), Unit.FOOT, date(2024, 2, 29))

VALUES: dict[str, tuple[Any, Any]] = {
    "decimal": (Decimal, Decimal("10.200")),
    "small_decimal": (Decimal, Decimal("1E-20")),
    "long_decimal": (Decimal, Decimal("12345678901234567890.123456789012345678")),
    "uuid": (UUID, UUID("abcdefab-cdef-4bcd-8fab-cdefabcdefab")),
    "date": (date, date(2024, 2, 29)),
    "datetime_in_utc": (datetime, datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=UTC)),
    "datetime_with_offset": (
        datetime,
        datetime(2024, 2, 29, 1, 2, 3, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    ),
    "datetime_without_zone": (datetime, datetime(2024, 2, 29, 1, 2, 3)),  # noqa: DTZ001
    "time": (time, time(23, 59, 1, 5)),
    "timedelta": (timedelta, timedelta(days=-3, microseconds=7)),
    "zone": (ZoneInfo, ZoneInfo("Europe/Berlin")),
    "enum": (Unit, Unit.METRE),
    "string_enum": (Quality, Quality.GOOD),
    "int_enum": (Rank, Rank.FIRST),
    "nested_dataclass": (Sensor, SENSOR),
    "dataclasses_in_lists_and_dicts": (
        Station,
        Station("north", [SENSOR], {SENSOR.serial: SENSOR}),
    ),
    "pydantic_model": (Limits, Limits(low=Decimal("0.10"))),
    "none_for_decimal": (Decimal | None, None),
    "none_for_dataclass": (Sensor | None, None),
    "some_of_an_optional": (Sensor | None, SENSOR),
    "union_of_dataclasses": (Limits | Sensor, SENSOR),
    "big_int": (int, 2**80),
    "bool": (bool, True),
    "float": (float, 0.1),
    "infinity": (float, float("inf")),
    "bytes": (bytes, b"\xff\x00\xfe"),
    "text": (str, "\u2028 'quotes' \"and\" \\u0000 backslashes \\ 🙂"),
    "tuple": (tuple[int, Decimal, UUID], (1, Decimal("2.0"), UUID(int=3))),
    "variable_tuple": (tuple[Decimal, ...], (Decimal("1.0"), Decimal("2.00"))),
    "set": (set[UUID], {UUID(int=1), UUID(int=2)}),
    "frozenset": (frozenset[Unit], frozenset({Unit.METRE})),
    "dict_with_typed_keys": (dict[date, Decimal], {date(2024, 1, 1): Decimal("1.10")}),
    "dict_with_enum_keys": (dict[Quality, int], {Quality.GOOD: 1}),
    "named_tuple": (Point, Point(1.5, -2.0)),
    "literal": (Literal["a", "b"], "b"),
    "empty_list": (list[Decimal], []),
}
# The annotations of this module are strings; these are for classes that are made from VALUES.
TYPES = {name: kind for name, (kind, _) in VALUES.items()}
GIVEN = {name: value for name, (_, value) in VALUES.items()}


def typed(values: dict[str, Any]) -> dict[str, tuple[type, Any]]:
    """The values with their exact types, which ``==`` alone would not tell apart."""
    return {name: (type(value), value) for name, value in values.items()}


def test_values_in_the_state_come_back_with_their_types() -> None:
    """Conformance 21."""
    found: list[dict[str, Any]] = []

    @event(name="values.Measured")
    class Measured:
        station: str

    class Measuring(ProcessManager):
        __annotations__ = {name: kind | None for name, kind in TYPES.items()}
        locals().update(dict.fromkeys(TYPES))

        @handle(Measured, start=True, correlate="station")
        def measured(self, event: Measured) -> None:
            found.append({name: getattr(self, name) for name in TYPES})
            for name, value in GIVEN.items():
                setattr(self, name, value)

    for _ in range(3):
        publish(Measured(station="north"))  # type: ignore[call-arg]
        drain()

    assert not DeadLetter.objects.exists(), DeadLetter.objects.get().error
    assert found[0] == dict.fromkeys(TYPES)
    assert typed(found[1]) == typed(found[2]) == typed(GIVEN)


def test_values_in_an_event_come_back_with_their_types() -> None:
    """Conformance 21."""
    found: list[Any] = []

    @event(name="values.Reported")
    class Reported:
        __annotations__ = {"station": str, **TYPES}

    class Reporting(ProcessManager):
        @handle(Reported, start=True, correlate="station")
        def reported(self, event: Reported) -> None:
            found.append(event)

    sent = Reported(station="north", **GIVEN)  # type: ignore[call-arg]
    publish(sent)
    drain()

    assert not DeadLetter.objects.exists(), DeadLetter.objects.get().error
    assert found == [sent]
    assert typed({name: getattr(found[0], name) for name in TYPES}) == typed(GIVEN)


def test_values_in_a_pydantic_event_come_back_with_their_types() -> None:
    """Conformance 21."""
    found: list[Any] = []

    @event(name="values.ReportedAsModel")
    class ReportedAsModel(BaseModel):
        model_config = {
            "ser_json_bytes": "base64",
            "val_json_bytes": "base64",
            "ser_json_inf_nan": "strings",
        }
        __annotations__ = {"station": str, **TYPES}

    class ReportingModels(ProcessManager):
        @handle(ReportedAsModel, start=True, correlate="station")
        def reported(self, event: ReportedAsModel) -> None:
            found.append(event)

    sent = ReportedAsModel(station="north", **GIVEN)  # type: ignore[call-arg]
    publish(sent)
    drain()

    assert not DeadLetter.objects.exists(), DeadLetter.objects.get().error
    assert typed({name: getattr(found[0], name) for name in TYPES}) == typed(GIVEN)


def test_values_in_a_command_come_back_with_their_types() -> None:
    """Conformance 21."""
    found: list[Any] = []

    @command(name="values.Calibrate")
    class Calibrate:
        __annotations__ = {**TYPES}

    @command_handler(Calibrate)
    def calibrate(command: Any) -> None:
        found.append(command)

    @event(name="values.Drifted")
    class Drifted:
        station: str

    class Drifting(ProcessManager):
        @handle(Drifted, start=True, correlate="station")
        def drifted(self, event: Drifted) -> None:
            self.send(Calibrate(**GIVEN))

    publish(Drifted(station="north"))  # type: ignore[call-arg]
    drain()

    assert typed({name: getattr(found[0], name) for name in TYPES}) == typed(GIVEN)


def test_values_in_a_failure_come_back_with_their_types() -> None:
    """Conformance 21."""
    found: list[Any] = []

    @event(name="values.Broke")
    class Broke:
        __annotations__ = {"station": str, **TYPES}

    class Breaking(ProcessManager):
        class Meta:
            retry = Retry("none")

        @handle(Broke, start=True, correlate="station")
        def broke(self, event: Broke) -> None:
            raise RuntimeError("broken")

        @on_failure
        def failed(self, failure: Failure) -> None:
            found.append(failure.message)

    sent = Broke(station="north", **GIVEN)  # type: ignore[call-arg]
    publish(sent)
    drain()

    assert found == [sent]


@event(name="values.GaugeRead")
class GaugeRead:
    gauge: str
    note: str = ""


@event(name="values.GaugeRemoved")
class GaugeRemoved:
    gauge: str
    note: str = ""


def publish_and_drain(*events: object) -> None:
    for one in events:
        publish(one)
        drain()


def test_a_timer_s_payload_comes_back_with_the_type_its_handler_names(time: Time) -> None:
    """Conformance 21."""
    found: list[Any] = []

    class GaugeTimer(ProcessManager):
        @handle(GaugeRead, start=True, correlate="gauge")
        def read(self, event: GaugeRead) -> None:
            self.set_timer("check", "1h", payload=SENSOR)

        @on_timer("check")
        def check(self, payload: Sensor) -> None:
            found.append(payload)

    publish_and_drain(GaugeRead("g-1"))

    time.elapse("1h")

    assert found == [SENSOR]


def test_an_int_may_be_stored_where_a_float_is_declared() -> None:
    """Conformance 21. As everywhere in Python."""

    class GaugeFloat(ProcessManager):
        level: float = 0.0

        @handle(GaugeRead, start=True, correlate="gauge")
        def read(self, event: GaugeRead) -> None:
            self.level = 3

    publish_and_drain(GaugeRead("g-1"))

    instance = Instance.objects.get(process="tests.GaugeFloat")
    assert GaugeFloat.definition.load(instance.state).level == 3.0  # type: ignore[attr-defined]


def test_a_nested_value_that_a_handler_changes_in_place_is_stored() -> None:
    """Conformance 21."""

    class GaugeNested(ProcessManager):
        station: Station = field(default_factory=lambda: Station("north"))

        @handle(GaugeRead, start=True, correlate="gauge")
        def read(self, event: GaugeRead) -> None:
            self.station.sensors.append(SENSOR)
            self.station.name += "!"

    publish_and_drain(GaugeRead("g-1"), GaugeRead("g-1"))

    instance = Instance.objects.get(process="tests.GaugeNested")
    state: Any = GaugeNested.definition.load(instance.state)
    assert state.station == Station("north!!", [SENSOR, SENSOR])


def test_what_one_instance_changes_in_place_no_other_instance_sees() -> None:
    """Conformance 21."""

    class GaugeShared(ProcessManager):
        notes: list[str] = field(default_factory=list)

        @handle(GaugeRead, start=True, correlate="gauge")
        def read(self, event: GaugeRead) -> None:
            self.notes.append(event.gauge)

    for number in range(5):
        publish(GaugeRead(f"g-{number}"))
    drain()

    for instance in Instance.objects.filter(process="tests.GaugeShared"):
        assert GaugeShared.definition.load(instance.state).notes == [instance.key]  # type: ignore[attr-defined]


def test_a_field_that_is_no_parameter_keeps_its_value() -> None:
    """Conformance 21."""

    class GaugeInternal(ProcessManager):
        count: int = field(default=0, init=False)

        @handle(GaugeRead, start=True, correlate="gauge")
        def read(self, event: GaugeRead) -> None:
            self.count += 1

    publish_and_drain(GaugeRead("g-1"), GaugeRead("g-1"), GaugeRead("g-1"))

    instance = Instance.objects.get(process="tests.GaugeInternal")
    state: Any = GaugeInternal.definition.load(instance.state)
    assert (state.count, instance.number) == (3, 3)


def test_a_field_added_later_has_its_default_in_old_instances() -> None:
    """Conformance 21."""
    with isolated_registries():

        class GaugeV1(ProcessManager):
            count: int = 0

            class Meta:
                name = "values.gauge"

            @handle(GaugeRead, start=True, correlate="gauge")
            def read(self, event: GaugeRead) -> None:
                self.count += 1

        publish_and_drain(GaugeRead("g-1"))

    found: list[Any] = []

    class GaugeV2(ProcessManager):
        count: int = 0
        sensor: Sensor | None = None
        sum: Decimal = Decimal("0.5")
        notes: list[str] = field(default_factory=lambda: ["new"])

        class Meta:
            name = "values.gauge"

        @handle(GaugeRead, start=True, correlate="gauge")
        def read(self, event: GaugeRead) -> None:
            found.append((self.count, self.sensor, self.sum, self.notes))

    publish_and_drain(GaugeRead("g-1"))

    assert found == [(1, None, Decimal("0.5"), ["new"])]


def test_a_field_removed_later_does_not_break_old_instances() -> None:
    """Conformance 21."""
    with isolated_registries():

        class GaugeWithMore(ProcessManager):
            count: int = 7
            extra: str = "gone tomorrow"

            class Meta:
                name = "values.gauge"

            @handle(GaugeRead, start=True, correlate="gauge")
            def read(self, event: GaugeRead) -> None: ...

        publish_and_drain(GaugeRead("g-1"))

    found: list[int] = []

    class GaugeWithLess(ProcessManager):
        count: int = 0

        class Meta:
            name = "values.gauge"

        @handle(GaugeRead, start=True, correlate="gauge")
        def read(self, event: GaugeRead) -> None:
            found.append(self.count)

    publish_and_drain(GaugeRead("g-1"))

    assert found == [7]


def test_a_field_added_to_an_event_later_has_its_default_in_stored_ones() -> None:
    """Conformance 21."""
    with isolated_registries():

        @event(name="values.Calibrated")
        class CalibratedThen:
            gauge: str

        class Then(ProcessManager):
            class Meta:
                name = "values.calibration"

            @handle(CalibratedThen, start=True, correlate="gauge")
            def calibrated(self, event: Any) -> None: ...

        publish(CalibratedThen(gauge="g-1"))  # type: ignore[call-arg]

    found: list[Decimal] = []

    @event(name="values.Calibrated")
    class Calibrated:
        gauge: str
        by: Decimal = Decimal("0.5")

    class Now(ProcessManager):
        class Meta:
            name = "values.calibration"

        @handle(Calibrated, start=True, correlate="gauge")
        def calibrated(self, event: Any) -> None:
            found.append(event.by)

    drain()

    assert found == [Decimal("0.5")]


def test_a_pydantic_event_with_an_alias_comes_back() -> None:
    """Conformance 21. Other services name it in their way; Python code in its own."""
    found: list[object] = []

    @event(name="values.Aliased")
    class Aliased(BaseModel):
        gauge: str = Field(alias="gaugeId")
        level: Decimal = Field(
            default=Decimal(0), validation_alias=AliasChoices("lvl", "level_value")
        )

    class GaugeAliased(ProcessManager):
        @handle(Aliased, start=True, correlate="gauge")
        def aliased(self, event: Aliased) -> None:
            found.append(event)

    sent = Aliased.model_validate({"gaugeId": "g-1", "lvl": "1.50"})
    publish_and_drain(sent)

    assert not DeadLetter.objects.exists(), DeadLetter.objects.get().error
    assert found == [sent]


def test_a_handler_cannot_leave_a_state_that_could_not_be_read_again() -> None:
    """Conformance 21. Or the next event would fail for it, and every retry of that one."""

    class GaugeLimited(ProcessManager):
        level: Annotated[int, Field(ge=0)] = 0
        share: Decimal = Decimal(0)

        class Meta:
            retry = Retry("none")

        @handle(GaugeRead, start=True, correlate="gauge")
        def read(self, event: GaugeRead) -> None:
            if event.note == "negative":
                self.level = -1
            elif event.note == "no number":
                self.share = Decimal("NaN")

    publish_and_drain(GaugeRead("g-1"), GaugeRead("g-1", "negative"))
    publish_and_drain(GaugeRead("g-2"), GaugeRead("g-2", "no number"))

    for instance in Instance.objects.filter(process="tests.GaugeLimited"):
        GaugeLimited.definition.load(instance.state)
    assert list(DeadLetter.objects.values_list("key", "exception")) == [
        ("g-1", "Misuse"),
        ("g-2", "Misuse"),
    ]


# -- ids along the chain -----------------------------------------------------------------------------


@event(name="values.PumpStarted")
class PumpStarted:
    pump: str


@event(name="values.PumpPrimed")
class PumpPrimed:
    pump: str


@command(name="values.PrimePump")
class PrimePump:
    pump: str


def declare_pump(seen: dict[str, Message]) -> None:
    class Pump(ProcessManager):
        @handle(PumpStarted, start=True, correlate="pump")
        def started(self, event: PumpStarted) -> None:
            seen["started"] = self.message
            self.send(PrimePump(self.key))

        @handle(PumpPrimed, end=True, correlate="pump")
        def primed(self, event: PumpPrimed) -> None:
            seen["primed"] = self.message

    @command_handler(PrimePump)
    def prime(command: PrimePump, message: Message) -> None:
        seen["prime"] = message
        publish(PumpPrimed(command.pump))


def test_correlation_causation_and_depth_travel_from_event_to_command_to_event() -> None:
    """Conformance 23."""
    seen: dict[str, Message] = {}
    declare_pump(seen)

    event_id = publish(PumpStarted("p-1"), correlation_id="conversation-1")
    drain()

    started, prime, primed = seen["started"], seen["prime"], seen["primed"]
    assert {m.correlation_id for m in seen.values()} == {"conversation-1"}
    assert (started.id, started.causation_id, started.depth) == (event_id, "", 0)
    assert prime.causation_id == started.id
    assert primed.causation_id == prime.id
    assert started.depth < primed.depth
    assert [m.kind for m in (started, prime, primed)] == ["event", "command", "event"]


def test_a_conversation_without_an_id_is_named_after_its_first_event() -> None:
    """Conformance 23."""
    seen: dict[str, Message] = {}
    declare_pump(seen)

    event_id = publish(PumpStarted("p-1"))
    drain()

    assert {m.correlation_id for m in seen.values()} == {event_id}


def test_rows_tell_the_conversation_and_what_caused_what() -> None:
    """Conformance 23."""
    declare_pump({})

    event_id = publish(PumpStarted("p-1"), correlation_id="conversation-1")
    drain()

    sent = OutboxCommand.objects.get(name="values.PrimePump")
    primed = InboxMessage.objects.get(name="values.PumpPrimed")
    assert (sent.correlation_id, sent.causation_id) == ("conversation-1", event_id)
    assert (primed.correlation_id, primed.causation_id) == ("conversation-1", str(sent.command_id))
    assert Instance.objects.get(process="tests.Pump").correlation_id == "conversation-1"
    steps = Transition.objects.order_by("number").values_list("correlation_id", "causation_id")
    assert list(steps) == [("conversation-1", ""), ("conversation-1", str(sent.command_id))]


def test_an_event_that_a_handler_publishes_itself_descends_from_the_one_it_handles() -> None:
    """Conformance 23."""

    class PumpAtOnce(ProcessManager):
        @handle(PumpStarted, start=True, correlate="pump")
        def started(self, event: PumpStarted) -> None:
            publish(PumpPrimed(event.pump))

        @handle(PumpPrimed, end=True, correlate="pump")
        def primed(self, event: PumpPrimed) -> None: ...

    event_id = publish(PumpStarted("p-1"), correlation_id="conversation-1")
    drain()

    primed = InboxMessage.objects.get(name="values.PumpPrimed")
    assert (primed.correlation_id, primed.causation_id, primed.depth) == (
        "conversation-1",
        event_id,
        1,
    )


def test_an_explicit_correlation_id_begins_a_new_conversation_within_the_chain() -> None:
    """Conformance 23."""

    class PumpElsewhere(ProcessManager):
        @handle(PumpStarted, start=True, correlate="pump")
        def started(self, event: PumpStarted) -> None:
            publish(PumpPrimed(event.pump), correlation_id="conversation-2")

        @handle(PumpPrimed, end=True, correlate="pump")
        def primed(self, event: PumpPrimed) -> None: ...

    event_id = publish(PumpStarted("p-1"))
    drain()

    primed = InboxMessage.objects.get(name="values.PumpPrimed")
    assert (primed.correlation_id, primed.causation_id) == ("conversation-2", event_id)


def test_what_a_policy_sends_belongs_to_its_event_s_conversation() -> None:
    """Conformance 23."""

    @command_handler(PrimePump)
    def prime(command: PrimePump) -> None: ...

    @policy(PumpStarted)
    def prime_at_start(event: PumpStarted, reaction: Reaction) -> None:
        reaction.send(PrimePump(event.pump))

    event_id = publish(PumpStarted("p-1"), correlation_id="conversation-1")
    drain()

    sent = OutboxCommand.objects.get()
    assert (sent.correlation_id, sent.causation_id) == ("conversation-1", event_id)


def test_what_a_timer_and_a_timeout_send_belongs_to_the_instance_s_conversation(
    time: Time,
) -> None:
    """Conformance 23."""

    @command_handler(PrimePump)
    def prime(command: PrimePump) -> None: ...

    class PumpTimed(ProcessManager):
        class Meta:
            timeout = "2h"

        @handle(PumpStarted, start=True, correlate="pump")
        def started(self, event: PumpStarted) -> None:
            self.set_timer("check", "1h")

        @on_timer("check")
        def check(self) -> None:
            self.send(PrimePump(self.key))

        @on_timeout
        def timed_out(self) -> None:
            self.send(PrimePump(self.key))

    publish(PumpStarted("p-1"), correlation_id="conversation-1")
    drain()
    time.elapse("1h")
    time.elapse("1h")

    sent = OutboxCommand.objects.values_list("correlation_id", flat=True)
    assert list(sent) == ["conversation-1", "conversation-1"]


def test_what_is_published_after_a_handler_descends_from_nothing() -> None:
    """Conformance 23. The chain is not left open in the worker that goes on with other work."""
    declare_pump({})
    publish(PumpStarted("p-1"))
    drain()

    event_id = publish(PumpStarted("p-2"))

    row = InboxMessage.objects.get(message_id=event_id)
    assert (row.causation_id, row.depth, row.correlation_id) == ("", 0, event_id)


def test_what_is_published_after_a_handler_that_raised_descends_from_nothing() -> None:
    """Conformance 23."""

    class PumpBroken(ProcessManager):
        class Meta:
            retry = Retry("none")

        @handle(PumpStarted, start=True, correlate="pump")
        def started(self, event: PumpStarted) -> None:
            raise RuntimeError

    publish(PumpStarted("p-1"))
    drain()

    event_id = publish(PumpStarted("p-2"))

    assert InboxMessage.objects.get(message_id=event_id).causation_id == ""


def test_a_chain_deeper_than_the_limit_is_stopped_as_a_dead_letter(settings: Any) -> None:
    """Conformance 23."""
    settings.PM_CELERY = {"MAX_CHAIN_DEPTH": 3}
    seen: list[int] = []

    class Loop(ProcessManager):
        @handle(PumpStarted, start=True, correlate="pump")
        def started(self, event: PumpStarted) -> None:
            seen.append(self.message.depth)
            publish(PumpStarted(event.pump))

    publish(PumpStarted("p-1"))
    drain()

    letter = DeadLetter.objects.get()
    assert seen == [0, 1, 2, 3]
    assert (letter.exception, letter.attempts) == ("ChainTooDeep", 1)
    assert "MAX_CHAIN_DEPTH" in letter.error
    assert Instance.objects.get().status == "failed"


def test_a_chain_through_commands_is_stopped_too(settings: Any) -> None:
    """Conformance 23."""
    settings.PM_CELERY = {"MAX_CHAIN_DEPTH": 3}
    primed: list[str] = []

    class LoopOfCommands(ProcessManager):
        @handle(PumpStarted, start=True, correlate="pump")
        def started(self, event: PumpStarted) -> None:
            self.send(PrimePump(event.pump))

    @command_handler(PrimePump)
    def prime(command: PrimePump) -> None:
        primed.append(command.pump)
        publish(PumpStarted(command.pump))

    publish(PumpStarted("p-1"))
    drain()

    assert len(primed) == 4
    assert DeadLetter.objects.get().exception == "ChainTooDeep"


def test_a_chain_through_a_policy_is_stopped_too(settings: Any) -> None:
    """Conformance 23."""
    settings.PM_CELERY = {"MAX_CHAIN_DEPTH": 3}
    seen: list[int] = []

    @policy(PumpStarted)
    def restart(event: PumpStarted, reaction: Reaction) -> None:
        seen.append(reaction.message.depth)
        publish(PumpStarted(event.pump))

    publish(PumpStarted("p-1"))
    drain()

    assert seen == [0, 1, 2, 3]
    assert DeadLetter.objects.get().exception == "ChainTooDeep"


def test_a_command_that_is_sent_again_whenever_it_fails_is_stopped_too(settings: Any) -> None:
    """Conformance 23. The chain is: event, command, failure, command, failure, …"""
    settings.PM_CELERY = {"MAX_CHAIN_DEPTH": 3}
    runs: list[int] = []

    class LoopOfFailures(ProcessManager):
        @handle(PumpStarted, start=True, correlate="pump")
        def started(self, event: PumpStarted) -> None:
            self.send(PrimePump(event.pump))

        @on_command_failed(PrimePump)
        def again(self, failure: Failure) -> None:
            if len(runs) < 10:
                self.send(PrimePump(self.key))

    @command_handler(PrimePump, retry=Retry("none"))
    def prime(command: PrimePump, message: Message) -> None:
        runs.append(message.depth)
        raise RuntimeError("dry")

    publish(PumpStarted("p-1"))
    drain()

    assert len(runs) <= 5
    assert DeadLetter.objects.filter(exception="ChainTooDeep").count() == 1


def test_depth_is_counted_along_a_chain_and_not_over_an_instance_s_life() -> None:
    """Conformance 23."""
    seen: list[int] = []

    class PumpOften(ProcessManager):
        @handle(PumpStarted, start=True, correlate="pump")
        def started(self, event: PumpStarted) -> None:
            seen.append(self.message.depth)

    for _ in range(5):
        publish(PumpStarted("p-1"))
    drain()

    assert seen == [0, 0, 0, 0, 0]


# -- ending and declining ----------------------------------------------------------------------------


def declare_gauge(**handlers: Any) -> type[ProcessManager]:
    """A gauge whose two handlers do what a test says; GaugeRemoved has ``end=True``."""

    class Gauge(ProcessManager):
        notes: list[str] = field(default_factory=list)

        class Meta:
            retry = Retry("none")
            correlate = "gauge"

        @handle(GaugeRead, start=True)
        def read(self, event: GaugeRead) -> Any:
            self.notes.append(event.note)
            return handlers["read"](self, event) if "read" in handlers else None

        @handle(GaugeRemoved, end=True)
        def removed(self, event: GaugeRemoved) -> Any:
            self.notes.append("removed")
            return handlers["removed"](self, event) if "removed" in handlers else None

        @on_timer("check")
        def check(self) -> Any:
            self.notes.append("checked")
            return handlers["check"](self) if "check" in handlers else None

    return Gauge


def gauge() -> Instance:
    return Instance.objects.get(process="tests.Gauge")


def notes(process: type[ProcessManager]) -> list[str]:
    found: list[str] = process.definition.load(gauge().state).notes  # type: ignore[attr-defined]
    return found


def test_end_completes_the_instance_after_the_handler_returned() -> None:
    """Conformance 24."""
    process = declare_gauge()
    publish_and_drain(GaugeRead("g-1"))
    assert (gauge().status, gauge().ended_at) == ("started", None)

    publish_and_drain(GaugeRemoved("g-1"))

    assert gauge().status == "completed"
    assert gauge().ended_at is not None
    assert notes(process) == ["", "removed"]
    assert Transition.objects.get(number=2).status == "completed"


def test_complete_ends_the_instance_from_any_handler() -> None:
    """Conformance 24."""

    def read(self: Any, event: GaugeRead) -> None:
        if event.note == "full":
            self.complete()
            self.notes.append("the handler goes on")

    process = declare_gauge(read=read)
    publish_and_drain(GaugeRead("g-1"), GaugeRead("g-1", "full"))

    assert gauge().status == "completed"
    assert notes(process) == ["", "full", "the handler goes on"]


def test_complete_ends_the_instance_from_a_timer(time: Time) -> None:
    """Conformance 24."""
    declare_gauge(
        read=lambda self, event: self.set_timer("check", "1h"), check=lambda self: self.complete()
    )
    publish_and_drain(GaugeRead("g-1"))

    time.elapse("1h")

    assert gauge().status == "completed"
    assert not Timer.objects.exists()


def test_complete_ends_the_instance_from_the_start_event() -> None:
    """Conformance 24."""
    declare_gauge(read=lambda self, event: self.complete())

    publish_and_drain(GaugeRead("g-1"))

    assert (gauge().status, gauge().number) == ("completed", 1)


def test_complete_ends_the_instance_from_the_handler_of_a_failed_command() -> None:
    """Conformance 24."""

    class GaugeOfCommand(ProcessManager):
        @handle(GaugeRead, start=True, correlate="gauge")
        def read(self, event: GaugeRead) -> None:
            self.send(PrimePump("p-1"))

        @on_command_failed(PrimePump)
        def not_primed(self, failure: Failure) -> None:
            self.complete()

    @command_handler(PrimePump, retry=Retry("none"))
    def prime(command: PrimePump) -> None:
        raise RuntimeError("dry")

    publish_and_drain(GaugeRead("g-1"))

    assert Instance.objects.get(process="tests.GaugeOfCommand").status == "completed"


def test_complete_ends_the_instance_from_the_failure_handler() -> None:
    """Conformance 24."""

    class GaugeOfFailure(ProcessManager):
        class Meta:
            retry = Retry("none")

        @handle(GaugeRead, start=True, correlate="gauge")
        def read(self, event: GaugeRead) -> None:
            raise RuntimeError("broken")

        @on_failure
        def failed(self, failure: Failure) -> None:
            self.complete()

    publish_and_drain(GaugeRead("g-1"))

    assert Instance.objects.get(process="tests.GaugeOfFailure").status == "completed"


def test_an_end_whose_handler_raises_is_no_end() -> None:
    """Conformance 24."""

    def raises(self: Any, event: object) -> None:
        self.complete()
        raise RuntimeError("broken")

    process = declare_gauge(removed=raises)
    publish_and_drain(GaugeRead("g-1"), GaugeRemoved("g-1"))

    assert (gauge().status, gauge().ended_at) == ("failed", None)
    assert notes(process) == [""]


def test_an_early_return_under_end_ends_the_process() -> None:
    """Conformance 24. Protean's own documentation falls into this: declining needs ``ignore``."""
    declare_gauge(removed=lambda self, event: None)

    publish_and_drain(GaugeRead("g-1"), GaugeRemoved("g-1"))

    assert gauge().status == "completed"


def test_a_handler_that_declines_ends_and_changes_nothing() -> None:
    """Conformance 24."""

    def declines(self: Any, event: object) -> object:
        self.complete()
        self.send(PrimePump("p-1"))
        self.set_timer("check", "1h")
        return self.ignore("not today")

    process = declare_gauge(removed=declines)
    publish_and_drain(GaugeRead("g-1"), GaugeRemoved("g-1"))

    row = InboxMessage.objects.get(name="values.GaugeRemoved")
    assert (row.status, row.reason) == ("skipped", "not today")
    assert row.handled_at is not None
    assert (gauge().status, gauge().number, gauge().ended_at) == ("started", 1, None)
    assert notes(process) == [""]
    assert Transition.objects.count() == 1
    assert not OutboxCommand.objects.exists()
    assert not Timer.objects.exists()


def test_after_a_declined_event_the_next_ones_are_handled() -> None:
    """Conformance 24. Also in one batch: what the handler changed before it declined is forgotten."""
    process = declare_gauge(
        removed=lambda self, event: self.ignore("no") if event.note == "early" else None
    )
    publish(GaugeRead("g-1"))
    publish(GaugeRemoved("g-1", "early"))
    publish(GaugeRead("g-1", "again"))
    publish(GaugeRemoved("g-1"))
    drain()

    assert notes(process) == ["", "again", "removed"]
    assert gauge().status == "completed"
    assert list(Transition.objects.order_by("number").values_list("number", "handler")) == [
        (1, "read"),
        (2, "read"),
        (3, "removed"),
    ]


def test_a_timer_whose_handler_declines_is_gone(time: Time) -> None:
    """Conformance 24. It fired: nobody is to see it as pending."""
    process = declare_gauge(
        read=lambda self, event: self.set_timer("check", "1h"),
        check=lambda self: self.ignore("nothing to check"),
    )
    publish_and_drain(GaugeRead("g-1"))

    time.elapse("1h")

    row = InboxMessage.objects.get(kind="timer")
    assert (row.status, row.reason) == ("skipped", "nothing to check")
    assert notes(process) == [""]
    assert not Timer.objects.exists()


def test_a_timer_whose_handler_declines_may_be_set_again(time: Time) -> None:
    """Conformance 24."""
    checks: list[str] = []

    def check(self: Any) -> object:
        checks.append(self.key)
        return self.ignore("nothing to check")

    declare_gauge(read=lambda self, event: self.set_timer("check", "1h"), check=check)
    publish_and_drain(GaugeRead("g-1"))
    time.elapse("1h")
    publish_and_drain(GaugeRead("g-1"))

    time.elapse("1h")

    assert checks == ["g-1", "g-1"]


def test_a_process_may_decline_its_timeout_and_goes_on(time: Time) -> None:
    """Conformance 24."""

    class GaugePatient(ProcessManager):
        class Meta:
            timeout = "1h"
            correlate = "gauge"
            completed_by = [GaugeRemoved]

        @handle(GaugeRead, start=True)
        def read(self, event: GaugeRead) -> None: ...

        @on_timeout
        def late(self) -> object:
            return self.ignore("we can wait")

    publish_and_drain(GaugeRead("g-1"))
    time.elapse("1h")
    assert Instance.objects.get(process="tests.GaugePatient").status == "started"

    publish_and_drain(GaugeRemoved("g-1"))

    assert Instance.objects.get(process="tests.GaugePatient").status == "completed"


def test_the_reason_of_a_declined_event_is_text_whatever_it_was() -> None:
    """Conformance 24."""
    declare_gauge(removed=lambda self, event: self.ignore(Decimal("1.5")))

    publish_and_drain(GaugeRead("g-1"), GaugeRemoved("g-1"))

    assert InboxMessage.objects.get(name="values.GaugeRemoved").reason == "1.5"


def test_an_event_is_a_dataclass_that_can_be_compared_hashed_and_replaced() -> None:
    """Conformance 21."""
    from dataclasses import replace

    first = GaugeRead("g-1")

    assert replace(first, note="again") == GaugeRead("g-1", "again")
    assert message_type(first, "event").name == "values.GaugeRead"
    assert len({first, GaugeRead("g-1"), GaugeRead("g-2", str(uuid4()))}) == 2
