"""Autodiscovered, so that worker processes know them as the tests do."""

from tests import orders, signatures

__all__ = ["orders", "signatures"]
