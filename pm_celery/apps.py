"""Django's door."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.signals import setting_changed
from django.utils.module_loading import autodiscover_modules
from django.utils.translation import gettext_lazy as _


class PmCeleryConfig(AppConfig):
    name = "pm_celery"
    verbose_name = _("Process managers")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from pm_celery import beat, checks, commands, conf, filesystem, log, tasks  # noqa: F401
        from pm_celery.exceptions import SettingsError

        setting_changed.connect(conf.forget_settings, dispatch_uid="pm_celery")
        log.connect()
        beat.connect()
        filesystem.register()
        try:
            modules = conf.get_settings().autodiscover
        except SettingsError:
            # A check says it better than a traceback from here.
            modules = conf.Settings().autodiscover
        autodiscover_modules(*modules)
        commands.register_tasks()
