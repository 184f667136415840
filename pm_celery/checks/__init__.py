"""System checks: what is wrong with a project, said when it starts, with the remedy and an id.

Importing this registers them with Django.
"""

from pm_celery.checks.database import check_database
from pm_celery.checks.declarations import check_declarations
from pm_celery.checks.events import check_events
from pm_celery.checks.settings import check_settings
from pm_celery.checks.surroundings import check_environment
from pm_celery.checks.versions import check_versions
from pm_celery.checks.workers import connect

__all__ = [
    "check_database",
    "check_declarations",
    "check_environment",
    "check_events",
    "check_settings",
    "check_versions",
    "connect",
]
