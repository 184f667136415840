"""The testing kit: process managers in tests, without a broker, a worker, or a sleep.

``docs/how-to/test.md`` shows how to use it. Importing this package loads no models and reads no settings;
what needs them is loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pm_celery.testing.database import ProcessManagers as ProcessManagers
    from pm_celery.testing.database import ProcessManagersMixin as ProcessManagersMixin
    from pm_celery.testing.driving import NotSettled as NotSettled
    from pm_celery.testing.exploration.exploring import explore as explore
    from pm_celery.testing.exploration.reporting import Broken as Broken
    from pm_celery.testing.exploration.reporting import Report as Report
    from pm_celery.testing.memory.planned import Injected as Injected
    from pm_celery.testing.scenario import Scenario as Scenario
    from pm_celery.testing.scenario import given as given

__all__ = [
    "Broken",
    "Injected",
    "NotSettled",
    "ProcessManagers",
    "ProcessManagersMixin",
    "Report",
    "Scenario",
    "explore",
    "given",
]

_HOMES = {
    "database": ("ProcessManagers", "ProcessManagersMixin"),
    "driving": ("NotSettled",),
    "exploration.exploring": ("explore",),
    "exploration.reporting": ("Broken", "Report"),
    "memory.planned": ("Injected",),
    "scenario": ("Scenario", "given"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'pm_celery.testing' has no attribute {name!r}")
    found = getattr(import_module(f"pm_celery.testing.{_HOME_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
