"""System checks of versions: what each says. Tests are named after the ids."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import pytest
from django.core.checks import run_checks

from pm_celery import ProcessManager, Sensitive, command, event, handle, publish, upcast
from pm_celery.checks import check_declarations, check_settings, check_versions
from pm_celery.exceptions import DeclarationError
from pm_celery.registry import isolated_registries
from tests.releases import release

pytestmark = pytest.mark.any_database


@event(name="versioned.Booked", version=3)
class Booked:
    room: str
    price: Decimal = Decimal(1)


def said(thing: Any, found: list[Any] | None = None) -> dict[str, str]:
    """Of a function, class or event: what is said, with its hint, by id."""
    where = thing if isinstance(thing, str) else f"{thing.__module__}.{thing.__qualname__}"
    return {
        str(message.id).removeprefix("pm_celery."): f"{message.msg} | {message.hint}"
        for message in (check_versions() if found is None else found)
        if where in message.msg
    }


def test_three_releases_as_they_should_be_are_not_mentioned() -> None:
    with release(3) as newest:
        found = [*check_versions(), *check_declarations()]

    assert said("in_whole_units", found) == said("releases.Placed", found) == {}
    assert said(newest.Order, found).keys() == {"W001", "W002"}


def test_the_check_command_runs_them() -> None:
    upcast(Booked, from_version=2.5)(lambda payload: payload)  # type: ignore[arg-type]

    assert "pm_celery.E013" in {message.id for message in run_checks(tags=["pm_celery"])}


@pytest.mark.parametrize("target", ["versioned.Booked", str, None])
def test_e012_an_upcast_of_no_event_and_no_command(target: Any) -> None:
    @upcast(target, from_version=1)
    def of_nothing(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    assert "@event or @command" in said(of_nothing)["E012"]


@pytest.mark.parametrize("version", [0, 3, 4, True, "1", None, 1.0])
def test_e013_an_upcast_from_what_is_no_older_version(version: Any) -> None:
    @upcast(Booked, from_version=version)
    def of_odd_version(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    text = said(of_odd_version)["E013"]
    assert f"from version {version!r}, and its present one is 3" in text
    assert "@event(version=" in text


def test_e014_a_step_of_a_chain_is_missing() -> None:
    @upcast(Booked, from_version=1)
    def to_second(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    assert "@upcast(Booked, from_version=2)" in said("versioned.Booked")["E014"]

    @upcast(Booked, from_version=2)
    def to_third(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    assert said("versioned.Booked") == {}


def test_e014_is_silent_about_versions_before_the_first_upcast() -> None:
    @upcast(Booked, from_version=2)
    def to_third(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    assert said("versioned.Booked") == {}


def test_e014_a_version_has_two_upcasts() -> None:
    @command(name="versioned.Clean", version=2)
    class Clean:
        room: str

    @upcast(Clean, from_version=1)
    def one(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    @upcast(Clean, from_version=1)
    def other(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    text = said("versioned.Clean")["E014"]
    assert one.__qualname__ in text
    assert other.__qualname__ in text
    assert "Keep one" in text


def test_e015_an_upcast_is_no_plain_function_of_a_payload() -> None:
    @upcast(Booked, from_version=2)
    async def asynchronous(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    @upcast(Booked, from_version=2)  # type: ignore[arg-type]
    def of_two(payload: dict[str, Any], version: int) -> dict[str, Any]:
        return payload

    assert "def …(payload)" in said(asynchronous)["E015"]
    assert "def …(payload)" in said(of_two)["E015"]


def declared(version: Any, upgrade: Any = None) -> type[ProcessManager]:
    class Stay(ProcessManager):
        class Meta:
            name = "versioned.stay"
            timeout = "7d"
            correlate = "room"

        Meta.state_version = version  # type: ignore[attr-defined]
        if upgrade is not None:
            locals()["upgrade_state"] = upgrade

        @handle(Booked, start=True)
        def booked(self, event: Any) -> None: ...

    return Stay


@pytest.mark.parametrize("version", [0, -1, True, "2", None, 2.0, 32768])
def test_e016_a_state_s_version_is_none(version: Any) -> None:
    stay = declared(version)

    assert "whole number from 1" in said(stay, check_declarations())["E016"]
    with pytest.raises(DeclarationError, match="state_version"):
        publish(Booked(room="r-1"))  # type: ignore[call-arg]


def plain(state: Any, from_version: int) -> Any:
    return state


@classmethod  # type: ignore[misc]
def of_one(cls: Any, state: Any) -> Any:
    return state


@classmethod  # type: ignore[misc]
async def asynchronous(cls: Any, state: Any, from_version: int) -> Any:
    return state


@pytest.mark.parametrize("upgrade", [plain, of_one, asynchronous, 7])
def test_e016_upgrade_state_is_no_classmethod_of_a_state_and_its_version(upgrade: Any) -> None:
    stay = declared(2, upgrade)

    assert "@classmethod def upgrade_state" in said(stay, check_declarations())["E016"]


def test_e016_is_silent_for_a_class_or_static_method() -> None:
    for method in (classmethod(lambda cls, state, version: state), staticmethod(plain)):
        assert "E016" not in said(declared(2, method), check_declarations())


def test_w007_a_version_without_an_upgrade_and_an_upgrade_without_a_version() -> None:
    upgrade = staticmethod(plain)
    found = []
    for version, method in ((2, None), (1, upgrade), (1, None), (2, upgrade)):
        with isolated_registries():
            found.append(said(declared(version, method)).get("W007", ""))

    assert "no upgrade_state" in found[0]
    assert "state_version = 2" in found[1]
    assert found[2:] == ["", ""]


def test_w049_is_silent_about_a_field_that_an_older_version_may_have_had(settings: Any) -> None:
    @event(name="versioned.Paid", version=2)
    class Paid:
        card_number: Annotated[str, Sensitive]

    settings.PM_CELERY = {"REDACT": ["versioned.Paid.card", "crad"]}

    warned = [str(message.msg) for message in check_settings() if message.id == "pm_celery.W049"]
    assert len(warned) == 1
    assert "'crad'" in warned[0]
