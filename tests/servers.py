"""Throw-away servers on free loopback ports, for the tests, benchmarks and whoever else needs one.

::

    with RedisServer() as redis, PostgresServer() as postgres:
        print(redis.url, postgres.url("postgres"))

Each has its own temporary folder and its own port, and both are gone afterwards, also when the
process that started the server is killed. Servers that run on the machine already are never used
and never stopped.
"""

from __future__ import annotations

import fcntl
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import quote

HOST = "127.0.0.1"
START_SECONDS = 60.0
PORT_ATTEMPTS = 5

# Where packages put PostgreSQL's programs, which are rarely in PATH.
POSTGRES_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)

# Where packages put RabbitMQ's own programs, beside the scripts for its service.
RABBITMQ_FOLDERS = ("/usr/lib/rabbitmq/bin", "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin")

# How servers say that somebody else listens on their port.
PORT_TAKEN = ("address already in use", "eaddrinuse")

# Debian asks this script before a package starts its service; 101 means "do not".
POLICY = Path("/usr/sbin/policy-rc.d")

# Waits for its standard input to close, which happens when the process that holds the other end
# ends in whatever way, then takes down the server, what it started, and its folder.
GUARD = """
read -r _
kill -"$3" "$1" 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$1" 2>/dev/null || break; sleep 0.5; done
kill -9 -- "-$1" 2>/dev/null
rm -rf "$2"
"""


class ServerMissing(Exception):
    """The server's programs are not on this machine; the message says how to get them."""


class ServerFailed(Exception):
    """The server is installed but did not start; the message ends with its log."""


class PortTaken(ServerFailed):
    """Somebody took the free port before the server could."""


class Server(ABC):
    """A server process with a port and a folder of its own, between `start` and `stop`."""

    title: ClassVar[str]
    package: ClassVar[str]
    # What asks it to end at once, and in good order.
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT
    # What lets it end on the spot, with whatever it had in hand.
    crash_signal: ClassVar[signal.Signals] = signal.SIGKILL

    port: int
    directory: Path

    def __init__(self, *, install: bool = False) -> None:
        """Starts nothing yet; with `install`, a missing server is installed where that may be."""
        self.install = install
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @classmethod
    def provide(cls, *, install: bool = False) -> Path:
        """The folder of the server's programs, installed now if need be, or `ServerMissing`."""
        folder = cls.find()
        problem = ""
        if folder is None and install and may_install():
            problem = install_package(cls.package)
            folder = cls.find()
        if folder is None:
            raise ServerMissing(
                f"{cls.title} is not installed. Get it with `apt-get install {cls.package}` or "
                f"your system's equivalent; as root, where there is apt-get, the tests do.{problem}"
            )
        return folder

    def start(self) -> Self:
        """Starts the server and returns when it answers."""
        programs = self.provide(install=self.install)
        # Not in TMPDIR: a socket's path must be short, and root's own folders are closed to others.
        self.directory = Path(tempfile.mkdtemp(prefix="pm-celery-", dir="/tmp"))
        try:
            self._prepare(programs)
            for attempt in range(1, PORT_ATTEMPTS + 1):
                try:
                    self._launch(programs)
                    break
                except PortTaken:
                    if attempt == PORT_ATTEMPTS:
                        raise
        except BaseException:  # Ctrl-C too must leave nothing behind
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Ends the server and deletes its folder; does nothing when that is already done."""
        self._end()
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory, ignore_errors=True)

    def crash(self) -> None:
        """Ends the server on the spot, in the middle of whatever it does; its folder stays."""
        assert self._process is not None, f"{self.title} does not run"
        self._end(self.crash_signal)

    def resume(self) -> None:
        """Starts a crashed server again, on its port and with what its folder holds."""
        self._launch(self.provide(), self.port)

    @property
    def pid(self) -> int | None:
        """The id of the server's process, or None while there is none."""
        return self._process.pid if self._process else None

    @property
    def log(self) -> str:
        """What the server has written so far."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @classmethod
    @abstractmethod
    def find(cls) -> Path | None:
        """The folder of the server's programs, or None."""

    @abstractmethod
    def _command(self, programs: Path) -> list[str]:
        """The command that runs the server in the foreground on `self.port`."""

    @abstractmethod
    def _answers(self, pid: int) -> bool:
        """Whether the server with this process id, and no other, is ready for clients."""

    def _prepare(self, programs: Path) -> None:  # noqa: B027  most servers need nothing
        """Puts into the folder what has to be there before the first start."""

    def _account(self) -> pwd.struct_passwd | None:
        """The account to run as, where it is not the present one."""
        return None

    def _environment(self) -> dict[str, str]:
        """What the server is told by environment variables."""
        return {}

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        account = self._account()
        with open(self.directory / "log", "ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                # In English, because _launch reads the log.
                env={**os.environ, "LC_ALL": "C", **self._environment()},
                # Out of the reach of Ctrl-C, which is for us: we need the server a bit longer.
                start_new_session=True,
                user=account and account.pw_uid,
                group=account and account.pw_gid,
                extra_groups=account and [],
            )

    def _launch(self, programs: Path, port: int | None = None) -> None:
        self.port = port or free_port()
        self._process = self._popen(self._command(programs))
        self._guard = subprocess.Popen(
            [
                *("/bin/sh", "-c", GUARD, "guard"),
                *(str(self._process.pid), str(self.directory)),
                self.stop_signal.name.removeprefix("SIG"),
            ],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers(self._process.pid):
            if self._process.poll() is not None:
                self._end()
                taken = any(sign in self.log.lower() for sign in PORT_TAKEN)
                raise self._failure("ended at once", PortTaken if taken else ServerFailed)
            if time.monotonic() > deadline:
                raise self._failure(f"did not answer within {START_SECONDS:.0f} s")
            time.sleep(0.05)

    def _end(self, first: signal.Signals | None = None) -> None:
        if self._guard is not None:
            # Before the server, whose process id may belong to somebody else afterwards.
            self._guard.kill()
            self._guard.communicate()
            self._guard = None
        if self._process is not None:
            for number, seconds in (
                (first or self.stop_signal, 20),
                (signal.SIGQUIT, 5),
                (signal.SIGKILL, 5),
            ):
                self._process.send_signal(number)
                try:
                    self._process.wait(seconds)
                    break
                except subprocess.TimeoutExpired:
                    continue
            with suppress(ProcessLookupError):
                # What it started besides, and left behind.
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process = None

    def _failure(self, what: str, kind: type[ServerFailed] = ServerFailed) -> ServerFailed:
        return kind(f"{self.title} {what}. The end of its log:\n{tail(self.log)}")


class RedisServer(Server):
    """A Redis that keeps everything in memory."""

    title = "Redis"
    package = "redis-server"

    @property
    def url(self) -> str:
        """The address of its first database, as Celery wants it."""
        return f"redis://{HOST}:{self.port}/0"

    @classmethod
    def find(cls) -> Path | None:
        program = shutil.which("redis-server")
        return Path(program).parent if program else None

    def _command(self, programs: Path) -> list[str]:
        return [
            str(programs / "redis-server"),
            *("--port", str(self.port)),
            *("--bind", HOST),
            *("--save", ""),
            *("--appendonly", "no"),
            *("--dir", str(self.directory)),
            *("--daemonize", "no"),
        ]

    def _answers(self, pid: int) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(b"INFO server\r\nQUIT\r\n")
                answer = b"".join(iter(lambda: connection.recv(4096), b""))
        except OSError:
            return False
        return f"process_id:{pid}\r\n".encode() in answer


class PostgresServer(Server):
    """A PostgreSQL cluster that trusts everybody on this machine.

    PostgreSQL refuses to run as root; for root it runs as `postgres` or `nobody`.
    """

    title = "PostgreSQL"
    package = "postgresql"
    crash_signal = (
        signal.SIGQUIT
    )  # what pg_ctl calls an immediate stop: nothing is written any more

    host = HOST
    user = "postgres"

    def __init__(self, *, install: bool = False, durable: bool = True) -> None:
        """Without `durable` nothing is synced: emptying the tables after each test is quick then."""
        super().__init__(install=install)
        self.durable = durable

    def url(self, database: str) -> str:
        """The address of one of its databases, as libpq wants it."""
        return f"postgresql://{self.user}@{self.host}:{self.port}/{quote(database)}"

    def create_database(self, name: str) -> str:
        """Creates an empty database and returns its address."""
        # Here, so that whoever only needs a Redis needs no driver.
        import psycopg
        from psycopg import sql

        with closing(psycopg.connect(self.url("postgres"), autocommit=True)) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    @classmethod
    def find(cls) -> Path | None:
        in_path = shutil.which("initdb")
        folders = [Path(in_path).resolve().parent] if in_path else []
        for pattern in POSTGRES_FOLDERS:
            folders += sorted(Path("/").glob(pattern.lstrip("/")), key=_major_version, reverse=True)
        complete = (f for f in folders if (f / "initdb").exists() and (f / "postgres").exists())
        return next(complete, None)

    def _account(self) -> pwd.struct_passwd | None:
        if os.geteuid() != 0:
            return None
        for name in ("postgres", "nobody"):
            try:
                return pwd.getpwnam(name)
            except KeyError:
                continue
        raise ServerFailed(
            "PostgreSQL refuses to run as root, and there is neither an account `postgres` nor "
            "`nobody`. Run this as another user."
        )

    def _prepare(self, programs: Path) -> None:
        account = self._account()
        if account is not None:
            os.chown(self.directory, account.pw_uid, account.pw_gid)
        initdb = self._popen(
            [
                str(programs / "initdb"),
                f"--pgdata={self._data}",
                f"--username={self.user}",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",  # of the new files only; the server itself syncs as in production
            ]
        )
        try:
            failed = initdb.wait(START_SECONDS)
        except BaseException:
            initdb.kill()
            initdb.wait()
            raise
        if failed:
            raise self._failure("could not create its data folder")

    def _command(self, programs: Path) -> list[str]:
        return [
            str(programs / "postgres"),
            *("-D", str(self._data)),
            *("-h", self.host),
            *("-p", str(self.port)),
            *("-k", str(self.directory)),
            *(() if self.durable else ("-c", "fsync=off", "-c", "full_page_writes=off")),
        ]

    def _answers(self, pid: int) -> bool:
        # What pg_ctl looks at: the first line is the process id, the eighth its state.
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    @property
    def _data(self) -> Path:
        return self.directory / "data"


class MariaDbServer(Server):
    """A MariaDB that lets root in from this machine without a password, and the driver for it.

    It refuses to run as root; for root it runs as `mysql`.
    """

    title = "MariaDB"
    package = "mariadb-server"
    stop_signal = signal.SIGTERM  # it ignores SIGINT

    host = HOST
    user = "root"

    def __init__(self, *, install: bool = False, durable: bool = True) -> None:
        """Without `durable` nothing is synced: emptying the tables after each test is quick then."""
        super().__init__(install=install)
        self.durable = durable

    @classmethod
    def provide(cls, *, install: bool = False) -> Path:
        # Here, because it looks for packages as this module does.
        from tests.mysqlclient import provide_mysqlclient

        programs = super().provide(install=install)
        provide_mysqlclient(install=install)
        return programs

    def create_database(self, name: str) -> None:
        """Creates an empty database."""
        # Here, so that whoever only needs a Redis needs no driver.
        import MySQLdb

        with closing(MySQLdb.connect(host=self.host, port=self.port, user=self.user)) as connection:
            connection.query(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")

    @classmethod
    def find(cls) -> Path | None:
        server = _which("mariadbd")
        return Path(server).parent if server and _which("mariadb-install-db") else None

    def _account(self) -> pwd.struct_passwd | None:
        if os.geteuid() != 0:
            return None
        try:
            return pwd.getpwnam("mysql")
        except KeyError:
            raise ServerFailed(
                "MariaDB refuses to run as root, and there is no account `mysql`. Run this as "
                "another user."
            ) from None

    def _prepare(self, programs: Path) -> None:
        account = self._account()
        if account is not None:
            os.chown(self.directory, account.pw_uid, account.pw_gid)
        install = self._popen(
            [
                str(_which("mariadb-install-db")),
                "--no-defaults",
                f"--datadir={self._data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ]
        )
        try:
            failed = install.wait(START_SECONDS)
        except BaseException:
            install.kill()
            install.wait()
            raise
        if failed:
            raise self._failure("could not create its data folder")

    def _command(self, programs: Path) -> list[str]:
        return [
            str(programs / "mariadbd"),
            "--no-defaults",
            f"--datadir={self._data}",
            f"--bind-address={self.host}",
            f"--port={self.port}",
            f"--socket={self.directory / 'socket'}",
            f"--pid-file={self.directory / 'pid'}",
            "--skip-name-resolve",
            *(() if self.durable else ("--innodb-flush-log-at-trx-commit=0",)),
        ]

    def _answers(self, pid: int) -> bool:
        # The file is written when the port is open; a greeting follows when it takes clients.
        try:
            if (self.directory / "pid").read_text().strip() != str(pid):
                return False
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                return b"MariaDB" in connection.recv(256)
        except OSError:
            return False

    @property
    def _data(self) -> Path:
        return self.directory / "data"


class RabbitMqServer(Server):
    """A RabbitMQ of one node, with an Erlang port mapper of its own; all of it on loopback.

    For root it runs as `rabbitmq`, the account that its package makes.
    """

    title = "RabbitMQ"
    package = "rabbitmq-server"
    stop_signal = signal.SIGTERM  # it ignores SIGINT

    @property
    def url(self) -> str:
        """The address of its default virtual host, as Celery wants it."""
        return f"amqp://guest:guest@{HOST}:{self.port}//"

    @property
    def ports(self) -> list[int]:
        """All that it listens on: for clients, for other nodes, and the port mapper's."""
        return [self.port, self._node_port, self._mapper_port]

    @classmethod
    def find(cls) -> Path | None:
        # Not the one in PATH: for root, that is a script for the package's service alone.
        for pattern in RABBITMQ_FOLDERS:
            for folder in Path("/").glob(pattern.lstrip("/")):
                if (folder / "rabbitmq-server").exists() and _which("epmd"):
                    return folder
        return None

    def _account(self) -> pwd.struct_passwd | None:
        if os.geteuid() != 0:
            return None
        with suppress(KeyError):
            return pwd.getpwnam("rabbitmq")
        return None  # it does not refuse root

    def _prepare(self, programs: Path) -> None:
        account = self._account()
        if account is not None:
            os.chown(self.directory, account.pw_uid, account.pw_gid)
        (self.directory / "plugins").write_text("[].\n")
        (self.directory / "environment").touch()

    def _launch(self, programs: Path, port: int | None = None) -> None:
        self._mapper_port, self._node_port = free_port(), free_port()
        super()._launch(programs, port)

    def _command(self, programs: Path) -> list[str]:
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.local = {HOST}:{self.port}\n"
            # Else a disk that is rather full stops its clients.
            "disk_free_limit.absolute = 1MB\n"
        )
        # The mapper would otherwise be started by the server, for good, and outlive it.
        mapper = f"{_which('epmd')} -address {HOST} -port {self._mapper_port} &"
        return ["/bin/sh", "-c", f"{mapper} exec {programs / 'rabbitmq-server'}"]

    def _environment(self) -> dict[str, str]:
        folder = self.directory
        return {
            "HOME": str(folder),  # of the secret that its programs share
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self._mapper_port),
            # By the folder's name, so that a node that crashed finds its data under its name.
            "RABBITMQ_NODENAME": f"{folder.name}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "environment"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "none.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            # The process itself, without a shell around it that would outlive a kill.
            "RABBITMQ_ALLOW_INPUT": "1",
            # It waits without burning the processor, which others need.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput +sbwt none +sbwtdcpu none "
            "+sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _answers(self, pid: int) -> bool:
        # It writes the file when it begins, and opens the port when it is ready.
        try:
            if (self.directory / "pid").read_text().strip() != str(pid):
                return False
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return b"RabbitMQ" in connection.recv(4096)
        except OSError:
            return False


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def may_install() -> bool:
    """Whether a distribution's package can be installed without asking anybody."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


@functools.cache
def install_package(*packages: str) -> str:
    """Installs Debian packages without starting their services; returns what went wrong, or "".

    Once per process: a second try would take as long and fail as well.
    """
    sys.stderr.write(f"Installing {' '.join(packages)} with apt-get, because it is missing ...\n")
    sys.stderr.flush()
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    apt_get = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120"]
    with one_at_a_time("install"), services_not_started():
        # An update that fails is no reason not to try: the lists may be good enough.
        for command in (["update"], ["install", "--no-install-recommends", *packages]):
            done = subprocess.run(
                [*apt_get, *command],
                check=False,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
    if done.returncode == 0:
        return ""
    return f" Installing it failed:\n{tail(done.stdout)}"


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Waits while another process of this machine is inside; who dies in there leaves it open.

    Two suites run beside each other, and of two that install, the one that is done first would let
    the other's services start.
    """
    with open(Path(tempfile.gettempdir(), f"pm-celery-{name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def services_not_started() -> Iterator[None]:
    """Keeps packages that are installed meanwhile from starting their services."""
    if POLICY.exists():  # this machine's owner has decided already, as most container images do
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def _which(program: str) -> str | None:
    """A program in PATH, or where packages put servers for root alone."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def tail(text: str, lines: int = 20) -> str:
    """The last lines of a long text."""
    return "\n".join(text.splitlines()[-lines:])


def _major_version(folder: Path) -> int:
    digits = "".join(filter(str.isdigit, folder.parent.name))
    return int(digits or 0)
