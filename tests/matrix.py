"""Runs the suite on every Python, Django, database, broker and theme, and prints a table: `make test-all`.

::

    python -m tests.matrix                        everything, which takes long
    python -m tests.matrix mariadb 'py313*'       the runs whose names match one of these
    python -m tests.matrix --list                 their names
    python -m tests.matrix sqlite -- -k handling  what follows -- is handed to pytest

tox builds the environments and runs pytest in them, as pyproject.toml says; each run has a log and a
result in .tox/results. What was green is not run again for the same sources, so that whatever was
interrupted is taken up where it was; `--again` runs it all the same. A Python that is not on this
machine is named, and what would need it counts as neither passed nor failed.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / ".tox" / "results"

# As in pyproject.toml's env_list; Django 6.0 and later need Python 3.12.
PYTHONS = {
    "3.11": ["django52"],
    "3.12": ["django52", "django60", "django61"],
    "3.13": ["django52", "django60", "django61"],
}
# What shows pages, for another theme of the admin.
PAGES = tuple(
    f"tests/test_{name}.py"
    for name in ("admin", "admin_doors", "editing", "instance_page", "letter_groups", "overview")
)
# Far more than any of them takes.
MOST_SECONDS = 2400


@dataclass(frozen=True)
class Run:
    """The suite, or its part that starts workers or shows pages, in one environment with one database, broker
    and theme of the admin."""

    python: str
    django: str
    database: str
    broker: str = "redis"
    theme: str = ""

    @property
    def environment(self) -> str:
        return f"py{self.python.replace('.', '')}-{self.django}"

    @property
    def name(self) -> str:
        broker = f"-{self.broker}" if self.broker != "redis" else ""
        theme = f"-{self.theme}" if self.theme else ""
        return f"{self.environment}-{self.database}{broker}{theme}"

    @property
    def options(self) -> list[str]:
        if self.theme:
            return list(PAGES)
        # Only workers' tests have a broker; with Redis they are part of the whole.
        return [] if self.broker == "redis" else ["tests/test_workers.py"]


@dataclass
class Outcome:
    """What came of a run; no counts where pytest did not get so far."""

    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)
    is_kept: bool = False

    @property
    def is_green(self) -> bool:
        return self.counts.get("passed", 0) > 0 and not self.counts["failed"]


def all_runs() -> Iterator[Run]:
    environments = [(python, django) for python, djangos in PYTHONS.items() for django in djangos]
    for environment in environments:
        yield Run(*environment, "sqlite")
        yield Run(*environment, "postgres")
        if environment in (environments[0], environments[-1]):
            yield Run(*environment, "mariadb")
            yield Run(*environment, "postgres", "rabbitmq")
            yield Run(*environment, "sqlite", "folder")
            yield Run(*environment, "sqlite", theme="unfold")


def interpreter(version: str) -> str | None:
    """A Python of this version that runs: in PATH, or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    theirs = sorted(
        (pyenv / "versions").glob(f"{version}.*/bin/python{version}"),
        key=lambda path: [int(part) for part in path.parts[-3].split(".") if part.isdigit()],
    )
    for candidate in (shutil.which(f"python{version}"), *reversed(theirs)):
        # A shim of pyenv's is in PATH whether or not it leads anywhere.
        if candidate and _succeeds([str(candidate), "-c", "import ssl, sqlite3, venv"]):
            return str(candidate)
    return None


def _succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def digest_of_sources() -> str:
    """Stands for all files that git knows or would add; "" where there is no git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=False, capture_output=True, cwd=ROOT)
    if listed.returncode:
        return ""
    digest = hashlib.sha256()
    for name in sorted(filter(None, listed.stdout.split(b"\0"))):
        path = ROOT / os.fsdecode(name)
        digest.update(name + b"\0" + (path.read_bytes() if path.is_file() else b"") + b"\0")
    return digest.hexdigest()


def execute(run: Run, python: str, sources: str, extra: Sequence[str]) -> Outcome:
    result, log = RESULTS / f"{run.name}.xml", RESULTS / f"{run.name}.log"
    stamp = RESULTS / f"{run.name}.sources"
    for old in (result, stamp):
        old.unlink(missing_ok=True)
    # `run -e` and `--discover`: the environment's Python is this one, and none is fetched.
    command = [
        *(sys.executable, "-m", "tox", "run", "-e", run.environment, "--discover", python),
        *("--", f"--junitxml={result}", *run.options, *extra),
    ]
    environment = {
        **os.environ,
        "PM_TEST_DB": run.database,
        "PM_TEST_BROKER_KIND": run.broker,
        # A server that cannot be had is a failure here, as it is for the continuous integration.
        "CI": "true",
        **({"PM_TEST_THEME": run.theme} if run.theme else {}),
    }
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            process.wait(MOST_SECONDS)
        except BaseException as error:
            process.terminate()
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
    outcome = read(run)
    outcome.seconds = time.monotonic() - began
    if process.returncode and outcome.is_green:
        outcome.counts["failed"] += 1  # pytest ended well, and tox did not
    if outcome.is_green and not extra:
        stamp.write_text(f"{sources} {outcome.seconds:.0f}")
    return outcome


def read(run: Run) -> Outcome:
    """The counts of a run's result, where it has one."""
    path = RESULTS / f"{run.name}.xml"
    try:
        suite = ElementTree.parse(path).getroot().find("testsuite")
    except (OSError, ElementTree.ParseError):
        suite = None
    if suite is None:
        return Outcome()
    number = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    failed = number["failures"] + number["errors"]
    return Outcome(
        counts={
            "passed": number["tests"] - failed - number["skipped"],
            "failed": failed,
            "skipped": number["skipped"],
        },
        failed=[
            f"{case.get('classname')}::{case.get('name')}"
            for case in suite.iter("testcase")
            if case.find("failure") is not None or case.find("error") is not None
        ],
    )


def kept(run: Run, sources: str) -> Outcome | None:
    """What an earlier run for the same sources gave, if that was green."""
    stamp = RESULTS / f"{run.name}.sources"
    if not sources or not stamp.exists():
        return None
    before, seconds = stamp.read_text().split()
    outcome = read(run)
    if before != sources or not outcome.is_green:
        return None
    outcome.seconds, outcome.is_kept = float(seconds), True
    return outcome


def table(outcomes: dict[Run, Outcome], missing: Sequence[Run]) -> str:
    rows = [("environment", "passed", "failed", "skipped", "seconds", "")]
    for run, outcome in outcomes.items():
        counts = [str(outcome.counts.get(key, "-")) for key in ("passed", "failed", "skipped")]
        remark = "from before" if outcome.is_kept else ""
        if not outcome.is_green:
            remark = f"RED: {(RESULTS / f'{run.name}.log').relative_to(ROOT)}"
        rows.append((run.name, *counts, f"{outcome.seconds:.0f}", remark))
    rows += [(run.name, "-", "-", "-", "-", f"no Python {run.python}") for run in missing]
    width = max(len(row[0]) for row in rows)
    return "\n".join(
        f"{name:{width}}  {passed:>6}  {failed:>6}  {skipped:>7}  {seconds:>7}  {remark}".rstrip()
        for name, passed, failed, skipped, seconds, remark in rows
    )


def run_all(chosen: Sequence[Run], *, again: bool, extra: Sequence[str]) -> int:
    RESULTS.mkdir(parents=True, exist_ok=True)
    sources = digest_of_sources()
    pythons = {version: interpreter(version) for version in PYTHONS}
    missing = [run for run in chosen if pythons[run.python] is None]
    for version in sorted({run.python for run in missing}):
        say(f"No Python {version} on this machine: what needs it is left out.")
    outcomes: dict[Run, Outcome] = {}
    try:
        for run in chosen:
            python = pythons[run.python]
            if python is None:
                continue
            before = None if again or extra else kept(run, sources)
            if before is None:
                say(f"== {run.name}")
            outcomes[run] = before or execute(run, python, sources, extra)
            for name in outcomes[run].failed:
                say(f"   FAILED {name}")
    finally:
        say(f"\n{table(outcomes, missing)}")
    return 0 if outcomes and all(outcome.is_green for outcome in outcomes.values()) else 1


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    ours, extra = list(arguments), []
    if "--" in ours:
        at = ours.index("--")
        ours, extra = ours[:at], ours[at + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m tests.matrix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", help="parts or patterns of the names of runs")
    parser.add_argument("--again", action="store_true", help="run what was green as well")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    options = parser.parse_args(ours)
    patterns = options.runs or ["*"]
    chosen = [
        run
        for run in all_runs()
        if any(fnmatch.fnmatch(run.name, f"*{pattern}*") for pattern in patterns)
    ]
    if not chosen:
        parser.error(f"no run matches {' or '.join(patterns)}; --list tells their names")
    if options.list:
        say("\n".join(run.name for run in chosen))
        return 0
    return run_all(chosen, again=options.again, extra=extra)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)  # the table stands above
