"""What is said where a project uses an extra that is not installed; each extra alone: tests/installed.py.

Breaks that turned these red: ``_is_there`` always true; ``startswith(("redis",))``; ``require_driver`` for
`default` only; ``_alias`` without its except.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured

from pm_celery import extras
from pm_celery.checks import check_environment
from pm_celery.conf import get_settings

pytestmark = pytest.mark.any_database

ROOT = Path(__file__).parent.parent


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has these modules missing."""

    def hide(*modules: str) -> None:
        for module in modules:
            monkeypatch.setitem(sys.modules, module, None)

    return hide


@pytest.fixture
def celery_conf(monkeypatch: pytest.MonkeyPatch) -> Any:
    # Read once, for until then changes are made to what is thrown away when it is.
    assert current_app.conf.broker_url

    def configure(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setitem(current_app.conf.changes, name, value)

    return configure


def found() -> list[tuple[str | None, str | None]]:
    of_extras = {"pm_celery.E070", "pm_celery.W070"}
    return [
        (message.id, message.hint) for message in check_environment() if message.id in of_extras
    ]


def test_every_extra_is_known() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert extras.EXTRAS.keys() == declared["optional-dependencies"].keys()


@pytest.mark.parametrize("url", ["redis://localhost", "rediss://localhost", "sentinel://localhost"])
def test_e070_a_redis_broker_without_its_library(url: str, without: Any, celery_conf: Any) -> None:
    celery_conf(broker_url=url)
    assert found() == []

    without("redis")

    assert found() == [("pm_celery.E070", "Run: pip install 'pm-celery[redis]'")]


def test_e070_a_scheduler_of_beat_without_its_library(without: Any, celery_conf: Any) -> None:
    celery_conf(beat_scheduler="django_celery_beat.schedulers:DatabaseScheduler")

    without("django_celery_beat")

    assert found() == [("pm_celery.E070", "Run: pip install 'pm-celery[beat]'")]


def test_w070_keys_in_spans_without_opentelemetry(
    without: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.PM_CELERY = {"TRACE_KEYS": True}
    assert found() == []

    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    without("opentelemetry")

    assert found() == [("pm_celery.W070", "Run: pip install 'pm-celery[opentelemetry]'")]
    settings.PM_CELERY = {}
    assert found() == []


def test_what_is_wrong_with_the_settings_is_left_to_their_check(settings: Any) -> None:
    settings.PM_CELERY = {"DATABSE": "default"}

    assert found() == []


@pytest.mark.parametrize(
    ("engine", "modules", "extra"),
    [
        ("django.db.backends.postgresql", ("psycopg", "psycopg2"), "postgres"),
        ("django.contrib.gis.db.backends.postgis", ("psycopg", "psycopg2"), "postgres"),
        ("django.db.backends.mysql", ("MySQLdb",), "mysql"),
    ],
)
@pytest.mark.parametrize("alias", ["default", "other"])
def test_a_database_without_its_driver_stops_django_with_the_name_of_the_extra(
    engine: str,
    modules: tuple[str, ...],
    extra: str,
    alias: str,
    without: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from django.conf import settings

    databases = {key: {"ENGINE": "django.db.backends.sqlite3"} for key in ("default", "other")}
    monkeypatch.setattr(settings, "DATABASES", databases | {alias: {"ENGINE": engine}})
    monkeypatch.setattr(settings, "PM_CELERY", {"DATABASE": "other"}, raising=False)
    get_settings.cache_clear()
    without(*modules)
    try:
        with pytest.raises(ImproperlyConfigured, match=rf"pip install 'pm-celery\[{extra}\]'"):
            AppConfig.create("pm_celery")
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()


def test_another_driver_than_the_extras_will_do(without: Any) -> None:
    without("psycopg")
    sys.modules.setdefault("psycopg2", type(sys)("psycopg2"))
    try:
        assert extras.is_installed("postgres")
    finally:
        if sys.modules["psycopg2"].__spec__ is None:
            del sys.modules["psycopg2"]


def test_the_collector_of_metrics_names_its_extra(
    without: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "pm_celery.metrics", raising=False)
    without("prometheus_client")

    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pm-celery\[prometheus\]'"):
        import pm_celery.metrics  # noqa: F401
