"""For a project's urls.py: ``path("pm/", include("pm_celery.urls"))``."""

from django.urls import path

from pm_celery.views import health_view, metrics_view

app_name = "pm_celery"

urlpatterns = [
    path("health", health_view, name="health"),
    path("metrics", metrics_view, name="metrics"),
]
