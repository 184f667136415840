"""What the package's extras bring, and the words for whoever asks for one that is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from pm_celery.conf import get_settings
from pm_celery.exceptions import SettingsError

__all__ = ["EXTRAS", "is_installed", "remedy", "require_driver"]

#: By extra, the modules of which one must be there: a project may have brought another driver.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "beat": ("django_celery_beat",),
    "mysql": ("MySQLdb",),
    "opentelemetry": ("opentelemetry.trace",),
    "postgres": ("psycopg", "psycopg2"),
    "prometheus": ("prometheus_client",),
    "redis": ("redis",),
}
_DRIVERS = {
    "django.contrib.gis.db.backends.mysql": "mysql",
    "django.contrib.gis.db.backends.postgis": "postgres",
    "django.db.backends.mysql": "mysql",
    "django.db.backends.postgresql": "postgres",
}


def is_installed(extra: str) -> bool:
    """Whether what an extra brings is there, from wherever; nothing of it is imported."""
    return any(map(_is_there, EXTRAS[extra]))


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False  # its parent is not there
    except ValueError:
        return True  # put into sys.modules by hand, as PyMySQL does for MySQLdb


def remedy(extra: str) -> str:
    """What to type."""
    return f"pip install 'pm-celery[{extra}]'"


def require_driver() -> None:
    """Raise ``ImproperlyConfigured`` where Django is about to, with the extra that brings the driver."""
    # Django loads `default` in any case, and another one only when it is used.
    for alias in ("default", _alias()):
        engine = settings.DATABASES.get(alias, {}).get("ENGINE", "")
        extra = _DRIVERS.get(engine)
        if extra and not is_installed(extra):
            raise ImproperlyConfigured(
                f"DATABASES[{alias!r}] has the engine {engine}, and its driver "
                f"({' or '.join(EXTRAS[extra])}) is not installed. Run: {remedy(extra)}"
            )


def _alias() -> str:
    try:
        return get_settings().database
    except SettingsError:
        return "default"  # a check tells what is wrong with them
