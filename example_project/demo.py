"""``make demo``: 200 orders through every outcome there is, with a real worker and a real Beat.

Nothing is needed besides this Python: the database is a SQLite file, the broker is a folder, and
both are made anew for each run. At the end stands a table of what became of the orders. On a
terminal, the shop and the admin are served afterwards until Ctrl-C; without one, the exit code says
whether all outcomes are right.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from shop.rehearsal import Check, Rehearsal

BASE_DIR = Path(__file__).resolve().parent
DEADLINE_SECONDS = 110

# Nobody wants to wait a week for a survey.
HASTY = {
    "SHOP_PAYMENT_REMINDER": "4s",
    "SHOP_CARRIER_RETRY": "0.2s",
    "SHOP_DELIVERY_TAKES": "1s",
    "SHOP_WELCOME_AFTER": "2s",
    "SHOP_TIP_AFTER": "15s",
    "SHOP_SURVEY_AFTER": "20s",
}
# For a person who plays with the shop afterwards.
LEISURELY = {
    "SHOP_PAYMENT_REMINDER": "20s",
    "SHOP_ORDER_TIMEOUT": "15m",
    "SHOP_CARRIER_RETRY": "1s",
    "SHOP_DELIVERY_TAKES": "5s",
    "SHOP_SETTLEMENT_WITHIN": "1d",
    "SHOP_WELCOME_AFTER": "10s",
    "SHOP_TIP_AFTER": "10m",
    "SHOP_SURVEY_AFTER": "1h",
}


class DemoFailed(Exception):
    """Why the demo cannot go on."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--serve",
        action=argparse.BooleanOptionalAction,
        default=sys.stdout.isatty(),
        help="serve the shop and the admin afterwards (default: on a terminal)",
    )
    serve = parser.parse_args().serve
    # SIGINT as well: it is ignored at first in what a shell starts in the background.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        try:
            data = stack.enter_context(fresh_folder())
            processes = stack.enter_context(Processes(data))
            return run(data, processes, began, serve)
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):  # the terminal may be gone
                print("\nStopped.", flush=True)
            return 130
        except DemoFailed as failure:
            print(f"\nThe demo failed: {failure}\nThe logs lie in {shown(data)}.", file=sys.stderr)
            return 1


def run(data: Path, processes: Processes, began: float, serve: bool) -> int:
    os.environ.update(HASTY, EXAMPLE_DATA=str(data), DJANGO_SETTINGS_MODULE="config.settings")
    # Other orders in the database would spoil the counting.
    os.environ.pop("EXAMPLE_DATABASE", None)
    os.environ.pop("EXAMPLE_BROKER", None)
    sys.path.insert(0, str(BASE_DIR))

    print(f"A new SQLite file in {shown(data)} …", flush=True)
    password = set_up_django()
    # What is to be delivered must not time out before it is: a slow machine gets more time.
    timeout = min(max(25, 15 * (time.monotonic() - began)), 60)
    os.environ.update(SHOP_ORDER_TIMEOUT=f"{timeout}s", SHOP_SETTLEMENT_WITHIN=f"{timeout}s")
    print("A Celery worker and Beat, with a folder as broker …", flush=True)
    processes.start("beat", "-m", "celery", "-A", "config", "beat", "--loglevel=INFO")
    start_worker(processes)

    from shop.rehearsal import Rehearsal

    rehearsal = Rehearsal()
    play(rehearsal, processes, began + DEADLINE_SECONDS)
    checks = rehearsal.checks()
    rehearsal.end()
    print_table(checks, time.monotonic() - began)
    wrong = [check for check in checks if not check.is_right]
    if wrong:
        print(
            f"\n{len(wrong)} of {len(checks)} are not what they should be: "
            f"{'; '.join(check.title for check in wrong)}.\nThe logs lie in {shown(data)}."
        )
    if serve:
        serve_the_shop(processes, password)
    return 1 if wrong else 0


def set_up_django() -> str:
    """Migrate, and add a superuser; returns the password."""
    import django

    django.setup()
    from django.contrib.auth import get_user_model
    from django.core.management import call_command

    # What is expected to go wrong is told by the table.
    logging.getLogger("pm_celery").setLevel(logging.CRITICAL)
    call_command("migrate", verbosity=0)
    password = secrets.token_urlsafe(8)
    get_user_model().objects.create_superuser("admin", "admin@example.com", password)
    return password


def start_worker(processes: Processes) -> None:
    arguments = ("-A", "config", "worker", "--concurrency=2", "--loglevel=INFO")
    processes.start("worker", "-m", "celery", *arguments)


def play(rehearsal: Rehearsal, processes: Processes, deadline: float) -> None:
    """Until everything is as it should be, or the time is over: the table tells what is not."""
    from shop.rehearsal import ORDERS

    progress = Progress(ORDERS)
    rehearsal.begin()
    while not rehearsal.finished and time.monotonic() < deadline:
        rehearsal.step()
        progress.show(rehearsal.at_rest)
        processes.check()
        time.sleep(0.4)
    progress.end()


def print_table(checks: Iterable[Check], seconds: float) -> None:
    checks = list(checks)
    width = max(len(check.title) for check in checks)
    print(f"\n{'After ' + format(seconds, '.0f') + ' s':{width}}  expected  actual")
    for check in checks:
        mark = "" if check.is_right else "  ← wrong"
        print(f"{check.title:{width}}  {check.expected:8}  {check.actual:6}{mark}")


def serve_the_shop(processes: Processes, password: str) -> None:
    """Web server, worker and Beat, until Ctrl-C; with durations for people."""
    os.environ.update(LEISURELY)
    processes.stop("worker")
    start_worker(processes)
    port = free_port()
    address = f"127.0.0.1:{port}"
    processes.start("web", "manage.py", "runserver", "--noreload", address)
    while not is_served(port):
        processes.check()
        time.sleep(0.1)
    print(f"\nThe shop:   http://{address}/")
    print(f"The admin:  http://{address}/admin/   login: admin   password: {password}")
    print("Ctrl-C ends it.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            processes.check()
            time.sleep(0.5)


class Progress:
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.began = time.monotonic()
        self.is_terminal = sys.stdout.isatty()
        self.told = 0

    def show(self, done: int) -> None:
        seconds = time.monotonic() - self.began
        if self.is_terminal:
            filled = 40 * done // self.total
            bar = "█" * filled + "░" * (40 - filled)
            print(f"\r{bar} {done}/{self.total} orders, {seconds:.0f} s ", end="", flush=True)
        elif done // 50 > self.told:
            self.told = done // 50
            print(f"{done} of {self.total} orders after {seconds:.0f} s", flush=True)

    def end(self) -> None:
        if self.is_terminal:
            print()


class Processes:
    """Worker, Beat and web server: started by us, watched, and stopped whatever happens."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # From here on nothing interrupts us: what we started is stopped.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for process in self.running.values():
            process.terminate()
        for name in list(self.running):
            self.stop(name)

    def start(self, name: str, *arguments: str) -> None:
        with self._log(name).open("ab") as log:
            # A session of its own: Ctrl-C reaches us alone, and a kill of the group reaches the
            # worker's pool as well.
            self.running[name] = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=BASE_DIR,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raises ``DemoFailed`` where a process has ended by itself."""
        for name, process in self.running.items():
            if process.poll() is not None:
                raise DemoFailed(f"{name} ended by itself, see {shown(self._log(name))}")

    def stop(self, name: str) -> None:
        """Ask it to stop, and kill it soon: what a worker did not end, the next one would find."""
        process = self.running.pop(name)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _log(self, name: str) -> Path:
        return self.data / f"{name}.log"


@contextlib.contextmanager
def fresh_folder() -> Iterator[Path]:
    """An empty folder that no other demo uses: `demo`, or `demo-2` while that one is in use."""
    base = Path(os.environ.get("EXAMPLE_DATA") or BASE_DIR / ".data").resolve()
    base.mkdir(parents=True, exist_ok=True)
    (base / ".gitignore").write_text("*\n")
    for number in range(1, 100):
        data = base / ("demo" if number == 1 else f"demo-{number}")
        with lock_file(data.with_suffix(".lock")) as lock:
            if lock is None:
                continue
            shutil.rmtree(data, ignore_errors=True)
            data.mkdir()
            yield data
            return
    raise SystemExit(f"Too many demos are running in {shown(base)}.")


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[IO[str] | None]:
    """The file, locked until the end; None where another process holds it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield file


def free_port() -> int:
    """8000 if nobody uses it, else any."""
    for port in (8000, 0):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            return listener.getsockname()[1]
    raise DemoFailed("no port is free on 127.0.0.1")


def is_served(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


if __name__ == "__main__":
    sys.exit(main())
