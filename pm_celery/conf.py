"""The settings: one dict, ``PM_CELERY``, read when first needed and again when tests override it."""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypedDict

from django.conf import settings as django_settings

from pm_celery.durations import Duration, parse_duration
from pm_celery.exceptions import SettingsError

__all__ = ["PmCelerySettings", "Settings", "get_settings"]

# Parts of names between points; none of them is empty.
_PATTERN = re.compile(r"[^\s.]+(\.[^\s.]+)*")


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
        ever.
    REASON_REQUIRED
        whether the admin asks for a reason before it acts, and takes no empty one (True).
    REDACT
        fields whose values are not to be shown on pages, in log lines and in dead letters: names or
        patterns such as ``"iban"``, ``"*.password"``, ``"billing.Paid.card"`` (none).
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
    RETENTION: Duration | None
    REASON_REQUIRED: bool
    REDACT: tuple[str, ...]
    AUTODISCOVER: tuple[str, ...]


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
    retention: timedelta | None = None
    reason_required: bool = True
    redact: tuple[str, ...] = ()
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


def _patterns(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("give a list of fields' names")
    for pattern in value:
        if not isinstance(pattern, str) or not _PATTERN.fullmatch(pattern):
            raise ValueError(
                f"{pattern!r} is no name of a field: write 'iban', '*.iban' or 'billing.Paid.iban'"
            )
    return tuple(value)


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
    "RETENTION": lambda value: None if value is None else parse_duration(value),
    "REASON_REQUIRED": _bool,
    "REDACT": _patterns,
    "AUTODISCOVER": _module_names,
}


def read_settings(given: object) -> Settings:
    """Check a ``PM_CELERY`` dict. Raises ``SettingsError`` that names key and remedy."""
    if not isinstance(given, dict):
        raise SettingsError(f"PM_CELERY must be a dict, not {type(given).__name__}.")
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in _READERS:
            near = difflib.get_close_matches(str(key).upper(), _READERS, n=1, cutoff=0.4)
            remedy = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(_READERS)}."
            raise SettingsError(f"PM_CELERY has no setting {key!r}. {remedy}")
        try:
            values[key.lower()] = _READERS[key](value)
        except ValueError as error:
            raise SettingsError(f"PM_CELERY[{key!r}] = {value!r}: {error}.") from None
    return dataclasses.replace(Settings(), **values)


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings in force. Raises ``SettingsError``."""
    return read_settings(getattr(django_settings, "PM_CELERY", {}))


def forget_settings(*, setting: str, **_: object) -> None:
    """Receiver of ``setting_changed``: tests override settings and are believed."""
    if setting in {"PM_CELERY", "DATABASES"}:
        get_settings.cache_clear()
