"""Settings of the example project: whatever concerns pm_celery has a comment that says why.

Everything has a default that needs no server. The environment may say otherwise:

EXAMPLE_DATABASE   postgres://user:password@host:5432/name, or mysql://…   (default: a SQLite file)
EXAMPLE_BROKER     redis://host:6379/0, or amqp://…                        (default: a folder)
EXAMPLE_DATA       where the SQLite file and the broker's folder lie       (default: .data)
EXAMPLE_DEBUG      1 shows Django's error pages                            (default: 0)
SHOP_…             the shop's durations, see the end of this file
"""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("EXAMPLE_DATA") or BASE_DIR / ".data").resolve()
DATA_DIR.mkdir(parents=True, exist_ok=True)

SECRET_KEY = os.environ.get("EXAMPLE_SECRET_KEY", "an example has no secrets")
DEBUG = os.environ.get("EXAMPLE_DEBUG", "0") == "1"
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_celery_beat",
    "pm_celery",
    # In each of these, pm_celery imports `processes`, `policies` and `command_handlers`.
    "shop",
    "replay",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
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

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
ASGI_APPLICATION = "config.asgi.application"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"

# --- Database ---------------------------------------------------------------------------------
# Inboxes and outboxes lie beside the orders, so that an order and its event commit together.


def database(url: str) -> dict[str, object]:
    if not url:
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": DATA_DIR / "shop.sqlite3",
            "OPTIONS": {
                # A transaction takes SQLite's one write lock when it begins. A transaction that
                # reads first and asks for the lock later is refused: "database is locked".
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                # Readers do not wait for the writer, nor the writer for them.
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
            # Web server, workers and Beat are several processes: tests need a file as well.
            "TEST": {"NAME": DATA_DIR / "test.sqlite3"},
        }
    parts = urlsplit(url)
    engines = {"postgres": "postgresql", "postgresql": "postgresql", "mysql": "mysql"}
    if parts.scheme not in engines:
        raise ImproperlyConfigured(
            f"EXAMPLE_DATABASE begins with {parts.scheme!r}. "
            "Write postgres://user:password@host:5432/name, or mysql://…"
        )
    settings: dict[str, object] = {
        "ENGINE": f"django.db.backends.{engines[parts.scheme]}",
        "NAME": parts.path.lstrip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": parts.port or "",
    }
    if engines[parts.scheme] == "mysql":
        settings["OPTIONS"] = {"charset": "utf8mb4", "isolation_level": "read committed"}
    return settings


DATABASES = {"default": database(os.environ.get("EXAMPLE_DATABASE", ""))}

# Celery closes the database connection around every task unless told otherwise. Kept for a hundred
# tasks, it costs nothing to speak of, and a broken one is still replaced.
CELERY_DB_REUSE_MAX = 100

# --- Celery -----------------------------------------------------------------------------------

CELERY_BROKER_URL = os.environ.get("EXAMPLE_BROKER", "pm-filesystem://")
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, object] = {}
if CELERY_BROKER_URL.startswith("pm-filesystem"):
    # A folder as broker: for the first five minutes, on one machine.
    CELERY_BROKER_TRANSPORT_OPTIONS = {"folder": str(DATA_DIR / "broker")}
elif CELERY_BROKER_URL.startswith(("redis", "rediss")):
    # Without them, a Redis that accepts connections and never answers blocks a request for ever.
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "socket_timeout": 5,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
    }

# What became of an event or a command stands in pm_celery's tables; nobody reads Celery's results.
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_TIMEZONE = TIME_ZONE

# --- pm_celery --------------------------------------------------------------------------------
# All of it has defaults. Ended instances are kept for ever unless a retention is given.

PM_CELERY = {"RETENTION": "90d"}

# --- The shop ---------------------------------------------------------------------------------
# Durations, so that `make demo` need not wait for days.

SHOP_PAYMENT_REMINDER = os.environ.get("SHOP_PAYMENT_REMINDER", "24h")
SHOP_ORDER_TIMEOUT = os.environ.get("SHOP_ORDER_TIMEOUT", "7d")
SHOP_CARRIER_RETRY = os.environ.get("SHOP_CARRIER_RETRY", "30s")
SHOP_DELIVERY_TAKES = os.environ.get("SHOP_DELIVERY_TAKES", "5s")
SHOP_SETTLEMENT_WITHIN = os.environ.get("SHOP_SETTLEMENT_WITHIN", "1d")
SHOP_WELCOME_AFTER = os.environ.get("SHOP_WELCOME_AFTER", "1m")
SHOP_TIP_AFTER = os.environ.get("SHOP_TIP_AFTER", "1d")
SHOP_SURVEY_AFTER = os.environ.get("SHOP_SURVEY_AFTER", "7d")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
