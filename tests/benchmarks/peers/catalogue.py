"""The peers, with the releases that are compared."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version


@dataclass(frozen=True)
class Peer:
    """A library, what it needs, and the numbers with which it was found to be fastest."""

    name: str
    servers: tuple[str, ...]
    # Processes that serve the orders, and threads of the one client process that sends the events.
    workers: int
    senders: int
    # For pip, into an environment of its own. Empty: the environment that runs the benchmark.
    requirements: tuple[str, ...] = ()
    # For pip as well, but only a file in them is needed: neither imported nor with dependencies.
    files_of: tuple[str, ...] = ()
    npm_packages: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        return f"orders.on_{self.name}"

    @property
    def versions(self) -> dict[str, str]:
        """What is compared, by package."""
        if not self.requirements:
            return {
                name: version(name)
                for name in ("pm-celery", "celery", "django", "psycopg", "redis")
            }
        packages = (*self.requirements, *self.files_of, *self.npm_packages)
        splits = (package.rpartition(separator(package)) for package in packages)
        return {name.partition("[")[0]: release for name, _, release in splits}


def separator(package: str) -> str:
    """What stands between name and release, for pip or for npm."""
    return "==" if "==" in package else "@"


PSYCOPG = "psycopg[binary]==3.3.9"

PEERS = (
    Peer("pm_celery", servers=("postgres", "redis"), workers=2, senders=4),
    Peer(
        "eventsourcing",
        servers=("postgres",),
        workers=2,
        senders=1,
        requirements=("eventsourcing[postgres]==9.5.6", PSYCOPG),
    ),
    Peer(
        "dbos", servers=("postgres",), workers=1, senders=2, requirements=("dbos==3.4.0", PSYCOPG)
    ),
    Peer(
        "absurd",
        servers=("postgres",),
        workers=3,
        senders=2,
        requirements=("absurd-sdk==0.5.1", PSYCOPG),
        files_of=("django-absurd==1.0.1",),
    ),
    Peer(
        "restate",
        servers=("restate",),
        workers=1,
        senders=16,
        requirements=("restate-sdk==1.3.0", "hypercorn==0.18.0"),
        npm_packages=("@restatedev/restate-server@1.7.12",),
    ),
)
