"""Compares pm_celery with other libraries for durable execution: ``make bench-peers``.

::

    python -m tests.benchmarks.peers                            # all of them
    python -m tests.benchmarks.peers pm_celery dbos --rounds 5  # some of them
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.catalogue import PEERS, Peer
from tests.benchmarks.peers.installing import BUILD, ROOT, NotInstallable, interpreter, packages
from tests.benchmarks.peers.orders.workload import LONGEST_SECONDS, Job
from tests.benchmarks.peers.restate_server import RestateServer
from tests.servers import HOST, PostgresServer, RedisServer, Server, ServerMissing, free_port, tail

BASELINE = "pm_celery"
JSON_PATH = BUILD.parent / "bench-peers.json"
# Where the peers' processes find the package `orders`, and pm_celery itself.
PATHS = (str(Path(__file__).parent), str(ROOT))


class PeerFailed(Exception):
    """A peer did not do all of its work; the message ends with what it said."""


@dataclass
class Report:
    """What has been measured so far, and of whom nothing can be said."""

    figures: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def median(self, name: str) -> float | None:
        """Events per second; nothing for a peer that failed once."""
        if name in self.failed or name not in self.figures:
            return None
        return statistics.median(self.rates(name))

    def rates(self, name: str) -> list[float]:
        return [figures["events_per_second"] for figures in self.figures[name]]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    report = Report()
    peers = [peer for peer in PEERS if peer.name in options.names]
    pythons = dict(installed(peers, report))
    for number in range(1, options.rounds + 1):
        for peer in peers:
            if peer.name in pythons and peer.name not in {*report.failed, *report.skipped}:
                measure(peer, pythons[peer.name], options, report)
                tell(f"round {number}: {peer.name} {outcome(peer, report)}")
    sys.stdout.write(table(peers, report))
    write_json(peers, pythons, options, report)
    return 1 if report.failed else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [peer.name for peer in PEERS]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(names)}")
    parser.add_argument("--orders", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument(
        "--senders", type=int, help="threads that send events; default: what suits each peer best"
    )
    parser.add_argument("--json", type=Path, default=JSON_PATH, metavar="PATH")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    options.names = options.names or names
    return options


def installed(peers: Sequence[Peer], report: Report) -> Iterator[tuple[str, Path]]:
    """The peers that can be had here, each with its Python."""
    for peer in peers:
        try:
            yield peer.name, interpreter(peer)
        except NotInstallable as problem:
            report.skipped[peer.name] = str(problem)
            tell(f"{peer.name} is skipped: {problem}")


def measure(peer: Peer, python: Path, options: argparse.Namespace, report: Report) -> None:
    """One run of one peer, with servers of its own."""
    try:
        with job_for(peer, options) as job:
            load = os.getloadavg()[0]
            figures = {**run(peer, python, job), "senders": job.senders, "load_before": load}
        report.figures.setdefault(peer.name, []).append(figures)
    except ServerMissing as problem:
        report.skipped[peer.name] = str(problem)
    except PeerFailed as problem:
        report.failed[peer.name] = str(problem)


@contextmanager
def job_for(peer: Peer, options: argparse.Namespace) -> Iterator[Job]:
    """What one run needs: an empty folder, and new servers with nothing in them."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pm-celery-peers-"))
        urls: dict[str, str] = {}
        if "postgres" in peer.servers:
            postgres = stack.enter_context(PostgresServer(install=True, durable=True))
            urls["postgres"] = postgres.create_database("orders")
        if "redis" in peer.servers:
            urls["redis"] = stack.enter_context(RedisServer(install=True)).url
        if "restate" in peer.servers:
            restate = stack.enter_context(RestateServer())
            urls.update(ingress=restate.url, admin=restate.admin_url)
            urls["handlers"] = f"http://{HOST}:{free_port()}"
        senders = options.senders or peer.senders
        yield Job(options.orders, senders, peer.workers, folder, urls)


def run(peer: Peer, python: Path, job: Job) -> dict[str, Any]:
    """The figures of the peer's own process, which ends with a line of JSON if all was done."""
    process = subprocess.Popen(
        [str(python), "-m", peer.module],
        cwd=job.folder,
        env={**job.environment, "PYTHONPATH": os.pathsep.join(PATHS)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=LONGEST_SECONDS * 1.2)
    except BaseException:  # a time-out or Ctrl-C: its workers are in its group
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode:
        log = Path(job.folder, "workers.log")
        said = log.read_text(errors="replace") if log.exists() else ""
        raise PeerFailed(f"{tail(errors)}\n{tail(said)}")
    figures: dict[str, Any] = json.loads(output.splitlines()[-1])
    return figures


def outcome(peer: Peer, report: Report) -> str:
    if peer.name in report.failed:
        return f"failed:\n{report.failed[peer.name]}"
    if peer.name in report.skipped:
        return f"is skipped: {report.skipped[peer.name]}"
    return f"{report.rates(peer.name)[-1]:.0f} events/s"


def table(peers: Sequence[Peer], report: Report) -> str:
    """The medians, as Markdown."""
    lines = [
        f"| | events/s | lowest to highest | ÷ {BASELINE} | versions |",
        "|---|---|---|---|---|",
    ]
    baseline = report.median(BASELINE)
    for peer in peers:
        median = report.median(peer.name)
        if median is None:
            why = "failed" if peer.name in report.failed else "skipped"
            lines.append(f"| {peer.name} | {why} | | | |")
            continue
        rates = report.rates(peer.name)
        ratio = f"{median / baseline:.2f}" if baseline else ""
        versions = ", ".join(f"{name} {release}" for name, release in peer.versions.items())
        lines.append(
            f"| {peer.name} | {median:.0f} | {min(rates):.0f} to {max(rates):.0f} | {ratio} "
            f"| {versions} |"
        )
    return "\n".join(lines) + "\n"


def write_json(
    peers: Sequence[Peer],
    pythons: Mapping[str, Path],
    options: argparse.Namespace,
    report: Report,
) -> None:
    written = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "orders": options.orders,
        "rounds": options.rounds,
        "machine": {
            "processors": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "postgresql": version_of(PostgresServer, "postgres"),
            "redis": version_of(RedisServer, "redis-server"),
        },
        "peers": {
            peer.name: {
                "median_events_per_second": report.median(peer.name),
                "versions": peer.versions,
                "packages": packages(pythons[peer.name]) if peer.name in pythons else {},
                "workers": peer.workers,
                "runs": report.figures.get(peer.name, []),
                "skipped": report.skipped.get(peer.name),
                "failed": report.failed.get(peer.name),
            }
            for peer in peers
        },
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(written, indent=2) + "\n")
    tell(f"written to {options.json}")


def version_of(server: type[Server], program: str) -> str | None:
    """What the server's program says of itself."""
    folder = server.find()
    if folder is None:
        return None
    command = [str(folder / program), "--version"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


def tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
