"""Who asks ``replay_log`` to end is obeyed between two transactions."""

from __future__ import annotations

import os
import signal

import pytest
from replay.interruption import interruptible

pytestmark = pytest.mark.any_database


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_obeyed_where_the_run_looks_for_it_and_not_before(
    number: signal.Signals,
) -> None:
    before = signal.getsignal(number)
    done: list[str] = []

    with interruptible() as stop_if_asked:
        stop_if_asked()
        os.kill(os.getpid(), number)
        done.append("the commit")
        with pytest.raises(KeyboardInterrupt):
            stop_if_asked()

    assert done == ["the commit"]
    assert signal.getsignal(number) == before


def test_who_asks_twice_is_not_kept_waiting() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
