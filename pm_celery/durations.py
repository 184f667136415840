"""Durations as people write them: ``"30s"``, ``"24h"``, ``"1d12h"``, or a ``timedelta``."""

from __future__ import annotations

import re
from datetime import timedelta

__all__ = ["Duration", "parse_duration"]


Duration = str | timedelta

_SHAPE = "write one like '30s', '5m', '24h', '7d' or '1d12h', or give a timedelta"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_WHOLE = re.compile(r"(?:\d+(?:\.\d+)?\s*[smhdw]\s*)+")
# Postgres and Python both hold it, and nobody means a longer one.
_LONGEST = timedelta(days=365 * 100)


def parse_duration(value: object, *, allow_zero: bool = False) -> timedelta:
    """``"1d12h"`` → ``timedelta(days=1, hours=12)``.

    Units are s, m, h, d and w, each with a number before it, several in a row. Raises ``ValueError`` for
    anything else, for a negative duration, for one beyond a century, and for zero unless
    ``allow_zero``.
    """
    if isinstance(value, timedelta):
        duration = value
    elif isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(value))
        if seconds > _LONGEST.total_seconds():
            raise ValueError(f"{value!r} is longer than a century")
        duration = timedelta(seconds=seconds)
    else:
        raise ValueError(f"{value!r} is no duration: {_SHAPE}")
    if duration < timedelta(0) or (duration == timedelta(0) and not allow_zero):
        raise ValueError(f"{value!r} is no duration: it must lie in the future")
    if duration > _LONGEST:
        raise ValueError(f"{value!r} is longer than a century")
    return duration
