"""Durations as people write them, and the waits between the runs of what failed."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest

from pm_celery import Retry
from pm_celery.durations import parse_duration
from pm_celery.exceptions import DeclarationError, InvalidMessage, Misuse, UndecodablePayload

seconds = timedelta(seconds=1)


# -- durations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("30s", timedelta(seconds=30)),
        ("1m", timedelta(minutes=1)),
        ("24h", timedelta(hours=24)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(weeks=2)),
        ("1d12h", timedelta(days=1, hours=12)),
        ("1d 12h 30m 15s", timedelta(days=1, hours=12, minutes=30, seconds=15)),
        ("  7d  ", timedelta(days=7)),
        ("7 d", timedelta(days=7)),
        ("1.5h", timedelta(minutes=90)),
        ("0.05s", timedelta(milliseconds=50)),
        ("90m", timedelta(minutes=90)),
        ("1h1h", timedelta(hours=2)),
        (timedelta(hours=5, microseconds=1), timedelta(hours=5, microseconds=1)),
        ("36500d", timedelta(days=36500)),
    ],
)
def test_a_duration_is_written_as_people_write_it(written: Any, meant: timedelta) -> None:
    """Conformance 5."""
    assert parse_duration(written) == meant


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "7",
        "d",
        "7 days",
        "7D",
        "1y",
        "-1h",
        "+1h",
        "1h-30m",
        "1h,30m",
        ".5h",
        "1.h",
        "1e3s",
        "P7D",
        "07:00",
        "infs",
        "nans",
        "1h x",
        7,
        7.5,
        True,
        None,
        b"7d",
        ["7d"],
        object(),
    ],
    ids=repr,
)
def test_what_is_no_duration_is_refused_with_an_example(written: Any) -> None:
    """Conformance 5."""
    with pytest.raises(ValueError, match="'30s', '5m', '24h', '7d' or '1d12h'"):
        parse_duration(written)


@pytest.mark.parametrize(
    "written", ["0s", "0d0h", timedelta(0), timedelta(seconds=-1), "0.00000001s"]
)
def test_a_duration_lies_in_the_future(written: Any) -> None:
    """Conformance 5."""
    with pytest.raises(ValueError, match="must lie in the future"):
        parse_duration(written)


def test_zero_is_a_duration_where_it_makes_sense() -> None:
    """Conformance 5."""
    assert parse_duration("0s", allow_zero=True) == timedelta(0)
    with pytest.raises(ValueError, match="future"):
        parse_duration(timedelta(seconds=-1), allow_zero=True)


@pytest.mark.parametrize("written", ["36501d", "9" * 400 + "d", timedelta.max, "1d" * 40000])
def test_a_duration_beyond_a_century_is_a_mistake(written: Any) -> None:
    """Conformance 5."""
    with pytest.raises(ValueError, match="longer than a century"):
        parse_duration(written)


# -- retries -----------------------------------------------------------------------------------------


def waits(retry: Retry, how_many: int = 6) -> list[float]:
    return [retry.wait(number) / seconds for number in range(1, how_many + 1)]


def test_fixed_waits_are_all_alike() -> None:
    """Conformance 38."""
    assert waits(Retry("fixed", delay="5s", jitter=False)) == [5, 5, 5, 5, 5, 5]


def test_linear_waits_grow_by_the_delay() -> None:
    """Conformance 38."""
    assert waits(Retry("linear", delay="5s", jitter=False)) == [5, 10, 15, 20, 25, 30]


def test_exponential_waits_double() -> None:
    """Conformance 38."""
    assert waits(Retry("exponential", delay="5s", jitter=False)) == [5, 10, 20, 40, 80, 160]


@pytest.mark.parametrize("strategy", ["fixed", "linear", "exponential"])
def test_no_wait_is_longer_than_the_maximum(strategy: Any) -> None:
    """Conformance 38."""
    retry = Retry(strategy, delay="40s", max_delay="1m", jitter=False)

    assert max(waits(retry)) <= 60
    assert retry.wait(10_000) <= timedelta(minutes=1)
    assert Retry(strategy, delay="2h", max_delay="1m", jitter=False).wait(1) == 60 * seconds


def test_the_maximum_is_an_hour_unless_it_is_given() -> None:
    """Conformance 38."""
    assert Retry("exponential", jitter=False).wait(1000) == timedelta(hours=1)


@pytest.mark.parametrize("strategy", ["fixed", "linear", "exponential"])
def test_jitter_shortens_a_wait_by_up_to_a_half_and_never_lengthens_it(strategy: Any) -> None:
    """Conformance 38."""
    random.seed(1)
    plain = Retry(strategy, delay="10s", max_delay="1m", jitter=False)
    jittered = Retry(strategy, delay="10s", max_delay="1m", jitter=True)

    for number in (1, 2, 3, 50):
        shares = [jittered.wait(number) / plain.wait(number) for _ in range(500)]
        assert min(shares) >= 0.5
        assert max(shares) <= 1
        assert max(shares) - min(shares) > 0.4


def test_what_failed_together_does_not_come_back_together() -> None:
    """Conformance 38. There is jitter unless it is switched off."""
    assert len({Retry("fixed", delay="10s").wait(1) for _ in range(100)}) > 50


@pytest.mark.parametrize("strategy", ["fixed", "linear", "exponential"])
def test_three_retries_are_four_runs(strategy: Any) -> None:
    """Conformance 38."""
    assert Retry(strategy, max_retries=3).max_runs == 4
    assert Retry(strategy, max_retries=0).max_runs == 1


def test_none_is_one_run_whatever_else_is_said() -> None:
    """Conformance 38."""
    assert Retry("none").max_runs == 1
    assert Retry("none", max_retries=5).max_runs == 1


def test_without_a_word_a_run_is_retried_three_times_with_growing_waits() -> None:
    """Conformance 38."""
    retry = Retry()

    assert (retry.strategy, retry.max_runs, retry.jitter) == ("exponential", 4, True)
    assert Retry() == Retry("exponential", max_retries=3, delay="1s", max_delay="1h")


def test_exceptions_named_terminal_are_not_retried_and_neither_are_their_subclasses() -> None:
    """Conformance 38."""
    retry = Retry(terminal=(LookupError, ZeroDivisionError))

    assert retry.is_terminal(KeyError("a"))
    assert retry.is_terminal(ZeroDivisionError())
    assert not retry.is_terminal(ValueError())
    assert not Retry().is_terminal(KeyError("a"))


@pytest.mark.parametrize("error", [Misuse(), InvalidMessage(), UndecodablePayload()])
def test_mistakes_of_code_or_data_are_never_retried(error: Exception) -> None:
    """Conformance 38."""
    assert Retry().is_terminal(error)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"strategy": "often"}, "none, fixed, linear, exponential"),
        ({"strategy": None}, "none, fixed, linear, exponential"),
        ({"max_retries": -1}, "0 or more"),
        ({"max_retries": 1.5}, "0 or more"),
        ({"max_retries": "3"}, "0 or more"),
        ({"max_retries": True}, "0 or more"),
        ({"max_retries": None}, "0 or more"),
        ({"delay": "soon"}, "is no duration"),
        ({"delay": 5}, "is no duration"),
        ({"max_delay": "-1h"}, "is no duration"),
        ({"terminal": ValueError}, "tuple of exception classes"),
        ({"terminal": (ValueError(),)}, "tuple of exception classes"),
        ({"terminal": ("ValueError",)}, "tuple of exception classes"),
    ],
)
def test_a_retry_that_cannot_be_is_a_start_up_error(arguments: Any, words: str) -> None:
    """Conformance 38."""
    with pytest.raises(DeclarationError, match=words):
        Retry(**arguments)


def test_a_retry_is_a_value() -> None:
    """Conformance 38. It is shared between handlers: nobody may change it."""
    retry = Retry("fixed", delay="5s")

    assert retry == Retry("fixed", delay=timedelta(seconds=5))
    assert hash(retry) == hash(Retry("fixed", delay="5s"))
    with pytest.raises(AttributeError):
        retry.max_retries = 9  # type: ignore[misc]
