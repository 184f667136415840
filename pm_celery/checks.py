"""System checks: what is wrong with a project, said when it starts, with the remedy and an id."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

from celery import current_app
from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor
from pydantic import ValidationError

from pm_celery import export, redaction, registry, wakeups
from pm_celery.conf import Settings, get_settings
from pm_celery.definitions import ProcessDefinition
from pm_celery.exceptions import SettingsError
from pm_celery.process import ProcessManager

__all__ = ["check_database", "check_declarations", "check_environment", "check_settings"]

TAG = "pm_celery"
# Beat's tick is late when it did not run for this long.
_TICK_IS_LATE = timedelta(seconds=60)

AppConfigs = Sequence[AppConfig] | None


def _error(id: str, text: str, hint: str) -> Error:
    return Error(text, hint=hint, id=f"pm_celery.{id}")


def _warning(id: str, text: str, hint: str) -> Warning:
    return Warning(text, hint=hint, id=f"pm_celery.{id}")


@register(TAG)
def check_settings(app_configs: AppConfigs = None, **_: Any) -> list[CheckMessage]:
    """E030: ``PM_CELERY`` is usable."""
    try:
        get_settings()
        export.keeper()
    except SettingsError as error:
        return [_error("E030", str(error), "Correct PM_CELERY in your settings.")]
    return []


# -- what users declare -----------------------------------------------------------------------------


@register(TAG)
def check_declarations(app_configs: AppConfigs = None, **_: Any) -> list[CheckMessage]:
    """E001 to E023, W001 to W005: processes, policies, events, commands and their handlers."""
    found: list[CheckMessage] = []
    for listener in registry.listeners:
        found += [_error(p.id, p.text, p.hint) for p in listener.problems]
        if isinstance(listener, ProcessDefinition) and not listener.problems:
            found += _check_process(listener)
    found += _check_names()
    found += _check_messages()
    found += _check_redaction()
    found += _check_retention()
    return found


def _check_process(definition: ProcessDefinition) -> Iterator[CheckMessage]:
    try:
        definition.dump(definition.initial())
    except Exception as error:  # noqa: BLE001 -- a field's default or type may raise anything
        yield _error(
            "E007",
            f"{definition.where}: its state cannot be stored: {error}",
            "Give each field a type that pydantic can write as JSON, and a default of that type.",
        )
        return
    handlers = definition.event_handlers.values()
    methods = [h.method for h in handlers] + list(definition.timer_handlers.values())
    methods += [*definition.command_failed_handlers.values()]
    methods += [m for m in (definition.timeout_handler, definition.failure_handler) if m]
    completes = any(map(_calls_complete, _members(definition.cls)))
    if not definition.timeout and not completes and not any(h.end for h in handlers):
        yield _warning(
            "W001",
            f"{definition.where} has no path to an end: its instances run for ever.",
            "Write @handle(…, end=True), Meta.completed_by, Meta.timeout, or call self.complete().",
        )
    if len(methods) == 1 and not definition.timeout:
        yield _warning(
            "W005",
            f"{definition.where} handles one event and has no timeout: it coordinates nothing.",
            "Use @policy for a reaction to a single event.",
        )
    elif not definition.timeout:
        yield _warning(
            "W002",
            f"{definition.where} has no timeout: an instance whose next event never comes stays for ever.",
            'Write timeout = "7d" in its Meta.',
        )
    elif not definition.timeout_handler:
        yield _warning(
            "W003",
            f"{definition.where} has a timeout but no handler for it: nothing is undone when it passes.",
            "Write a method with @on_timeout.",
        )
    if not definition.failure_handler and len(methods) > 1:
        yield _warning(
            "W004",
            f"{definition.where} has no failure handler: a failure is seen in the dead letters only.",
            "Write a method with @on_failure.",
        )


def _members(cls: type) -> Iterator[object]:
    """What the user's classes define, helper methods included."""
    for base in cls.__mro__:
        if base not in (ProcessManager, object):
            yield from vars(base).values()


def _calls_complete(member: object) -> bool:
    code = getattr(member, "__code__", None)
    return code is not None and "complete" in code.co_names


def _check_names() -> Iterator[CheckMessage]:
    for name, listeners in registry.listeners.shared_names().items():
        where = " and ".join(listener.where for listener in listeners)
        yield _error(
            "E011",
            f"{where} share the name {name!r}: their instances would be mixed up.",
            'Write name = "…" in the Meta of one of them.',
        )
    for name, declared in registry.messages.shared_names().items():
        where = " and ".join(f"{m.cls.__module__}.{m.cls.__qualname__}" for m in declared)
        yield _error(
            "E022",
            f"{where} share the wire name {name!r}.",
            f'Write @{declared[0].kind}(name="…").',
        )
    for name, handlers in registry.command_handlers.shared_names().items():
        where = " and ".join(f"{h.function.__module__}.{h.function.__qualname__}" for h in handlers)
        yield _error("E021", f"{where} both handle {name}.", "A command has exactly one handler.")


def _check_messages() -> Iterator[CheckMessage]:
    for declared in registry.messages:
        where = f"{declared.cls.__module__}.{declared.cls.__qualname__}"
        try:
            # Reads nothing that could be right; what is not defined raises something else.
            with suppress(ValidationError):
                declared.adapter.validate_json("null")
        except Exception as error:  # noqa: BLE001 -- pydantic raises what annotations raise
            yield _error(
                "E023",
                f"{where} cannot be stored: {str(error).splitlines()[0]}",
                "Give its fields types that pydantic can write as JSON.",
            )
            continue
        if declared.kind == "command" and registry.command_handlers.get(declared.name) is None:
            modules = ", ".join(f"{name}.py" for name in _autodiscovered())
            yield _error(
                "E020",
                f"The command {where} has no handler.",
                f"Write @command_handler({declared.cls.__name__}) in one of {modules} of an installed app.",
            )


def _check_redaction() -> Iterator[CheckMessage]:
    try:
        patterns = get_settings().redact
    except SettingsError:
        return
    known: dict[str, frozenset[str]] = {}
    older = {message.name for message in registry.messages if message.version > 1}
    older |= {owner.name for owner in registry.listeners if getattr(owner, "state_version", 1) > 1}
    for owner in (*registry.messages, *registry.listeners):
        # What is broken has been reported; a policy has no fields.
        with suppress(Exception):
            known[owner.name] = owner.fields.names
    for listener in registry.listeners:
        if isinstance(listener, ProcessDefinition) and listener.name in known:
            known[listener.name] |= set(listener.timer_handlers)
            yield from _check_shown_keys(listener)
    for pattern in patterns:
        owner_pattern, field_pattern = redaction.split(pattern)
        owners = [name for name in known if fnmatchcase(name, owner_pattern)]
        names = {name for owner in owners for name in known[owner]}
        if any(fnmatchcase(name, field_pattern) for name in names):
            continue
        if owner_pattern != "*" and older & set(owners):
            # Rows of theirs may have a field that is called so no longer.
            continue
        near = difflib.get_close_matches(field_pattern, sorted(names), n=1)
        if not owners:
            near = difflib.get_close_matches(owner_pattern, sorted(known), n=1)
        yield _warning(
            "W049",
            f"PM_CELERY['REDACT'] names {pattern!r}, which no event, command or process has: nothing is "
            "hidden by it.",
            f"Did you mean {near[0]!r}?" if near else "Correct it, or remove it.",
        )


def _check_retention() -> Iterator[CheckMessage]:
    try:
        named = get_settings().retention.processes
    except SettingsError:
        return
    known = sorted({listener.name for listener in registry.listeners})
    for process in named:
        if process not in known:
            near = difflib.get_close_matches(process, known, n=1)
            yield _warning(
                "W050",
                f"PM_CELERY['RETENTION'] names {process!r}, which no process and no policy is called.",
                f"Did you mean {near[0]!r}?"
                if near
                else "Remove it once none of its rows are left.",
            )


def _check_shown_keys(definition: ProcessDefinition) -> Iterator[CheckMessage]:
    for declared, handler in definition.event_handlers.items():
        if callable(handler.correlate) or handler.correlate is None:
            continue
        with suppress(Exception):
            if redaction.is_hidden(declared.name, handler.event_field):
                yield _warning(
                    "W006",
                    f"{definition.where} correlates {declared.cls.__name__} by {handler.event_field!r}, "
                    "which is a sensitive field: keys are shown on pages and in logs.",
                    "Correlate by an id that says nothing about a person.",
                )


def _autodiscovered() -> tuple[str, ...]:
    try:
        return get_settings().autodiscover
    except SettingsError:
        return ("processes",)


# -- the environment --------------------------------------------------------------------------------


@register(TAG)
def check_environment(app_configs: AppConfigs = None, **_: Any) -> list[CheckMessage]:
    """W040 to W043, W046 to W048: database and broker are set up so that nothing hangs, is lost, or runs
    code from outside."""
    try:
        settings = get_settings()
    except SettingsError:
        return []
    return [
        *_check_sqlite(settings.database),
        *_check_listener(settings),
        *_check_broker(),
        *_check_content(),
        *_check_reuse(settings.database),
    ]


def _check_sqlite(alias: str) -> Iterator[CheckMessage]:
    connection = connections[alias]
    if connection.vendor != "sqlite":
        return
    options = connection.settings_dict.get("OPTIONS", {})
    if str(options.get("transaction_mode", "")).upper() not in {"IMMEDIATE", "EXCLUSIVE"}:
        yield _warning(
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
        yield _warning(
            "W047",
            f"PM_CELERY['LISTEN'] needs PostgreSQL and psycopg 3, and DATABASES[{settings.database!r}] has "
            "another database or driver: workers have no listener.",
            "Remove LISTEN from PM_CELERY.",
        )
    elif connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"):
        yield _warning(
            "W047",
            "PM_CELERY['LISTEN'] with a pooler that hands out transactions (DISABLE_SERVER_SIDE_CURSORS): "
            "notifications do not come through it, and events wait for the tick.",
            "Remove LISTEN from PM_CELERY, or let workers connect directly.",
        )


def _check_broker() -> Iterator[CheckMessage]:
    conf = current_app.conf
    url = str(conf.broker_write_url or conf.broker_url or "")
    options = conf.broker_transport_options or {}
    if url.startswith(("redis", "sentinel")) and not options.get("socket_timeout"):
        yield _warning(
            "W042",
            "The Redis broker has no socket_timeout: a Redis that hangs blocks every delay() for ever.",
            'Set CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_timeout": 5, "socket_connect_timeout": 5}.',
        )
    if get_settings().tick_seconds is None and not any(
        entry.get("task") == "pm_celery.tick" for entry in (conf.beat_schedule or {}).values()
    ):
        yield _warning(
            "W046",
            "Nothing ticks: PM_CELERY['TICK_SECONDS'] is None and beat_schedule has no pm_celery.tick.",
            "Remove TICK_SECONDS, or schedule the task pm_celery.tick yourself.",
        )


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
        yield _warning(
            "W048",
            f"Celery's accept_content has {' and '.join(harmful)}: whoever can write to the broker can run "
            "code in a worker, before any task can refuse.",
            'Set CELERY_ACCEPT_CONTENT = ["json"], and CELERY_TASK_SERIALIZER = "json".',
        )
    if not accepted & {"json", "application/json"}:
        yield _warning(
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
        yield _warning(
            "W043",
            "Celery opens a new database connection for every task: that halves what a worker does.",
            "Set CELERY_DB_REUSE_MAX = 1000.",
        )


@register(TAG, Tags.database)
def check_database(
    app_configs: AppConfigs = None, databases: Sequence[str] | None = None, **_: Any
) -> list[CheckMessage]:
    """E045: the tables are migrated. W044: Beat's tick runs."""
    try:
        alias = get_settings().database
    except SettingsError:
        return []
    # `migrate` runs these checks before it creates the tables; nobody ticks a test database.
    if not databases or alias not in databases or sys.argv[1:2] in (["migrate"], ["test"]):
        return []
    connection = connections[alias]
    try:
        executor = MigrationExecutor(connection)
        targets = [key for key in executor.loader.graph.leaf_nodes() if key[0] == "pm_celery"]
        if executor.migration_plan(targets):
            return [
                _error(
                    "E045",
                    f"The tables of pm_celery are not migrated in the database {alias!r}.",
                    f"Run: python manage.py migrate pm_celery --database {alias}",
                )
            ]
        return list(_check_tick())
    except DatabaseError as error:
        return [_error("E045", f"The database {alias!r} cannot be read: {error}", "Is it running?")]


def _check_tick() -> Iterator[CheckMessage]:
    from pm_celery import clock, ticks

    last = ticks.last_tick()
    if last is None or clock.now() - last > _TICK_IS_LATE:
        when = "never" if last is None else f"last at {last:%Y-%m-%d %H:%M:%S} UTC"
        yield _warning(
            "W044",
            f"Beat's tick does not run ({when}): no timer fires and nothing lost is found again.",
            "Run: celery -A <project> beat, and a worker.",
        )
