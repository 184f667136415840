"""Correlation keys and the partitions that they fall into."""

from __future__ import annotations

import math
import zlib
from decimal import Decimal
from enum import Enum
from uuid import UUID

from pm_celery.exceptions import UnusableKey

__all__ = ["LONGEST_KEY", "PARTITIONS", "correlation_key", "partition_of"]

LONGEST_KEY = 255
# Partitions are the engine's parallelism. One halves the rate, more than 16 gained nothing measurable;
# the number is stored on rows by implication, so it is no setting.
PARTITIONS = 16


def correlation_key(value: object) -> str:
    """The text by which an instance is found. Raises ``UnusableKey``.

    Strings, UUIDs and numbers can be keys. ``None`` cannot: the key ``"None"`` would gather all
    events that lack their key in one instance.
    """
    if isinstance(value, Enum) and not isinstance(value, str):
        value = value.value
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal | UUID):
        raise UnusableKey(
            f"{value!r} is no correlation key: give a string, a number or a UUID, "
            f"not {type(value).__name__}."
        )
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise UnusableKey(f"{value!r} is no correlation key: it is no number.")
    # str.__str__: a member of a string enum is its value, whatever its __str__ prints.
    key = str.__str__(value) if isinstance(value, str) else str(value)
    if not key.strip():
        raise UnusableKey("The correlation key is empty.")
    if key == "None":
        raise UnusableKey(
            "The correlation key is 'None': some code has made text of a missing value."
        )
    if len(key) > LONGEST_KEY:
        raise UnusableKey(
            f"The correlation key is {len(key)} characters long, more than {LONGEST_KEY}: {key[:40]!r}…"
        )
    if "\x00" in key or not _is_text(key):
        raise UnusableKey(f"The correlation key {key[:40]!r} holds characters no database stores.")
    return key


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def partition_of(process: str, key: str) -> int:
    """The partition of an instance, the same in every process and release (``hash()`` is not)."""
    return zlib.crc32(f"{process}\x00{key}".encode()) % PARTITIONS
