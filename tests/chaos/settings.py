"""Chaos's Django settings, told by the environment, which stage.py and crew.py set.

===================  ============================================================================
PM_CHAOS_PORT        where PostgreSQL listens, on loopback
PM_CHAOS_BROKER      Celery's broker URL
PM_CHAOS_PM_CELERY   the setting PM_CELERY, as JSON
===================  ============================================================================
"""

from __future__ import annotations

import json
import os

from tests.servers import HOST, PostgresServer

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "chaos",
        "HOST": HOST,
        "PORT": os.environ.get("PM_CHAOS_PORT", "5432"),
        "USER": PostgresServer.user,
    }
}
SECRET_KEY = "only for chaos"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "pm_celery",
    "tests.chaos.shop",
]

PM_CELERY = json.loads(os.environ.get("PM_CHAOS_PM_CELERY", "{}"))

CELERY_BROKER_URL = os.environ.get("PM_CHAOS_BROKER", "memory://")
CELERY_BROKER_TRANSPORT_OPTIONS = (
    {"socket_timeout": 5, "socket_connect_timeout": 5}
    if CELERY_BROKER_URL.startswith("redis")
    else {}
)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_IGNORE_RESULT = True
# As in production: without it Celery opens a database connection for every task.
CELERY_DB_REUSE_MAX = 1000
