"""Handing messages to a broker that goes away: never the caller's failure, and told aloud."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, current_app
from redis import Redis

from pm_celery import signals
from pm_celery.broker import post_office
from tests.conftest import started
from tests.servers import RedisServer


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis that the test may kill, and Celery's current app with it as its broker."""
    with started(RedisServer()) as server:
        before = current_app._get_current_object()
        Celery("a shop", broker=server.url, set_as_current=True)
        yield server
        before.set_current()


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What the signal ``broker_unreachable`` said could not be sent."""
    found: list[str] = []

    def note(what: str, **_: Any) -> None:
        found.append(what)

    signals.broker_unreachable.connect(note)
    yield found
    signals.broker_unreachable.disconnect(note)


def lying_in(server: RedisServer) -> int:
    with Redis.from_url(server.url) as client:
        return int(client.llen("celery"))


def test_messages_that_are_gathered_arrive_together(redis: RedisServer, told: list[str]) -> None:
    with post_office(3) as post:
        assert all(post.send("a task", [n], what=f"message {n}") for n in range(3))

    assert lying_in(redis) == 3
    assert (post.broken, told) == (False, [])


def test_a_broker_that_dies_before_what_was_gathered_is_sent_fails_nobody(
    redis: RedisServer, told: list[str]
) -> None:
    with post_office(3) as post:
        for n in range(3):
            post.send("a task", [n], what=f"message {n}")
        redis.stop()

    assert post.broken
    assert told == ["some of 3 messages"]


def test_after_a_broker_that_died_in_the_middle_nothing_more_is_tried(
    redis: RedisServer, told: list[str]
) -> None:
    """More than kombu gathers before it sends: one of the sends fails, and the others are spared."""
    with post_office(5000) as post:
        post.send("a task", [0], what="message 0")
        redis.stop()
        sent = [post.send("a task", [n], what=f"message {n}") for n in range(1, 5000)]

    assert post.broken
    assert sent.index(False) > 0
    assert not any(sent[sent.index(False) :])
    assert len(told) == 1


def test_what_the_caller_raises_inside_a_post_office_reaches_him_and_sends_nothing(
    redis: RedisServer,
) -> None:
    with pytest.raises(LookupError), post_office(3) as post:
        post.send("a task", [1], what="message 1")
        raise LookupError

    assert lying_in(redis) == 0
