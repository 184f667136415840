"""The Celery app of the benchmark's workers, Beat and publishers."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.benchmarks.settings")

app = Celery("benchmarks")
app.config_from_object("django.conf:settings", namespace="CELERY")
for module in ("bare", "by_hand", "warm_up"):
    app.autodiscover_tasks(["tests.benchmarks.shop"], related_name=module)
