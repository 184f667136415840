"""Two processes of tests/test_upgrades.py: a worker of the release before, and the one that migrates.

Each is told by its arguments what to do, and prints what it found as one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import django

# What the engine waits for: locks of these modes on its tables keep it from reading or from writing.
_CONFLICTING = """
    SELECT c.relname, l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
    WHERE l.pid = %s AND l.granted AND c.relname LIKE 'pm_celery_%%' AND c.relkind = 'r'
      AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""


def work(stop: Path) -> dict[str, Any]:
    """Publish and handle orders until told to stop; how many steps, the longest of them, and errors."""
    from pm_celery import publish_many
    from tests.driving import drain
    from tests.orders import Paid, Placed, Shipped

    longest, steps, events, errors = 0.0, 0, 0, []
    while not stop.exists() or steps < 3:
        began = time.monotonic()
        orders = [uuid4() for _ in range(3)]
        try:
            for of in (Placed, Paid, Shipped):
                events += len(publish_many([of(order_id=order) for order in orders]))
            drain()
        except Exception as error:  # noqa: BLE001 -- told, and asserted to be none
            errors.append(repr(error))
        longest = max(longest, time.monotonic() - began)
        steps += 1
        Path(f"{stop}.working").touch()
    return {"steps": steps, "events": events, "longest": longest, "errors": errors}


class Watch(threading.Thread):
    """Looks at the locks that a connection holds, every few milliseconds."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.looks = 0
        self.longest: dict[str, float] = {}
        self.over = threading.Event()

    def run(self) -> None:
        from django.db import connections

        connection = connections.create_connection("default")
        since: dict[tuple[str, str], float] = {}
        with connection.cursor() as cursor:
            while not self.over.wait(0.002):
                cursor.execute(_CONFLICTING, [self.pid])
                now = time.monotonic()
                held = set(cursor.fetchall())
                since = {lock: since.get(lock, now) for lock in held}
                for (table, mode), began in since.items():
                    name = f"{mode} on {table}"
                    self.longest[name] = max(self.longest.get(name, 0), now - began)
                self.looks += 1
        connection.close()


def migrate(module: str) -> dict[str, Any]:
    """Apply a module's migrations; the conflicting locks that were held, and for how long, in seconds."""
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connection

    if module:
        settings.MIGRATION_MODULES = {"pm_celery": module}
    watch = None
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            watch = Watch(cursor.fetchone()[0])
        watch.start()
    call_command("migrate", verbosity=0, skip_checks=True)
    if watch:
        time.sleep(0.05)
        watch.over.set()
        watch.join()
    return {"locks": watch.longest if watch else {}, "looks": watch.looks if watch else 0}


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    verb, argument = sys.argv[1:3]
    found = work(Path(argument)) if verb == "work" else migrate(argument)
    sys.stdout.write(f"\n{json.dumps(found)}\n")
