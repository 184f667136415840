"""Pages: what every page of the admin takes where the tables are full. PostgreSQL only.

``python -m tests.benchmarks.pages`` fills a database of its own and visits everything there is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks.tables import aligned
from tests.servers import PostgresServer, ServerFailed, ServerMissing

if TYPE_CHECKING:
    from tests.benchmarks.paging.visits import Visit

__all__ = ["main"]

_NAME = "pages"

_EPILOG = """\
Milliseconds, warm: the best and the median of five. A page is over where the median is above 100 ms of
database time or 300 ms in all, or where it answers with an error; then the plan of its slowest statement is
printed, and the exit status is 1."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    try:
        with PostgresServer(install=True, durable=False) as server:
            os.environ |= {
                "DJANGO_SETTINGS_MODULE": "tests.benchmarks.paging.settings",
                "PM_TEST_DB": "postgres",
                "PM_TEST_PG_HOST": server.host,
                "PM_TEST_PG_PORT": str(server.port),
                "PM_TEST_PG_USER": server.user,
                "PM_TEST_DEFAULT_NAME": _NAME,
            }
            server.create_database(_NAME)
            return _measure(options)
    except (ServerFailed, ServerMissing) as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("Stopped.")
        return 130


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.pages",
        description="Measure every page of the admin where the tables are full.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--instances", type=int, default=2_000_000, metavar="N", help="default: 2,000,000"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="pages whose title holds it")
    parser.add_argument("--json", type=Path, default=Path("build/pages.json"), metavar="PATH")
    return parser.parse_args(arguments)


def _measure(options: argparse.Namespace) -> int:
    import django

    django.setup()
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.db import connections
    from django.test import Client
    from django.test.utils import setup_test_environment

    from tests.benchmarks.paging import filling, visits

    setup_test_environment()
    try:
        call_command("migrate", run_syncdb=True, verbosity=0)
        filling.fill(options.instances, _say)
        filling.analyze()
        _say(filling.about())
        visits.give_up_slow_statements()
        client = Client(raise_request_exception=False)
        client.force_login(User.objects.create_superuser("ann"))
        visitor = visits.Visitor(client)
        found: list[Visit] = []
        for visit in visitor.visits(options.only):
            found.append(visit)
            _say(f"{visit.title}: {visit.status}, {median(visit.in_all_ms):.0f} ms")
        over = [visit for visit in found if visit.is_over]
        sys.stdout.write(f"{_table(found)}\n\n")
        for visit in over:
            sys.stdout.write(f"{visits.explained(visit)}\n\n")
    finally:
        connections.close_all()
    _write(options.json, options.instances, found)
    if visitor.unknown:
        _say(f"Not visited, for their addresses cannot be filled in: {visitor.unknown}")
    sys.stdout.write(
        f"{options.instances:,} instances: {len(found)} pages, {len(over)} over the limit; "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n"
    )
    return 1 if over or visitor.unknown else 0


def _table(found: Sequence[Visit]) -> str:
    head = ["page", "status", "queries", "database: best", "median", "in all: best", "median", ""]
    rows = [
        [
            visit.title,
            str(visit.status),
            str(visit.queries),
            f"{min(visit.database_ms):.1f}",
            f"{median(visit.database_ms):.1f}",
            f"{min(visit.in_all_ms):.0f}",
            f"{median(visit.in_all_ms):.0f}",
            "OVER" if visit.is_over else "",
        ]
        for visit in found
    ]
    return aligned(head, rows)


def _write(path: Path, instances: int, found: Sequence[Visit]) -> None:
    pages = [
        {
            "page": visit.title,
            "url": visit.url,
            "status": visit.status,
            "queries": visit.queries,
            "database_ms": visit.database_ms,
            "in_all_ms": visit.in_all_ms,
            "over": visit.is_over,
        }
        for visit in found
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"instances": instances, "pages": pages}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
