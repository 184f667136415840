"""The suite's settings, which have the admin, with the benchmark's processes instead of the tests' own."""

from __future__ import annotations

from tests.settings import *  # noqa: F403 -- settings are read by their names
from tests.settings import INSTALLED_APPS as _APPS

INSTALLED_APPS = [*(app for app in _APPS if app != "tests.testapp"), "tests.benchmarks.shop"]
