"""Autodiscovered, so that worker processes know them as the tests do."""

from tests import orders

__all__ = ["orders"]
