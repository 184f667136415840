"""The settings that pm_celery's pages recommend, for PostgreSQL and Redis."""

from __future__ import annotations

from urllib.parse import urlsplit

from orders.workload import Job

_job = Job.given()
_postgres = urlsplit(_job.urls["postgres"])

SECRET_KEY = "only for benchmarks"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.contenttypes", "pm_celery", "orders.shop"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _postgres.path.lstrip("/"),
        "HOST": _postgres.hostname,
        "PORT": _postgres.port,
        "USER": _postgres.username,
    }
}

CELERY_BROKER_URL = _job.urls["redis"]
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_timeout": 5, "socket_connect_timeout": 5}
CELERY_TASK_IGNORE_RESULT = True
CELERY_DB_REUSE_MAX = 1000
