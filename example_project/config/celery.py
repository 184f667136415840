"""The Celery app, as in any Django project: pm_celery asks for nothing here.

celery -A config worker        handles events and runs commands
celery -A config beat          ticks: timers, timeouts, retries, and what got lost on the way
"""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("example")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
