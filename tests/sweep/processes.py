"""Processes that may die: forked from one that has imported everything and is connected to nothing."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["Ended", "Tell", "in_a_process"]

Tell = Callable[..., None]
#: A process's exit code, and what it told until it ended.
Ended = tuple[int, dict[str, Any]]

# Far more than any run takes; one that hangs is ended, and its test fails.
_LONGEST_SECONDS = 60


def in_a_process(work: Callable[[Tell], None], seconds: int = _LONGEST_SECONDS) -> Ended:
    """Do some work in a process of its own.

    A fork takes a hundredth of the time that a new interpreter takes. Nothing may be connected here: a
    child that ends would close what it shares with us.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _live(work, writer, seconds)
    os.close(writer)
    with open(reader, "rb") as told:
        lines = told.read().splitlines()
    _, status = os.waitpid(child, 0)
    heard: dict[str, Any] = {}
    for line in lines:
        heard.update(json.loads(line))
    return os.waitstatus_to_exitcode(status), heard


def _live(work: Callable[[Tell], None], writer: int, seconds: int) -> None:
    def tell(**news: Any) -> None:
        line = json.dumps(news).encode() + b"\n"
        while line:
            line = line[os.write(writer, line) :]

    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        # Handlers that stumble are what we are here for.
        logging.disable(logging.CRITICAL)
        # So that each run takes the same way.
        random.seed(0)
        work(tell)
        code = 0
    except BaseException:  # noqa: BLE001  whatever it is, it ends here, and not in pytest's code
        tell(error=traceback.format_exc())
    finally:
        os._exit(code)
