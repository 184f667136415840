"""How a check says what is wrong: with an id, where it is, and what to type."""

from __future__ import annotations

from collections.abc import Sequence

from django.apps import AppConfig
from django.core.checks import Error, Warning

__all__ = ["TAG", "AppConfigs", "mistake", "warning"]

TAG = "pm_celery"
AppConfigs = Sequence[AppConfig] | None


def mistake(id: str, text: str, hint: str) -> Error:
    """A fault with which the project does not start."""
    return Error(text, hint=hint, id=f"pm_celery.{id}")


def warning(id: str, text: str, hint: str) -> Warning:
    """What works, and will be regretted."""
    return Warning(text, hint=hint, id=f"pm_celery.{id}")
