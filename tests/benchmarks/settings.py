"""The benchmark's Django settings, told by the environment, which stage.py and workers.py set.

===================  ============================================================================
PM_BENCH_DATABASE    `postgres` (default), `sqlite` or `mysql`
PM_BENCH_NAME        the database's name (SQLite: its file)
PM_BENCH_HOST        where it listens; `_PORT` and `_USER` likewise
PM_BENCH_BROKER      Celery's broker URL
PM_BENCH_PM_CELERY   the setting PM_CELERY, as JSON (default: none)
===================  ============================================================================
"""

from __future__ import annotations

import json
import os
from typing import Any

from django.core.exceptions import ImproperlyConfigured

_SERVER = {
    "NAME": os.environ.get("PM_BENCH_NAME", "benchmark"),
    "HOST": os.environ.get("PM_BENCH_HOST", "127.0.0.1"),
    "PORT": os.environ.get("PM_BENCH_PORT", ""),
    "USER": os.environ.get("PM_BENCH_USER", ""),
}

match os.environ.get("PM_BENCH_DATABASE", "postgres"):
    case "postgres":
        _DATABASE: dict[str, Any] = {"ENGINE": "django.db.backends.postgresql", **_SERVER}
    case "mysql":
        _DATABASE = {
            "ENGINE": "django.db.backends.mysql",
            **_SERVER,
            "OPTIONS": {"charset": "utf8mb4", "isolation_level": "read committed"},
        }
    case "sqlite":
        _DATABASE = {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": _SERVER["NAME"],
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
        }
    case unknown:
        raise ImproperlyConfigured(
            f"PM_BENCH_DATABASE is {unknown!r}; set it to postgres, sqlite or mysql."
        )

DATABASES = {"default": _DATABASE}
SECRET_KEY = "only for benchmarks"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "pm_celery",
    "tests.benchmarks.shop",
]

PM_CELERY = json.loads(os.environ.get("PM_BENCH_PM_CELERY", "{}"))

CELERY_BROKER_URL = os.environ.get("PM_BENCH_BROKER", "redis://127.0.0.1:6379/0")
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_timeout": 5, "socket_connect_timeout": 5}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_SERIALIZER = "json"
CELERY_TASK_IGNORE_RESULT = True
# Without it Celery opens a database connection for every task: code by hand would be half as fast.
CELERY_DB_REUSE_MAX = 1000
# Many small tasks: with Celery's default of 4 every variant waits for the broker.
CELERY_WORKER_PREFETCH_MULTIPLIER = 64
