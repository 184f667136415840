"""The suite's settings, told by the environment which database and broker to use.

======================  ==========================================================================
PM_TEST_DB              `sqlite` (default), `postgres` or `mariadb`
PM_TEST_DIR             the folder for SQLite's files; without it the databases are in memory
PM_TEST_PG_HOST         where PostgreSQL listens; `_PORT` and `_USER` likewise
PM_TEST_MARIADB_HOST    where MariaDB listens; `_PORT` and `_USER` likewise
PM_TEST_DEFAULT_NAME    the name (SQLite: the file) of the database `default`, for worker processes
PM_TEST_OTHER_NAME      the same for the database `other`
PM_TEST_BROKER          Celery's broker URL (default: `memory://`, which ends at this process)
PM_TEST_BROKER_OPTIONS  its transport options, as JSON
PM_TEST_PM_CELERY       the setting PM_CELERY, as JSON (default: none)
PM_TEST_THEME           an app in front of Django's admin (default: none)
======================  ==========================================================================

For a run of pytest only PM_TEST_DB is set by hand; tests/before_django.py sets PM_TEST_DIR and
PM_TEST_PG_* or PM_TEST_MARIADB_*. A worker process that a test starts inherits all that; it needs a
broker besides, and the name of the database that the test uses: `connection.settings_dict["NAME"]`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured


def sqlite(alias: str) -> dict[str, Any]:
    folder = os.environ.get("PM_TEST_DIR")
    file = str(Path(folder, f"{alias}.sqlite3")) if folder else ":memory:"
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get(f"PM_TEST_{alias.upper()}_NAME", file),
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
        # A file, because threads and worker processes see nothing of a database in memory.
        "TEST": {"NAME": str(Path(folder, f"test_{alias}.sqlite3")) if folder else None},
    }


def postgres(alias: str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ.get(f"PM_TEST_{alias.upper()}_NAME", f"pm_celery_{alias}"),
        "HOST": os.environ.get("PM_TEST_PG_HOST", "127.0.0.1"),
        "PORT": os.environ.get("PM_TEST_PG_PORT", "5432"),
        "USER": os.environ.get("PM_TEST_PG_USER", "postgres"),
    }


def mariadb(alias: str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.mysql",
        "NAME": os.environ.get(f"PM_TEST_{alias.upper()}_NAME", f"pm_celery_{alias}"),
        "HOST": os.environ.get("PM_TEST_MARIADB_HOST", "127.0.0.1"),
        "PORT": os.environ.get("PM_TEST_MARIADB_PORT", "3306"),
        "USER": os.environ.get("PM_TEST_MARIADB_USER", "root"),
        "OPTIONS": {"charset": "utf8mb4"},
        # The collation that a project gets that names none. It tells neither a from A nor a from ä.
        "TEST": {"CHARSET": "utf8mb4", "COLLATION": "utf8mb4_general_ci"},
    }


match os.environ.get("PM_TEST_DB", "sqlite"):
    case "sqlite":
        DATABASES = {alias: sqlite(alias) for alias in ("default", "other")}
    case "postgres":
        DATABASES = {alias: postgres(alias) for alias in ("default", "other")}
    case "mariadb":
        DATABASES = {alias: mariadb(alias) for alias in ("default", "other")}
    case unknown:
        raise ImproperlyConfigured(
            f"PM_TEST_DB is {unknown!r}; set it to sqlite, postgres or mariadb."
        )

SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["testserver", "127.0.0.1", "localhost"]
ROOT_URLCONF = "tests.urls"
STATIC_URL = "/static/"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# Fast, for the users that tests log in.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "pm_celery",
    "tests.testapp",
]

if "PM_TEST_THEME" in os.environ:
    INSTALLED_APPS.insert(0, os.environ["PM_TEST_THEME"])

MIDDLEWARE = [
    # Here, and not in a fixture: the server that a browser visits is started once.
    "tests.browser.policy.strict_policy",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

if "PM_TEST_PM_CELERY" in os.environ:
    PM_CELERY = json.loads(os.environ["PM_TEST_PM_CELERY"])

CELERY_BROKER_URL = os.environ.get("PM_TEST_BROKER", "memory://")
CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = json.loads(
    os.environ.get("PM_TEST_BROKER_OPTIONS", '{"polling_interval": 0.01}')
)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_ALWAYS_EAGER = False
CELERY_TASK_IGNORE_RESULT = True
