"""The settings: one dict, ``PM_CELERY``, read when first needed and again when tests override it."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypedDict

from django.conf import settings as django_settings

from pm_celery.durations import Duration, parse_duration
from pm_celery.exceptions import SettingsError
from pm_celery.keeping import Kept, Retention, read_retention

__all__ = ["HealthSettings", "Limits", "PmCelerySettings", "Settings", "get_settings"]

# Parts of names, or of patterns for them, between points; none of them is empty.
_PATTERN = re.compile(r"[^\s.]+(\.[^\s.]+)*")


class HealthSettings(TypedDict, total=False):
    """The shape of ``PM_CELERY["HEALTH"]``.

    TOKEN
        who sends it may ask for health and metrics without an account (none).
    TICK, INBOX, OUTBOX, TIMERS
        how long ago the last tick may have been, and how late the longest overdue row may be (``"1m"``).
    OPEN_LETTERS
        how many dead letters may be open; ``None``, the default: any number.
    UNKNOWN
        for how long a message is told of that no release knew (``"5m"``).
    """

    TOKEN: str
    TICK: Duration
    INBOX: Duration
    OUTBOX: Duration
    TIMERS: Duration
    OPEN_LETTERS: int | None
    UNKNOWN: Duration


class PmCelerySettings(TypedDict, total=False):
    """The shape of ``PM_CELERY`` in a project's settings. Every key is optional.

    DATABASE
        alias of the database that holds the package's tables; it must be that of the business data,
        or nothing commits together (``"default"``).
    QUEUES
        1: wake-ups go to Celery's default queue. N > 1: to ``pm_celery.0`` … ``pm_celery.<N-1>``.
    BATCH_SIZE
        how many messages one transaction of the engine handles at most (500).
    BATCH_SECONDS
        how long the handlers of one transaction run at most, in seconds, before it is recorded (0.25).
    ADVANCE_SECONDS
        how long one wake-up may go on handling before it makes room and wakes itself again (0.1).
    TICK_SECONDS
        the period of Beat's tick, in seconds (1.0); ``None`` installs no Beat entry.
    LISTEN
        on PostgreSQL: workers have a listener, a process that the database wakes, and publishing need send
        it no Celery message (False).
    WAKE_LEASE
        after how long a wake-up that did nothing counts as lost (``"5s"``).
    COMMAND_LEASE
        after how long a dispatched command that did not run is dispatched again; doubled with each
        further dispatch, an hour at most (``"20s"``).
    COMMANDS_PER_MESSAGE
        how many commands of one handler share a Celery message at most (1). Each is still run, retried
        and dead-lettered by itself; but many that are quick share a transaction.
    UNKNOWN_MESSAGE_WAIT
        how long a message that this release does not know waits before it is looked at again
        (``"15s"``).
    MAX_PAYLOAD_BYTES
        the largest payload of an event or command, in bytes of UTF-8 (1 MiB).
    MAX_CHAIN_DEPTH
        how many events may cause one another before the chain is stopped as a loop (256).
    RETENTION
        how long ended instances and settled rows are kept, such as ``"90d"``; ``None``, the default: for
        ever. By process and status:
        ``{"default": "90d", "shop.Loan": {"completed": "365d", "failed": None}}``.
    EXPORT_BEFORE_PRUNE
        what gets instances as dicts before they are removed: the dotted path of a function, or a directory
        for files of JSON Lines (None).
    HEALTH
        limits beyond which the health is bad, and the token of whoever asks for it.
    REASON_REQUIRED
        whether the admin asks for a reason before it acts, and takes no empty one (True).
    REDACT
        fields whose values are not to be shown on pages, in log lines and in dead letters: names or
        patterns such as ``"iban"``, ``"*.password"``, ``"billing.Paid.card"`` (none).
    TRACE_KEYS
        spans of OpenTelemetry tell the correlation key as well (False): it may be personal.
    EDIT_PAYLOADS
        whether operators who have the permission may change the payload of a dead letter and retry it
        (False).
    EXTERNAL_EVENTS
        wire names of events, or patterns such as ``"payments.*"``, that other services publish or hear: no
        check misses who publishes or handles them here (none).
    AUTODISCOVER
        the modules (or packages) that are imported from every installed app.
    """

    DATABASE: str
    QUEUES: int
    BATCH_SIZE: int
    BATCH_SECONDS: float
    ADVANCE_SECONDS: float
    TICK_SECONDS: float | None
    LISTEN: bool
    WAKE_LEASE: Duration
    COMMAND_LEASE: Duration
    COMMANDS_PER_MESSAGE: int
    UNKNOWN_MESSAGE_WAIT: Duration
    MAX_PAYLOAD_BYTES: int
    MAX_CHAIN_DEPTH: int
    RETENTION: Duration | Mapping[str, Kept] | None
    EXPORT_BEFORE_PRUNE: str | Path | None
    HEALTH: HealthSettings
    REASON_REQUIRED: bool
    REDACT: tuple[str, ...]
    TRACE_KEYS: bool
    EDIT_PAYLOADS: bool
    EXTERNAL_EVENTS: tuple[str, ...]
    AUTODISCOVER: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """``PM_CELERY["HEALTH"]`` with its defaults, checked; field names are its keys in lower case."""

    token: str = field(default="", repr=False)
    tick: timedelta = timedelta(minutes=1)
    inbox: timedelta = timedelta(minutes=1)
    outbox: timedelta = timedelta(minutes=1)
    timers: timedelta = timedelta(minutes=1)
    open_letters: int | None = None
    unknown: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Settings:
    """``PM_CELERY`` with its defaults, checked; field names are its keys in lower case."""

    database: str = "default"
    queues: int = 1
    batch_size: int = 500
    batch_seconds: float = 0.25
    advance_seconds: float = 0.1
    tick_seconds: float | None = 1.0
    listen: bool = False
    wake_lease: timedelta = timedelta(seconds=5)
    command_lease: timedelta = timedelta(seconds=20)
    commands_per_message: int = 1
    unknown_message_wait: timedelta = timedelta(seconds=15)
    max_payload_bytes: int = 1024 * 1024
    max_chain_depth: int = 256
    retention: Retention = field(default_factory=Retention)
    export_before_prune: str | Path | None = None
    health: Limits = Limits()
    reason_required: bool = True
    redact: tuple[str, ...] = ()
    trace_keys: bool = False
    edit_payloads: bool = False
    external_events: tuple[str, ...] = ()
    autodiscover: tuple[str, ...] = ("processes", "policies", "command_handlers")


def _positive_int(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("give a whole number, 1 or more")
    return value


def _positive_seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise ValueError("give a number of seconds above 0")
    return float(value)


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("give True or False")
    return value


def _alias(value: object) -> str:
    if not isinstance(value, str) or value not in django_settings.DATABASES:
        known = ", ".join(map(repr, django_settings.DATABASES))
        raise ValueError(f"give an alias of DATABASES ({known})")
    return value


def _module_names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError("give a tuple of module names")
    return tuple(value)


def _patterns(value: object, of: str, examples: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"give a list of {of}s' names")
    for pattern in value:
        if not isinstance(pattern, str) or not _PATTERN.fullmatch(pattern):
            raise ValueError(f"{pattern!r} is no {of}'s name: write {examples}")
    return tuple(value)


def _export(value: object) -> str | Path | None:
    """A path if it has a slash in it, else a dotted name."""
    if value is None or isinstance(value, Path):
        return value
    if isinstance(value, str) and ("/" in value or os.sep in value):
        return Path(value)
    if isinstance(value, str) and _PATTERN.fullmatch(value) and "." in value:
        return value
    raise ValueError("give a function's dotted path such as 'shop.archive.keep', or a directory")


def _token(value: object) -> str:
    if not isinstance(value, str) or not value.isascii() or value.strip() != value:
        raise ValueError("give a text of ASCII, without blanks around it")
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("give a whole number, 0 or more")
    return value


_LIMIT_READERS: dict[str, Any] = {
    "TOKEN": _token,
    "TICK": parse_duration,
    "INBOX": parse_duration,
    "OUTBOX": parse_duration,
    "TIMERS": parse_duration,
    "OPEN_LETTERS": lambda value: None if value is None else _count(value),
    "UNKNOWN": parse_duration,
}


def _health(value: object) -> Limits:
    return dataclasses.replace(Limits(), **_read("PM_CELERY['HEALTH']", value, _LIMIT_READERS))


_READERS: dict[str, Any] = {
    "DATABASE": _alias,
    "QUEUES": _positive_int,
    "BATCH_SIZE": _positive_int,
    "BATCH_SECONDS": _positive_seconds,
    "ADVANCE_SECONDS": _positive_seconds,
    "TICK_SECONDS": lambda value: None if value is None else _positive_seconds(value),
    "LISTEN": _bool,
    "WAKE_LEASE": parse_duration,
    "COMMAND_LEASE": parse_duration,
    "COMMANDS_PER_MESSAGE": _positive_int,
    "UNKNOWN_MESSAGE_WAIT": parse_duration,
    "MAX_PAYLOAD_BYTES": _positive_int,
    "MAX_CHAIN_DEPTH": _positive_int,
    "RETENTION": read_retention,
    "EXPORT_BEFORE_PRUNE": _export,
    "HEALTH": _health,
    "REASON_REQUIRED": _bool,
    "REDACT": partial(_patterns, of="field", examples="'iban', '*.iban' or 'billing.Paid.iban'"),
    "TRACE_KEYS": _bool,
    "EDIT_PAYLOADS": _bool,
    "EXTERNAL_EVENTS": partial(
        _patterns, of="event", examples="'payments.Settled' or 'payments.*'"
    ),
    "AUTODISCOVER": _module_names,
}


def read_settings(given: object) -> Settings:
    """Check a ``PM_CELERY`` dict. Raises ``SettingsError`` that names key and remedy."""
    return dataclasses.replace(Settings(), **_read("PM_CELERY", given, _READERS))


def _read(where: str, given: object, readers: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise SettingsError(f"{where} must be a dict, not {type(given).__name__}.")
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in readers:
            near = difflib.get_close_matches(str(key).upper(), readers, n=1, cutoff=0.4)
            remedy = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(readers)}."
            raise SettingsError(f"{where} has no setting {key!r}. {remedy}")
        try:
            values[key.lower()] = readers[key](value)
        except ValueError as error:
            # What is wrong with a secret is told without it.
            shown = "" if key == "TOKEN" else f" = {value!r}"
            raise SettingsError(f"{where}[{key!r}]{shown}: {error}.") from None
    return values


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings in force. Raises ``SettingsError``."""
    return read_settings(getattr(django_settings, "PM_CELERY", {}))


def forget_settings(*, setting: str, **_: object) -> None:
    """Receiver of ``setting_changed``: tests override settings and are believed."""
    if setting in {"PM_CELERY", "DATABASES"}:
        get_settings.cache_clear()
