"""A task that every process of a worker's pool runs once, before any clock starts."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import shared_task
from django.db import connection

_SECONDS = 30.0


@shared_task
def warm_up(folder: str, processes: int) -> None:
    """Open the database connection, and wait until as many processes have done so."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    Path(folder, str(os.getpid())).touch()
    # Who returned at once would be given the second task too, and another process none.
    deadline = time.monotonic() + _SECONDS
    while len(os.listdir(folder)) < processes and time.monotonic() < deadline:
        time.sleep(0.005)
