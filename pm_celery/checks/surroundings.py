"""Checks of what the project runs in: its database's options, its broker, and Celery's settings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from math import ceil
from typing import Any

from celery import current_app
from django.core.checks import CheckMessage, register
from django.db import connections

from pm_celery import extras, registry, wakeups
from pm_celery.checks.reports import TAG, AppConfigs, mistake, warning
from pm_celery.commands import CommandHandler
from pm_celery.conf import Settings, get_settings
from pm_celery.exceptions import SettingsError

__all__ = ["check_environment"]


@register(TAG)
def check_environment(app_configs: AppConfigs = None, **_: Any) -> list[CheckMessage]:
    """W040 to W043, W046 to W048, W052, W053: database, broker and Celery are set up so that nothing hangs,
    is lost, or runs code from outside. E070, W070: the libraries that the settings ask for are installed."""
    try:
        settings = get_settings()
    except SettingsError:
        return []
    return [
        *_check_sqlite(settings.database),
        *_check_listener(settings),
        *_check_broker(),
        *_check_visibility(),
        *_check_ticks(settings),
        *_check_eager(),
        *_check_content(),
        *_check_reuse(settings.database),
        *_check_extras(settings),
    ]


def _check_sqlite(alias: str) -> Iterator[CheckMessage]:
    connection = connections[alias]
    if connection.vendor != "sqlite":
        return
    options = connection.settings_dict.get("OPTIONS", {})
    if str(options.get("transaction_mode", "")).upper() not in {"IMMEDIATE", "EXCLUSIVE"}:
        yield warning(
            "W040",
            f"DATABASES[{alias!r}] is SQLite without transaction_mode IMMEDIATE: it has no row locks, so "
            "two workers would handle one instance at the same time, or fail as 'database is locked'.",
            'Set "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20, '
            '"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"}.',
        )


def _check_listener(settings: Settings) -> Iterator[CheckMessage]:
    connection = connections[settings.database]
    if not settings.listen:
        return
    if not wakeups.may_listen():
        yield warning(
            "W047",
            f"PM_CELERY['LISTEN'] needs PostgreSQL and psycopg 3, and DATABASES[{settings.database!r}] has "
            "another database or driver: workers have no listener.",
            "Remove LISTEN from PM_CELERY.",
        )
    elif connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"):
        yield warning(
            "W047",
            "PM_CELERY['LISTEN'] with a pooler that hands out transactions (DISABLE_SERVER_SIDE_CURSORS): "
            "notifications do not come through it, and events wait for the tick.",
            "Remove LISTEN from PM_CELERY, or let workers connect directly.",
        )


def _check_broker() -> Iterator[CheckMessage]:
    url, options = _broker()
    if url.startswith(_REDIS) and not options.get("socket_timeout"):
        yield warning(
            "W042",
            "The Redis broker has no socket_timeout: a Redis that hangs blocks every delay() for ever.",
            'Set CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_timeout": 5, "socket_connect_timeout": 5}.',
        )
    if url.startswith("filesystem"):
        yield warning(
            "W052",
            "The broker is kombu's folder, which loses messages: a worker may take a file that is being "
            "written.",
            'Set CELERY_BROKER_URL = "pm-filesystem://", and "folder" in its transport options.',
        )


_REDIS = ("redis", "sentinel")


def _broker() -> tuple[str, dict[str, Any]]:
    conf = current_app.conf
    url = str(conf.broker_write_url or conf.broker_url or "")
    return url, conf.broker_transport_options or {}


def _check_ticks(settings: Settings) -> Iterator[CheckMessage]:
    schedule = current_app.conf.beat_schedule or {}
    if settings.tick_seconds is None and not any(
        entry.get("task") == "pm_celery.tick" for entry in schedule.values()
    ):
        yield warning(
            "W046",
            "Nothing ticks: PM_CELERY['TICK_SECONDS'] is None and beat_schedule has no pm_celery.tick.",
            "Remove TICK_SECONDS, or schedule the task pm_celery.tick yourself.",
        )


def _check_eager() -> Iterator[CheckMessage]:
    # Tests may want it.
    if current_app.conf.task_always_eager and sys.argv[1:2] != ["test"]:
        yield warning(
            "W053",
            "Celery's task_always_eager is set: handlers and commands run inside the request that "
            "publishes, which waits for all of them.",
            "Remove CELERY_TASK_ALWAYS_EAGER. Tests do without it: pm_celery.testing.",
        )


# After how many seconds a message that is not acknowledged goes to another worker, as kombu comes.
_VISIBLE_AGAIN = {"redis": 3600, "rediss": 3600, "sentinel": 3600, "sqs": 1800}


def _check_visibility() -> Iterator[CheckMessage]:
    url, options = _broker()
    transport = url.partition(":")[0].partition("+")[0]
    if transport not in _VISIBLE_AGAIN:
        return
    seconds = float(options.get("visibility_timeout") or _VISIBLE_AGAIN[transport])
    limits = {
        handler.name: limit
        for handler in registry.command_handlers
        if _is_acknowledged_late(handler) and (limit := _longest_run(handler)) > seconds
    }
    if limits:
        longest = max(limits, key=lambda name: limits[name])
        others = f", and those of {len(limits) - 1} others," if len(limits) > 1 else ""
        yield warning(
            "W041",
            f"The handler of {longest}{others} may run for {limits[longest]:g} seconds, and is acknowledged "
            f"at its end; after {seconds:g} (visibility_timeout) its message goes to another worker.",
            "Set CELERY_BROKER_TRANSPORT_OPTIONS = "
            f'{{"visibility_timeout": {ceil(2 * limits[longest])}}}, or a lower time_limit.',
        )


def _is_acknowledged_late(handler: CommandHandler) -> bool:
    task = current_app.tasks.get(handler.task_name)
    late = getattr(task, "acks_late", None)
    return bool(current_app.conf.task_acks_late if late is None else late)


def _longest_run(handler: CommandHandler) -> float:
    """In seconds; 0 where nothing ends it, and so nothing is known."""
    conf, own = current_app.conf, handler.task_options
    hard = own.get("time_limit") or conf.task_time_limit
    soft = own.get("soft_time_limit") or conf.task_soft_time_limit
    return float(hard or soft or 0)


# What kombu calls what can make a worker run code: by its short name, or by its media type.
_RUNS_CODE = {
    "pickle": "pickle",
    "application/x-python-serialize": "pickle",
    "yaml": "yaml",
    "application/x-yaml": "yaml",
}


def _check_content() -> Iterator[CheckMessage]:
    accepted = {str(content) for content in current_app.conf.accept_content or ()}
    harmful = sorted({_RUNS_CODE[content] for content in accepted if content in _RUNS_CODE})
    if harmful:
        yield warning(
            "W048",
            f"Celery's accept_content has {' and '.join(harmful)}: whoever can write to the broker can run "
            "code in a worker, before any task can refuse.",
            'Set CELERY_ACCEPT_CONTENT = ["json"], and CELERY_TASK_SERIALIZER = "json".',
        )
    if not accepted & {"json", "application/json"}:
        yield warning(
            "W048",
            "Celery's accept_content lacks json: workers refuse every message of pm_celery.",
            'Set CELERY_ACCEPT_CONTENT = ["json"].',
        )


def _check_reuse(alias: str) -> Iterator[CheckMessage]:
    from django.conf import settings

    connection = connections[alias]
    if connection.vendor == "sqlite" or connection.settings_dict.get("OPTIONS", {}).get("pool"):
        return
    if not getattr(settings, "CELERY_DB_REUSE_MAX", None) and not current_app.conf.get(
        "DB_REUSE_MAX"
    ):
        yield warning(
            "W043",
            "Celery opens a new database connection for every task: that halves what a worker does.",
            "Set CELERY_DB_REUSE_MAX = 1000.",
        )


def _check_extras(settings: Settings) -> Iterator[CheckMessage]:
    url, _ = _broker()
    if url.startswith(_REDIS) and not extras.is_installed("redis"):
        yield mistake(
            "E070",
            "The broker is Redis, and the library redis is not installed: nothing reaches a worker.",
            f"Run: {extras.remedy('redis')}",
        )
    scheduler = str(current_app.conf.beat_scheduler or "")
    if scheduler.startswith("django_celery_beat") and not extras.is_installed("beat"):
        yield mistake(
            "E070",
            f"Beat's scheduler is {scheduler}, and django-celery-beat is not installed: Beat does not start.",
            f"Run: {extras.remedy('beat')}",
        )
    if settings.trace_keys and not extras.is_installed("opentelemetry"):
        yield warning(
            "W070",
            "PM_CELERY['TRACE_KEYS'] is set, and OpenTelemetry is not installed: there are no spans.",
            f"Run: {extras.remedy('opentelemetry')}",
        )
