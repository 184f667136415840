"""The table of logs says what the code does: each kind of news, its level, its keys.

Breaks that turned these red: a level changed in ``log._NEWS``; a keyword more where a signal is sent; a
signal that nothing logs.
"""

from __future__ import annotations

import ast
import logging
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from uuid import uuid4

import pytest

from pm_celery import log, publish, signals
from pm_celery.models import Instance
from pm_celery.operations import instances
from tests.driving import drain
from tests.orders import Placed, Plan

ROOT = Path(__file__).parent.parent


@cache
def sent() -> dict[str, set[frozenset[str]]]:
    """The keywords with which the package sends each signal, read from its source."""
    found = defaultdict(set)
    for path in (ROOT / "pm_celery").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("send_robust", "send_on_commit")
                and isinstance(node.func.value, ast.Attribute)
            ):
                keys = {keyword.arg for keyword in node.keywords if keyword.arg} - {"sender"}
                if "error" in keys:
                    keys |= {"error_text"}
                found[node.func.value.attr].add(frozenset(keys))
    return found


@pytest.mark.any_database
def test_the_table_of_logs_names_every_news_with_its_level_and_keys() -> None:
    by_signal = {getattr(signals, name): name for name in signals.__all__}
    levels = {by_signal[signal]: logging.getLevelName(level) for signal, level, _ in log._NEWS}
    table = re.findall(
        r"^\| `(\w+)`: [^|]+ \| (\w+) \| ([^|]+) \|$",
        (ROOT / "docs/reference/logs.md").read_text(),
        re.M,
    )

    documented = {
        name: (level, set(re.findall(r"`pm_(\w+)`", keys))) for name, level, keys in table
    }

    assert all(len(shapes) == 1 for shapes in sent().values()), "one shape for each kind of news"
    assert documented == {name: (levels.get(name), set(*shapes)) for name, shapes in sent().items()}
    assert set(documented) == set(signals.__all__)


@pytest.mark.any_database
def test_each_line_only_speaks_of_keys_that_it_has() -> None:
    by_signal = {getattr(signals, name): name for name in signals.__all__}
    for signal, _level, text in log._NEWS:
        keys = set(*sent()[by_signal[signal]])
        assert set(re.findall(r"%\((\w+)\)s", text)) <= keys, text


@pytest.mark.django_db(transaction=True)
def test_a_verb_is_logged_with_who_and_why_and_a_letter_as_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pm_celery")
    order_id = uuid4()
    publish(Placed(order_id=order_id))
    drain()
    instances.cancel(Instance.objects.get().pk, by="ann", reason="asked\nfor")
    Plan.raise_in["placed"] = KeyError("x")
    publish(Placed(order_id=uuid4()))
    drain()

    operated, died = [record for record in caplog.records if record.levelname in ("INFO", "ERROR")]
    assert operated.getMessage() == f"cancel tests.Order {order_id} by ann; reason: asked\\nfor"
    assert (operated.pm_by, operated.pm_reason) == ("ann", "asked\\nfor")  # type: ignore[attr-defined]
    assert (died.levelname, died.pm_place) == ("ERROR", "handler")  # type: ignore[attr-defined]
