"""System checks: what each says, when, and when it is silent. Tests are named after the ids."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from pydantic import BaseModel, SecretStr

from pm_celery import (
    Failure,
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
)
from pm_celery.checks import (
    check_declarations,
    check_settings,
)
from pm_celery.registry import isolated_registries

pytestmark = pytest.mark.django_db(transaction=True)


@event(name="checks.RoomBooked")
class RoomBooked:
    room: UUID
    price: Decimal = Decimal(1)


@event(name="checks.RoomLeft")
class RoomLeft:
    room: UUID


@command(name="checks.CleanRoom")
class CleanRoom:
    room: UUID


@command_handler(CleanRoom)
def clean_room(command: CleanRoom) -> None: ...


def text_of(message: checks.CheckMessage) -> str:
    return f"{message.msg} | {message.hint}"


def reported(declared: Any) -> dict[str, str]:
    """What the checks say of one class or function: text and hint, by id."""
    where = f"{declared.__module__}.{declared.__qualname__}"
    return {
        str(message.id).removeprefix("pm_celery."): text_of(message)
        for message in check_declarations()
        if where in message.msg
    }


def test_a_process_as_it_should_be_is_not_mentioned() -> None:
    """Conformance 6."""

    class Booking(ProcessManager):
        room: UUID | None = None

        class Meta:
            timeout = "7d"
            correlate = {"room": "room"}

        @handle(RoomBooked, start=True)
        def booked(self, event: RoomBooked) -> None:
            self.set_timer("reminder", "1d")

        @handle(RoomLeft, end=True)
        def left(self, event: RoomLeft) -> None: ...

        @on_timer("reminder")
        def remind(self) -> None: ...

        @on_timeout
        def timed_out(self) -> None: ...

        @on_command_failed(CleanRoom)
        def dirty(self, failure: Failure) -> None: ...

        @on_failure
        def failed(self, failure: Failure) -> None: ...

    @policy(RoomLeft)
    def clean(event: RoomLeft, reaction: Reaction) -> None: ...

    assert reported(Booking) == {}
    assert reported(clean) == {}


def test_the_command_check_runs_them_and_fails_for_errors() -> None:
    """Conformance 3."""

    class Booking(ProcessManager):
        @handle(RoomLeft, correlate="room", end=True)
        def left(self, event: RoomLeft) -> None: ...

    with pytest.raises(SystemCheckError, match=r"pm_celery\.E001.*no start event"):
        call_command("check", tags=["pm_celery"])


def test_warnings_do_not_stop_a_project() -> None:
    """Conformance 6."""

    class Booking(ProcessManager):
        @handle(RoomBooked, correlate="room", start=True)
        def booked(self, event: RoomBooked) -> None: ...

        @handle(RoomLeft, correlate="room")
        def left(self, event: RoomLeft) -> None: ...

    found = {m.id: m.level for m in check_declarations() if Booking.__qualname__ in m.msg}

    assert found
    assert set(found.values()) == {checks.WARNING}


# -- errors of declarations --------------------------------------------------------------------------


def test_e001_a_process_has_no_start_event() -> None:
    """Conformance 3."""

    class Booking(ProcessManager):
        @handle(RoomLeft, correlate="room", end=True)
        def left(self, event: RoomLeft) -> None: ...

    assert "has no start event" in reported(Booking)["E001"]


def test_e001_a_process_has_no_handler_at_all() -> None:
    """Conformance 3."""

    class Booking(ProcessManager):
        pass

    assert "E001" in reported(Booking)


def test_e002_a_handler_has_no_correlate() -> None:
    """Conformance 3."""

    class Booking(ProcessManager):
        @handle(RoomBooked, start=True)
        def booked(self, event: RoomBooked) -> None: ...

    assert "has no correlate for RoomBooked" in reported(Booking)["E002"]


def test_e002_an_event_in_meta_has_no_correlate_that_it_could_share() -> None:
    """Conformance 3."""

    class Booking(ProcessManager):
        class Meta:
            completed_by = [RoomLeft]

        @handle(RoomBooked, start=True, correlate=lambda event: event.room)
        def booked(self, event: RoomBooked) -> None: ...

    assert "RoomLeft" in reported(Booking)["E002"]


def test_e003_a_handler_s_target_is_no_event() -> None:
    """Conformance 3."""

    class Booking(ProcessManager):
        @handle(CleanRoom, start=True, correlate="room")
        def booked(self, event: CleanRoom) -> None: ...

    assert "is declared as command" in reported(Booking)["E003"]


def test_e003_a_policy_s_target_is_no_event() -> None:
    """Conformance 3."""

    @policy(dict)
    def react(event: Any, reaction: Reaction) -> None: ...

    assert "@event" in reported(react)["E003"]


def test_e004_two_methods_handle_one_event() -> None:
    """Conformance 3."""

    class Booking(ProcessManager):
        @handle(RoomBooked, start=True, correlate="room")
        def booked(self, event: RoomBooked) -> None: ...

        @handle(RoomBooked, start=True, correlate="room")
        def booked_again(self, event: RoomBooked) -> None: ...

    assert "both handle RoomBooked" in reported(Booking)["E004"]


def test_e005_a_correlate_names_a_field_that_is_missing() -> None:
    """Conformance 3."""

    class Booking(ProcessManager):
        @handle(RoomBooked, start=True, correlate="rooms")
        def booked(self, event: RoomBooked) -> None: ...

    assert "Did you mean 'room'?" in reported(Booking)["E005"]


def test_e006_a_method_is_bound_twice() -> None:
    """Conformance 1."""

    class Booking(ProcessManager):
        @handle(RoomBooked, start=True, correlate="room")
        @handle(RoomLeft, correlate="room", end=True)
        def happened(self, event: Any) -> None: ...

    class Reminding(ProcessManager):
        @handle(RoomBooked, start=True, correlate="room")
        @on_timer("reminder")
        def happened(self, event: Any) -> None: ...

    assert ".happened() is bound 2 times" in reported(Booking)["E006"]
    assert "E006" in reported(Reminding)


@pytest.mark.parametrize("name", ["key", "now", "message", "send", "complete", "definition"])
def test_e007_a_field_has_a_name_that_every_process_has(name: str) -> None:
    Booking = type(
        "Booking",
        (ProcessManager,),
        {
            "__module__": __name__,
            "__qualname__": f"Booking_{name}",
            "__annotations__": {name: str},
            name: "",
        },
    )

    assert f".{name} is a name that every process has" in reported(Booking)["E007"]


def test_e007_a_field_has_no_default() -> None:
    class Booking(ProcessManager):
        room: UUID

        @handle(RoomBooked, start=True, correlate="room")
        def booked(self, event: RoomBooked) -> None: ...

    assert ".room has no default" in reported(Booking)["E007"]
    assert "room: … = None" in reported(Booking)["E007"]


def test_e007_a_default_is_shared_by_all_instances() -> None:
    class Booking(ProcessManager):
        guests: list[str] = []

        @handle(RoomBooked, start=True, correlate="room")
        def booked(self, event: RoomBooked) -> None: ...

    assert "default_factory=list" in reported(Booking)["E007"]


class Unstorable:
    pass


def test_e007_a_field_s_type_cannot_be_stored() -> None:
    class Booking(ProcessManager):
        thing: Unstorable | None = None

        @handle(RoomBooked, start=True, end=True, correlate="room")
        def booked(self, event: RoomBooked) -> None: ...

    assert "its state cannot be stored" in reported(Booking)["E007"]


def test_e007_a_field_s_type_does_not_exist() -> None:
    class Booking(ProcessManager):
        thing: Nonexistent | None = None  # type: ignore[name-defined]  # noqa: F821

        @handle(RoomBooked, start=True, end=True, correlate="room")
        def booked(self, event: RoomBooked) -> None: ...

    assert "its state cannot be stored" in reported(Booking)["E007"]


@pytest.mark.parametrize(
    ("kind", "default"),
    [(Decimal, 0), (UUID, None), (int, "many"), (Decimal, None), (str, None)],
    ids=["int for Decimal", "None for UUID", "text for int", "None for Decimal", "None for str"],
)
def test_e007_a_default_is_not_of_its_field_s_type(kind: Any, default: Any) -> None:
    class Booking(ProcessManager):
        __annotations__ = {"value": kind}
        value = default

        @handle(RoomBooked, start=True, end=True, correlate="room")
        def booked(self, event: RoomBooked) -> None: ...

    assert "its state cannot be stored" in reported(Booking)["E007"]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("timout", "7d", "Did you mean 'timeout'?"),
        ("verbose", True, "Known: name"),
        ("timeout", "soon", "Meta.timeout"),
        ("retry", 3, "Meta.retry is no Retry"),
        ("started_by", RoomBooked, "started_by is no list"),
        ("name", "", "no usable name"),
        ("name", "x" * 201, "no usable name"),
        ("name", 7, "no usable name"),
        ("unmatched", "drop", "unmatched='drop' is unknown"),
    ],
)
def test_e008_an_option_of_meta_is_unknown_or_unusable(option: str, value: Any, words: str) -> None:
    class Booking(ProcessManager):
        Meta = type("Meta", (), {option: value})

        @handle(RoomBooked, start=True, end=True, correlate="room")
        def booked(self, event: RoomBooked) -> None: ...

    assert words in reported(Booking)["E008"]


def test_e008_a_handler_s_option_is_unusable() -> None:
    class Booking(ProcessManager):
        @handle(RoomBooked, start=True, end=True, correlate="room", retry=3)  # type: ignore[arg-type]
        def booked(self, event: RoomBooked) -> None: ...

    assert "retry=3 is no Retry" in reported(Booking)["E008"]


def test_e009_a_handler_takes_the_wrong_parameters() -> None:
    """Or every event would fail, one after the other."""

    class Booking(ProcessManager):
        class Meta:
            timeout = "1d"
            correlate = "room"

        @handle(RoomBooked, start=True)
        def booked(self) -> None: ...  # type: ignore[misc]

        @handle(RoomLeft, end=True)
        def left(self, event: RoomLeft, more: str) -> None: ...  # type: ignore[misc]

        @on_timer("reminder")
        def remind(self, payload: str, more: str) -> None: ...

        @on_timeout
        def timed_out(self, event: object) -> None: ...

        @on_failure
        def failed(self) -> None: ...

        @on_command_failed(CleanRoom)
        def dirty(self) -> None: ...

    texts = [p.text for p in Booking.definition.problems if p.id == "E009"]

    assert len(texts) == 6
    for method in ("booked", "left", "remind", "timed_out", "failed", "dirty"):
        assert any(f".{method}() takes the wrong parameters" in text for text in texts)


def test_e009_a_handler_demands_a_keyword_that_nobody_gives() -> None:
    class Booking(ProcessManager):
        @handle(RoomBooked, start=True, end=True, correlate="room")
        def booked(self, event: RoomBooked, *, strict: bool) -> None: ...  # type: ignore[misc]

    assert ".booked()" in reported(Booking)["E009"]


def test_e009_is_silent_for_parameters_that_may_be_left_out() -> None:
    class Booking(ProcessManager):
        @handle(RoomBooked, start=True, end=True, correlate="room")
        def booked(self, event: RoomBooked, more: int = 1, *args: int, **kwargs: int) -> None: ...

        @on_timer("reminder")
        def remind(self, *args: object) -> None: ...

    assert "E009" not in reported(Booking)


def test_e009_a_handler_is_no_plain_function() -> None:
    class Booking(ProcessManager):
        @handle(RoomBooked, start=True, correlate="room")
        async def booked(self, event: RoomBooked) -> None: ...

        @handle(RoomLeft, end=True, correlate="room")
        def left(self, event: RoomLeft) -> Iterator[int]:
            yield 1

    texts = [p.text for p in Booking.definition.problems if p.id == "E009"]

    assert len(texts) == 2
    assert "is no plain function" in reported(Booking)["E009"]


def test_e009_a_policy_is_no_plain_function_or_takes_the_wrong_parameters() -> None:
    @policy(RoomLeft)
    async def waits(event: RoomLeft, reaction: Reaction) -> None: ...

    @policy(RoomLeft)  # type: ignore[arg-type]
    def lonely(event: RoomLeft) -> None: ...

    assert "is no plain function" in reported(waits)["E009"]
    assert "def lonely(event, reaction)" in reported(lonely)["E009"]


def test_e010_a_timer_timeout_or_failure_is_handled_twice_or_has_no_name() -> None:
    class Booking(ProcessManager):
        class Meta:
            timeout = "1d"

        @handle(RoomBooked, start=True, end=True, correlate="room")
        def booked(self, event: RoomBooked) -> None: ...

        @on_timer("reminder")
        def a(self) -> None: ...

        @on_timer("reminder")
        def b(self) -> None: ...

        @on_timer("")
        def c(self) -> None: ...

        @on_timer("x" * 201)
        def d(self) -> None: ...

        @on_timeout
        def e(self) -> None: ...

        @on_timeout
        def f(self) -> None: ...

        @on_failure
        def g(self, failure: Failure) -> None: ...

        @on_failure
        def h(self, failure: Failure) -> None: ...

        @on_command_failed(CleanRoom)
        def i(self, failure: Failure) -> None: ...

        @on_command_failed(CleanRoom)
        def j(self, failure: Failure) -> None: ...

        @on_command_failed(RoomLeft)
        def k(self, failure: Failure) -> None: ...

    texts = [p.text for p in Booking.definition.problems if p.id == "E010"]

    assert [text.rpartition("Booking")[2][:4] for text in texts] == [
        ".b()",
        ".c()",
        ".d()",
        ".f()",
        ".h()",
        ".j()",
        ".k()",
    ]


def test_e010_a_timer_s_name_is_no_text() -> None:
    class Booking(ProcessManager):
        @handle(RoomBooked, start=True, end=True, correlate="room")
        def booked(self, event: RoomBooked) -> None: ...

        @on_timer(5)  # type: ignore[arg-type]
        def remind(self) -> None: ...

    assert "5 is no timer's name" in reported(Booking)["E010"]


def test_e011_two_processes_or_policies_share_a_name() -> None:
    """Conformance 6."""

    class Booking(ProcessManager):
        class Meta:
            name = "checks.same"

        @handle(RoomBooked, start=True, end=True, correlate="room")
        def booked(self, event: RoomBooked) -> None: ...

    class Reservation(ProcessManager):
        class Meta:
            name = "checks.same"

        @handle(RoomBooked, start=True, end=True, correlate="room")
        def booked(self, event: RoomBooked) -> None: ...

    @policy(RoomLeft, name="checks.same")
    def react(event: RoomLeft, reaction: Reaction) -> None: ...

    text = reported(Booking)["E011"]

    assert "share the name 'checks.same'" in text
    assert "Reservation" in text
    assert "react" in text


def test_e020_a_command_has_no_handler() -> None:
    @command(name="checks.HeatRoom")
    class HeatRoom:
        room: UUID

    text = reported(HeatRoom)["E020"]

    assert "HeatRoom has no handler" in text
    assert "@command_handler(HeatRoom)" in text
    assert "processes.py" in text


def test_e021_a_command_has_two_handlers() -> None:
    @command_handler(CleanRoom)
    def clean_it_again(command: CleanRoom) -> None: ...

    text = reported(clean_it_again)["E021"]

    assert "clean_room" in text
    assert "both handle checks.CleanRoom" in text


def test_e022_two_events_share_a_wire_name() -> None:
    @event(name="checks.same")
    class RoomPainted:
        room: UUID

    @command(name="checks.same")
    class PaintRoom:
        room: UUID

    text = reported(RoomPainted)["E022"]

    assert "share the wire name 'checks.same'" in text
    assert "PaintRoom" in text


def test_e023_a_message_has_a_field_that_cannot_be_stored() -> None:
    @event(name="checks.Haunted")
    class Haunted:
        ghost: Unstorable

    assert "cannot be stored" in reported(Haunted)["E023"]


def test_e023_a_message_has_a_field_of_a_type_that_does_not_exist() -> None:
    @event(name="checks.Cursed")
    class Cursed:
        curse: Nonexistent  # type: ignore[name-defined]  # noqa: F821

    @event(name="checks.CursedModel")
    class CursedModel(BaseModel):
        curse: Nonexistent  # type: ignore[name-defined]  # noqa: F821

    assert "cannot be stored" in reported(Cursed)["E023"]
    assert "cannot be stored" in reported(CursedModel)["E023"]


def test_e023_is_silent_for_classes_that_are_declared_further_down() -> None:
    @event(name="checks.Furnished")
    class Furnished:
        chair: Chair

    @event(name="checks.FurnishedModel")
    class FurnishedModel(BaseModel):
        chair: Chair

    assert reported(Furnished) == {}
    assert reported(FurnishedModel) == {}


class Chair(BaseModel):
    legs: int = 4


# -- warnings of declarations ------------------------------------------------------------------------


def declare_booking(meta: dict[str, Any], *, completes: bool = False, end: bool = False) -> Any:
    class Booking(ProcessManager):
        Meta = type("Meta", (), {"correlate": "room", **meta})

        @handle(RoomBooked, start=True)
        def booked(self, event: RoomBooked) -> None: ...

        if completes:

            @handle(RoomLeft)
            def left(self, event: RoomLeft) -> None:
                self.complete()

        else:

            @handle(RoomLeft, end=end)
            def left(self, event: RoomLeft) -> None: ...

        @on_failure
        def failed(self, failure: Failure) -> None: ...

    return Booking


def test_w001_a_process_has_no_path_to_an_end() -> None:
    """Conformance 6."""
    assert "has no path to an end" in reported(declare_booking({}))["W001"]


def test_w001_is_silent_where_there_is_an_end() -> None:
    """Conformance 6."""
    ends: list[dict[str, Any]] = [
        {"meta": {}, "end": True},
        {"meta": {}, "completes": True},
        {"meta": {"completed_by": [RoomLeft]}},
        {"meta": {"timeout": "1d"}},
    ]

    for options in ends:
        with isolated_registries():
            assert "W001" not in reported(declare_booking(**options)), options


def test_w001_is_silent_where_a_helper_method_completes() -> None:
    """Conformance 6."""

    class Booking(ProcessManager):
        @handle(RoomBooked, start=True, correlate="room")
        def booked(self, event: RoomBooked) -> None:
            self._finish()

        @handle(RoomLeft, correlate="room")
        def left(self, event: RoomLeft) -> None:
            self._finish()

        def _finish(self) -> None:
            self.complete()

    assert "W001" not in reported(Booking)


def test_w002_a_process_has_no_timeout() -> None:
    """Conformance 6."""
    with isolated_registries():
        assert "has no timeout" in reported(declare_booking({}, end=True))["W002"]
    assert "W002" not in reported(declare_booking({"timeout": "1d"}, end=True))


def test_w003_a_process_has_a_timeout_and_no_handler_for_it() -> None:
    """Conformance 6."""
    with isolated_registries():
        assert "no handler for it" in reported(declare_booking({"timeout": "1d"}))["W003"]
    assert "W003" not in reported(declare_booking({}))


def test_w004_a_process_has_no_failure_handler() -> None:
    """Conformance 6."""

    class Booking(ProcessManager):
        class Meta:
            correlate = "room"
            completed_by = [RoomLeft]

        @handle(RoomBooked, start=True)
        def booked(self, event: RoomBooked) -> None: ...

    assert "has no failure handler" in reported(Booking)["W004"]
    assert "W004" not in reported(declare_booking({}))


def test_w005_a_process_with_one_handler_and_no_timeout_should_be_a_policy() -> None:
    """Conformance 6."""

    class Booking(ProcessManager):
        @handle(RoomBooked, start=True, end=True, correlate="room")
        def booked(self, event: RoomBooked) -> None: ...

    class BookingWithTimeout(ProcessManager):
        class Meta:
            timeout = "1d"

        @handle(RoomBooked, start=True, correlate="room")
        def booked(self, event: RoomBooked) -> None: ...

    assert "@policy" in reported(Booking)["W005"]
    assert "W005" not in reported(BookingWithTimeout)
    assert "W005" not in reported(declare_booking({}))


def test_every_message_has_an_id_and_a_remedy() -> None:
    class Booking(ProcessManager):
        thing: Unstorable | None = None

        class Meta:
            retry = 3
            timeout = "soon"

        @handle(RoomLeft)
        def left(self) -> None: ...  # type: ignore[misc]

    found = [m for m in check_declarations() if Booking.__qualname__ in m.msg]

    assert len(found) >= 5
    for message in found:
        assert str(message.id).startswith("pm_celery.")
        assert message.hint
        assert Retry.__name__ in text_of(message) or "Booking" in text_of(message)


# -- sensitive fields --------------------------------------------------------------------------------


def test_w049_redact_names_a_field_that_nothing_has(settings: Any) -> None:
    settings.PM_CELERY = {"REDACT": ["prise", "checks.RoomBokked.price", "checks.*.price", "room"]}

    found = [text_of(m) for m in check_settings() if m.id == "pm_celery.W049"]

    assert len(found) == 2
    assert "'prise'" in found[0]
    assert "Did you mean 'price'?" in found[0]
    assert "Did you mean 'checks.RoomBooked'?" in found[1]


def test_w050_retention_names_a_process_that_nobody_declares(settings: Any) -> None:
    class Booking(ProcessManager):
        class Meta:
            name = "checks.Booking"

        @handle(RoomBooked, start=True, correlate="room")
        def booked(self, event: RoomBooked) -> None: ...

    settings.PM_CELERY = {"RETENTION": {"checks.Boking": "1d", "checks.Booking": "1d", "x.Y": "1d"}}

    found = [text_of(m) for m in check_settings() if m.id == "pm_celery.W050"]

    assert len(found) == 2
    assert "'checks.Boking'" in found[0]
    assert "Did you mean 'checks.Booking'?" in found[0]
    assert "Remove it once none of its rows are left." in found[1]


def test_w054_external_events_names_what_no_event_is_called(settings: Any) -> None:
    settings.PM_CELERY = {
        "EXTERNAL_EVENTS": ["checks.Room*", "checks.RoomLeft", "checks.RoomLft", "checks.CleanRoom"]
    }

    found = [text_of(m) for m in check_settings() if m.id == "pm_celery.W054"]

    assert len(found) == 2
    assert "'checks.RoomLft', which no event is called" in found[0]
    assert "Did you mean 'checks.RoomLeft'?" in found[0]
    assert "'checks.CleanRoom'" in found[1]  # a command


def test_w006_a_sensitive_field_is_a_correlation_key(settings: Any) -> None:
    settings.PM_CELERY = {"REDACT": ["checks.RoomBooked.room"]}

    class Booking(ProcessManager):
        @handle(RoomBooked, start=True, correlate="room")
        def booked(self, event: RoomBooked) -> None: ...

        @handle(RoomLeft, correlate="room")
        def left(self, event: RoomLeft) -> None: ...

    found = [m.msg for m in check_declarations() if m.id == "pm_celery.W006"]

    (text,) = [text for text in found if Booking.__qualname__ in text]
    assert "RoomBooked by 'room'" in text


def test_e023_a_secret_that_would_be_stored_as_asterisks() -> None:
    @event(name="checks.Locked")
    class Locked(BaseModel):
        code: SecretStr

    found = [text_of(m) for m in check_declarations() if m.id == "pm_celery.E023"]

    (text,) = [text for text in found if "Locked" in text]
    assert "Annotated[SecretStr, Sensitive]" in text


def test_e007_a_secret_in_a_state_that_would_be_stored_as_asterisks() -> None:
    class Booking(ProcessManager):
        code: SecretStr = SecretStr("")

        @handle(RoomBooked, start=True, correlate="room")
        def booked(self, event: RoomBooked) -> None: ...

    found = [text_of(m) for m in check_declarations() if m.id == "pm_celery.E007"]

    (text,) = [text for text in found if Booking.__qualname__ in text]
    assert "Annotated[SecretStr, Sensitive]" in text
