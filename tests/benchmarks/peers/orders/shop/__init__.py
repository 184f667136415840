"""The Django app whose processes pm_celery runs here."""
