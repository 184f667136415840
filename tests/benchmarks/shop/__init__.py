"""One order process, written for pm_celery, by hand, and as bare tasks; the same effects each time."""
