"""The Celery app of chaos: a worker says when it is ready, and what time it thinks it is."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery, signals

from tests.chaos.member import FOLDER_VARIABLE

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.chaos.settings")

app = Celery("chaos")
app.config_from_object("django.conf:settings", namespace="CELERY")


@signals.worker_ready.connect
def _say_ready(**_: Any) -> None:
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        Path(folder, f"ready-{os.getpid()}").write_text(str(time.time()))
