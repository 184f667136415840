"""The servers as fixtures, and which tests run on which database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests import brokers, databases
from tests.before_django import mariadb_key, missing_key, postgres_key, servers_are_required
from tests.brokers import Broker
from tests.driving import Time
from tests.servers import (
    MariaDbServer,
    PostgresServer,
    RabbitMqServer,
    RedisServer,
    Server,
    ServerMissing,
)

S = TypeVar("S", bound=Server)


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """What a test declares, and what it lets handlers do wrong, ends with it."""
    from pm_celery.registry import isolated_registries
    from tests.orders import Plan

    with isolated_registries():
        yield
    Plan.raise_in = {}
    Plan.ran = []


@pytest.fixture
def commands_with_handlers() -> None:
    """Only these are declared: other tests declare some when imported, and their handlers while they run."""
    from pm_celery import registry

    registry.messages.replace(
        found
        for found in registry.messages
        if found.kind != "command" or registry.command_handlers.get(found.name)
    )


@pytest.fixture
def time() -> Iterator[Time]:
    """Virtual time."""
    with Time() as virtual:
        yield virtual


SERVERS: dict[str, type[Server]] = {
    "redis_url": RedisServer,
    "postgres_server": PostgresServer,
    "mariadb_server": MariaDbServer,
    "rabbitmq_url": RabbitMqServer,
}


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The address of a Redis of our own, as a broker URL."""
    with started(RedisServer()) as server:
        yield server.url


@pytest.fixture(scope="session")
def rabbitmq_url() -> Iterator[str]:
    """The address of a RabbitMQ of our own, as a broker URL."""
    with started(RabbitMqServer()) as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A PostgreSQL of our own, for databases besides the test database."""
    if postgres_key in request.config.stash:
        yield request.config.stash[postgres_key]
        return
    with started(PostgresServer()) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server(request: pytest.FixtureRequest) -> Iterator[MariaDbServer]:
    """A MariaDB of our own, for databases besides the test database."""
    if mariadb_key in request.config.stash:
        yield request.config.stash[mariadb_key]
        return
    with started(MariaDbServer()) as server:
        yield server


@pytest.fixture
def any_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Broker:
    """The broker of this run of the suite, with what earlier tests have left in it."""
    match brokers.broker_kind():
        case "redis":
            # Without these a Redis that accepts and never answers would block a test for ever.
            options = {"socket_timeout": 5, "socket_connect_timeout": 5}
            return Broker(request.getfixturevalue("redis_url"), options)
        case "rabbitmq":
            return Broker(request.getfixturevalue("rabbitmq_url"), {})
        case _:
            return Broker("pm-filesystem://", {"folder": str(tmp_path / "broker")})


@contextmanager
def started(server: S) -> Iterator[S]:
    reason = ""
    with ExitStack() as stack:
        try:
            stack.enter_context(server)
        except ServerMissing as missing:
            reason = str(missing)
        # Outside the except, or pytest prints the chain of both exceptions.
        if reason and servers_are_required():
            pytest.fail(f"{reason} With CI set, this is an error.", pytrace=False)
        if reason:
            pytest.skip(reason)
        yield server


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if missing_key in config.stash:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=config.stash[missing_key]))
    for item in items:
        for marker in item.iter_markers("needs"):
            for reason in filter(None, map(_lacks, marker.args)):
                item.add_marker(pytest.mark.skip(reason=reason))
    if theme := os.environ.get("PM_TEST_THEME"):
        for item in items:
            if item.get_closest_marker("stock_theme"):
                item.add_marker(
                    pytest.mark.skip(
                        reason=f"{theme} has scripts in its pages, and a site of its own"
                    )
                )
    # Deselected rather than skipped: they run where that is the database.
    elsewhere = {"sqlite", "postgresql", "mariadb"} - {databases.database()}
    if databases.database() != "sqlite":
        elsewhere.add("any_database")
    dropped = [item for item in items if any(map(item.get_closest_marker, elsewhere))]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def _lacks(capability: str) -> str:
    """Why the database or the broker of this run cannot do that, or ""."""
    for names, lacking, ours in (
        (databases.NAMES, databases.LACKING, databases.database()),
        (brokers.NAMES, brokers.LACKING, brokers.broker_kind()),
    ):
        if capability in lacking:
            reason = lacking[capability].get(ours)
            return f"{names[ours]} has {reason}" if reason else ""
    raise pytest.UsageError(f"needs({capability!r}): no database and no broker is known to lack it")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Installs what the selected tests lack, here, where no test's timeout is running."""
    if session.config.option.collectonly:
        return
    needed = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if "any_broker" in needed:
        needed |= {f"{brokers.broker_kind()}_url"}
    capture = session.config.pluginmanager.getplugin("capturemanager")
    for fixture in needed & SERVERS.keys():
        try:
            with capture.global_and_fixture_disabled():
                SERVERS[fixture].provide(install=True)
        except ServerMissing:
            continue  # the fixture tells, test by test
