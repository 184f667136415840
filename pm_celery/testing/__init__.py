"""The testing kit: a process manager in memory, virtual time, and a small model checker.

``docs/how-to/test.md`` shows how to use it. Nothing in memory touches a database, and none of it loads
models.
"""

from __future__ import annotations

from pm_celery.testing.exploration.exploring import explore
from pm_celery.testing.exploration.reporting import Broken, Report
from pm_celery.testing.memory.planned import Injected
from pm_celery.testing.scenario import Scenario, given

__all__ = ["Broken", "Injected", "Report", "Scenario", "explore", "given"]
