"""The Celery app, as in any Django project."""

from __future__ import annotations

import os

from celery import Celery

# Whatever it was: the driver belongs to the suite, which has settings of its own.
os.environ["DJANGO_SETTINGS_MODULE"] = "orders.shop.settings"

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
