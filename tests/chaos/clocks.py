"""Wrong clocks: a Python whose wall clock is off, as on a machine that nobody set.

Its monotonic clock stays right, as it does on such a machine. (libfaketime would reach C code too, but
breaks ``time.sleep``: Python waits for a moment of the monotonic clock.)
"""

from __future__ import annotations

import ctypes
import gc
import time
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

__all__ = ["put_ahead"]


def put_ahead(seconds: float) -> None:
    """Put this process's wall clock ahead, for whoever asks it from now on; its children's as well.

    To be called before anything else is imported that may keep ``time.time`` for itself.
    """
    if not seconds:
        return
    right, right_ns, right_now = time.time, time.time_ns, datetime.now
    time.time = lambda: right() + seconds
    time.time_ns = lambda: right_ns() + int(seconds * 1e9)

    def now(cls: type[datetime], tz: tzinfo | None = None) -> datetime:
        return right_now(tz) + timedelta(seconds=seconds)

    def utcnow(cls: type[datetime]) -> datetime:
        return now(cls, UTC).replace(tzinfo=None)

    # The class is C's, which ordinary assignment cannot change; it asks the system itself.
    attributes: Any = gc.get_referents(datetime.__dict__)[0]
    attributes["now"], attributes["utcnow"] = classmethod(now), classmethod(utcnow)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime))
