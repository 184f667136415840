"""``python -m tests.interleavings``: as many seeds as wanted, in a database of their own."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from typing import Any


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.interleavings", description=__doc__)
    parser.add_argument("--seeds", default="0-1000", help="one, or a range: 17, 0-10000")
    parser.add_argument("--operations", type=int, default=60, help="for each seed")
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument(
        "--obedient",
        action="store_true",
        help="nothing fails or gets lost: without a tick, all must be handled",
    )
    parser.add_argument("--go-on", action="store_true", help="after a seed that failed")
    return parser.parse_args()


def _prepare(stack: ExitStack, database: str) -> None:
    """A database for this run, and Django with it."""
    from tests.servers import PostgresServer

    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pm-celery-"))
    os.environ["PM_TEST_DB"], os.environ["PM_TEST_DIR"] = database, folder
    if database == "postgres":
        server: Any = stack.enter_context(PostgresServer(install=True, durable=False))
        os.environ["PM_TEST_PG_HOST"] = server.host
        os.environ["PM_TEST_PG_PORT"] = str(server.port)
        os.environ["PM_TEST_PG_USER"] = server.user
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    import django

    django.setup()
    from django.test.utils import setup_databases, teardown_databases

    made = setup_databases(verbosity=0, interactive=False, aliases={"default"})
    stack.callback(teardown_databases, made, verbosity=0)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    arguments = _arguments()
    first, _, last = arguments.seeds.partition("-")
    seeds = range(int(first), int(last or int(first) + 1))
    failures = 0
    with ExitStack() as stack:
        _prepare(stack, arguments.database)
        from tests.interleavings.runs import Runs

        runs = stack.enter_context(Runs())
        began = shown = time.monotonic()
        for done, seed in enumerate(seeds, start=1):
            failed = runs.seed(seed, arguments.operations, obedient=arguments.obedient)
            if failed is not None:
                failures += 1
                _say(str(failed))
                if not arguments.go_on:
                    break
            if time.monotonic() - shown > 10 or seed == seeds[-1]:
                shown = time.monotonic()
                _say(
                    f"{done} seeds, {failures} failed, {(shown - began) / done:.2f} s each; at most "
                    f"{runs.most_rounds} rounds to settle; {runs.pair.waited} waits for locks"
                )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
