"""What the example project needs besides pm_celery."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

needs_beat = pytest.mark.skipif(
    find_spec("django_celery_beat") is None,
    reason="the example project needs django-celery-beat, which is not installed: release 2.9 allows "
    "no Django 6.1",
)
