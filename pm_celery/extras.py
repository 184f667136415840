"""What the package's extras bring, and the words for whoever asks for one that is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping

from celery import current_app
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured

from pm_celery.conf import Settings, get_settings
from pm_celery.exceptions import SettingsError

__all__ = ["check_extras", "is_installed", "remedy", "require_driver"]

#: By extra, the modules of which one must be there: a project may have brought another driver.
_MODULES: Mapping[str, tuple[str, ...]] = {
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
_REDIS = ("redis", "sentinel")


def is_installed(extra: str) -> bool:
    """Whether what an extra brings is there, from wherever; nothing of it is imported."""
    return any(map(_is_there, _MODULES[extra]))


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
    for alias in ("default", _settings().database):
        engine = settings.DATABASES.get(alias, {}).get("ENGINE", "")
        extra = _DRIVERS.get(engine)
        if extra and not is_installed(extra):
            raise ImproperlyConfigured(
                f"DATABASES[{alias!r}] has the engine {engine}, and its driver "
                f"({' or '.join(_MODULES[extra])}) is not installed. Run: {remedy(extra)}"
            )


def _settings() -> Settings:
    try:
        return get_settings()
    except SettingsError:
        return Settings()  # a check tells


@register("pm_celery")
def check_extras(**_: object) -> list[CheckMessage]:
    """E070: what Celery is set to use is installed. W070: so is what spans are made with."""
    return [*_check_celery(), *_check_spans()]


def _check_celery() -> Iterator[CheckMessage]:
    conf = current_app.conf
    url = str(conf.broker_write_url or conf.broker_url or "")
    if url.startswith(_REDIS) and not is_installed("redis"):
        yield Error(
            "The broker is Redis, and the library redis is not installed: nothing reaches a worker.",
            hint=f"Run: {remedy('redis')}",
            id="pm_celery.E070",
        )
    scheduler = str(conf.beat_scheduler or "")
    if scheduler.startswith("django_celery_beat") and not is_installed("beat"):
        yield Error(
            f"Beat's scheduler is {scheduler}, and django-celery-beat is not installed: Beat does not start.",
            hint=f"Run: {remedy('beat')}",
            id="pm_celery.E070",
        )


def _check_spans() -> Iterator[CheckMessage]:
    if _settings().trace_keys and not is_installed("opentelemetry"):
        yield Warning(
            "PM_CELERY['TRACE_KEYS'] is set, and OpenTelemetry is not installed: there are no spans.",
            hint=f"Run: {remedy('opentelemetry')}",
            id="pm_celery.W070",
        )
