"""The servers that the suite starts for itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from kombu import Connection
from psycopg import sql

from tests import mysqlclient, servers
from tests.servers import (
    MariaDbServer,
    PostgresServer,
    RabbitMqServer,
    RedisServer,
    Server,
    ServerFailed,
    ServerMissing,
)

pytestmark = pytest.mark.any_database

# MariaDB takes seconds to begin, and is there for certain only where it is the test database.
EACH = [RedisServer, PostgresServer, pytest.param(MariaDbServer, marks=pytest.mark.mariadb)]


@pytest.fixture
def no_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without servers, run by an ordinary user; returns the only folder in PATH."""
    servers.install_package.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(servers, "POSTGRES_FOLDERS", ())
    monkeypatch.setattr(servers, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    return tmp_path


@pytest.fixture
def apt_get(no_servers: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An apt-get for root that notes how it was called and whether services may start."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    program = no_servers / "apt-get"
    program.write_text(
        f"""#!/bin/sh
        echo "$DEBIAN_FRONTEND $*" >> {no_servers}/calls
        [ -x {no_servers}/policy-rc.d ] && echo "services stay down" >> {no_servers}/calls
        case "$*" in
            *redis-server*) : > {no_servers}/redis-server; /bin/chmod +x {no_servers}/redis-server;;
            *postgresql*) echo "E: Unable to fetch some archives"; exit 100;;
        esac
        """
    )
    program.chmod(0o755)
    return program


def test_redis_answers(redis_url: str) -> None:
    """The suite's Redis stores what it is given and gives it back."""
    with closing(redis.Redis.from_url(redis_url)) as client:
        client.set("tests.servers", "here")

        assert client.get("tests.servers") == b"here"

        client.delete("tests.servers")


def test_postgres_answers(postgres_server: PostgresServer) -> None:
    """PostgreSQL makes a database that can be used at once, and syncs to disk unless told otherwise."""
    url = postgres_server.create_database("a database of our own")

    with closing(psycopg.connect(url)) as connection:
        row = connection.execute("SELECT current_database(), current_setting('fsync')").fetchone()

    assert row == ("a database of our own", "on" if postgres_server.durable else "off")
    with closing(psycopg.connect(postgres_server.url("postgres"), autocommit=True)) as connection:
        connection.execute(
            sql.SQL("DROP DATABASE {}").format(sql.Identifier("a database of our own"))
        )


@pytest.mark.mariadb
def test_mariadb_answers(mariadb_server: MariaDbServer) -> None:
    """MariaDB makes a database that can be used at once, and has the driver with it."""
    import MySQLdb

    mariadb_server.create_database("a database of our own")
    address = {"host": mariadb_server.host, "port": mariadb_server.port, "user": "root"}

    with (
        closing(MySQLdb.connect(**address, database="a database of our own")) as connection,
        closing(connection.cursor()) as cursor,
    ):
        cursor.execute("SELECT DATABASE(), @@innodb_flush_log_at_trx_commit")
        row = cursor.fetchone()
        cursor.execute("DROP DATABASE `a database of our own`")

    assert row == ("a database of our own", 1 if mariadb_server.durable else 0)


@pytest.mark.usefixtures("redis_url")
def test_two_redis_servers_run_side_by_side() -> None:
    """Two Redis servers have two ports, and what one stores the other does not see."""
    with RedisServer() as one, RedisServer() as two:
        with (
            closing(redis.Redis.from_url(one.url)) as first,
            closing(redis.Redis.from_url(two.url)) as second,
        ):
            first.set("key", "value")

            assert second.get("key") is None

        assert one.port != two.port


@pytest.mark.usefixtures("postgres_server")
def test_two_postgres_servers_run_side_by_side() -> None:
    """Two PostgreSQL servers have two ports, and a database of one is unknown to the other."""
    with PostgresServer() as one, PostgresServer() as two:
        one.create_database("mine")

        with pytest.raises(psycopg.OperationalError, match='database "mine" does not exist'):
            psycopg.connect(two.url("mine"))

        assert one.port != two.port


@pytest.mark.usefixtures("postgres_server", "redis_url")
@pytest.mark.parametrize("server_class", EACH)
def test_a_stopped_server_leaves_nothing(server_class: type[Server]) -> None:
    """After its end a server neither listens nor has files, and a second stop is harmless."""
    with server_class() as server:
        assert listens(server.port)

    server.stop()

    assert not listens(server.port)
    assert not server.directory.exists()


@pytest.mark.usefixtures("redis_url")
def test_a_redis_that_crashed_comes_up_again_empty() -> None:
    """It listens on the port that it had, and has forgotten everything."""
    with RedisServer() as server, closing(redis.Redis.from_url(server.url)) as client:
        client.set("key", "value")
        port = server.port

        server.crash()
        assert not listens(port)
        server.resume()

        assert server.port == port
        assert client.get("key") is None


@pytest.mark.usefixtures("postgres_server")
def test_a_postgres_that_crashed_comes_up_again_with_its_data() -> None:
    """An immediate stop cuts its clients off; what was committed is there afterwards."""
    with PostgresServer(durable=False) as server:
        url = server.create_database("mine")
        with closing(psycopg.connect(url, autocommit=True)) as client:
            client.execute("CREATE TABLE kept AS SELECT 1 AS number")

            server.crash()
            with pytest.raises(psycopg.OperationalError):
                client.execute("SELECT 1")
        server.resume()

        with closing(psycopg.connect(url)) as client:
            assert client.execute("SELECT number FROM kept").fetchall() == [(1,)]


@pytest.mark.skipif(RabbitMqServer.find() is None, reason="RabbitMQ is not installed")
def test_a_rabbitmq_has_all_its_ports_on_loopback_and_takes_its_port_mapper_along() -> None:
    """It answers, comes up again on its port after a crash, and nothing of it is left at its end."""
    with RabbitMqServer() as server:
        port = server.port
        server.crash()
        server.resume()

        with Connection(server.url) as connection:
            connection.SimpleQueue("here").put("a message")
            assert connection.SimpleQueue("here").get(timeout=10).payload == "a message"
        ports = server.ports
        assert port in ports
        assert all(listens(port) for port in ports)
        assert not any(listens_everywhere(port) for port in ports)

    assert not any(listens(port) for port in ports)
    assert not server.directory.exists()


@pytest.mark.usefixtures("postgres_server", "redis_url")
@pytest.mark.parametrize("server_class", EACH)
def test_a_killed_run_leaves_nothing(server_class: type[Server]) -> None:
    """A server ends, and its files go, when the process that started it is killed."""
    program = f"""
import time
from tests.servers import {server_class.__name__}
server = {server_class.__name__}().start()
print(server.port, server.directory, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        port, directory = run.stdout.readline().split()
        assert listens(int(port))

        run.send_signal(signal.SIGKILL)
        run.wait()

    deadline = time.monotonic() + 20
    while (listens(int(port)) or Path(directory).exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not listens(int(port))
    assert not Path(directory).exists()


@pytest.mark.usefixtures("postgres_server", "redis_url")
@pytest.mark.parametrize("server_class", EACH)
def test_a_server_whose_port_was_taken_takes_another(
    server_class: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else may listen on the port that was free a moment ago."""
    with RedisServer() as other:
        ports = iter([other.port, servers.free_port()])
        monkeypatch.setattr(servers, "free_port", lambda: next(ports))

        with server_class() as server:
            assert server.port != other.port
            assert listens(server.port)


@pytest.mark.usefixtures("redis_url")
def test_a_server_that_does_not_start_shows_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what happened, with the end of the server's log, and nothing stays behind."""
    broken = RedisServer()
    command = broken._command
    monkeypatch.setattr(broken, "_command", lambda programs: [*command(programs), "--nonsense"])

    with pytest.raises(ServerFailed, match=r"Redis ended at once(.|\n)*nonsense"):
        broken.start()

    assert not broken.directory.exists()


@pytest.mark.usefixtures("no_servers")
@pytest.mark.parametrize("server_class", EACH)
def test_without_the_program_the_reason_names_how_to_get_it(server_class: type[Server]) -> None:
    """The one who reads the reason for a skip knows what to type next."""
    with pytest.raises(ServerMissing, match=f"`apt-get install {server_class.package}`"):
        server_class(install=True).start()


def test_root_gets_the_package_without_its_service(apt_get: Path) -> None:
    """A missing server is installed for root, and the package's own service is not started."""
    folder = RedisServer.provide(install=True)

    assert folder == apt_get.parent
    calls = (apt_get.parent / "calls").read_text()
    assert "noninteractive -q -y -o DPkg::Lock::Timeout=120 install" in calls
    assert calls.endswith("redis-server\nservices stay down\n")
    assert not servers.POLICY.exists()


def test_a_policy_of_the_machine_is_kept(apt_get: Path) -> None:
    """A machine that has a say in which services start keeps it."""
    servers.POLICY.write_text("#!/bin/sh\nexit 0\n")

    RedisServer.provide(install=True)

    assert servers.POLICY.read_text() == "#!/bin/sh\nexit 0\n"


def test_root_gets_mariadb_with_its_driver(apt_get: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is compiled, so what that takes is installed before it."""
    pip: list[list[str]] = []
    run = subprocess.run
    monkeypatch.setattr("importlib.util.find_spec", lambda name: pip or None)

    def note_pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if command[0] != sys.executable:
            return run(command, **options)
        pip.append(command[1:])
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.setattr("subprocess.run", note_pip)

    mysqlclient.provide_mysqlclient(install=True)

    assert (
        "install --no-install-recommends libmariadb-dev pkg-config"
        in (apt_get.parent / "calls").read_text()
    )
    assert pip == [["-m", "pip", "install", "--quiet", mysqlclient.REQUIREMENT]]


@pytest.mark.usefixtures("no_servers")
def test_without_the_driver_the_reason_names_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one who reads the reason for a skip knows what to type next."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ServerMissing, match=r"libmariadb-dev .* and `pip install mysqlclient`"):
        mysqlclient.provide_mysqlclient(install=True)


@pytest.mark.usefixtures("apt_get")
def test_a_failed_installation_is_part_of_the_reason() -> None:
    """The one who reads the reason for a skip learns why the installation did not work."""
    with pytest.raises(ServerMissing, match="Unable to fetch some archives"):
        PostgresServer.provide(install=True)


@pytest.mark.postgresql
def test_postgres_of_the_suite_is_the_test_database(postgres_server: PostgresServer) -> None:
    """The suite's PostgreSQL is started once, for Django and for everybody else."""
    assert os.environ["PM_TEST_PG_PORT"] == str(postgres_server.port)


@pytest.mark.mariadb
def test_mariadb_of_the_suite_is_the_test_database(mariadb_server: MariaDbServer) -> None:
    """The suite's MariaDB is started once, for Django and for everybody else."""
    assert os.environ["PM_TEST_MARIADB_PORT"] == str(mariadb_server.port)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((servers.HOST, port)) == 0


def listens_everywhere(port: int) -> bool:
    """Whether a port is open to other machines."""
    hexadecimal = f":{port:04X}"
    listening = [
        line.split()[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(hexadecimal)
    ]
    loopback = ("0100007F:", f"{'0' * 24}01000000:")
    return any(not address.startswith(loopback) for address in listening)
