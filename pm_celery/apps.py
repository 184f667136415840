"""Django's door."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from django.apps import AppConfig, apps
from django.core.signals import setting_changed
from django.utils.module_loading import autodiscover_modules
from django.utils.translation import gettext_lazy as _

from pm_celery import extras


def discover(names: Sequence[str]) -> None:
    """Import these modules from every installed app; of packages, also the modules in them."""
    autodiscover_modules(*names)
    for app in apps.get_app_configs():
        for name in names:
            package = sys.modules.get(f"{app.name}.{name}")
            for found in pkgutil.walk_packages(
                getattr(package, "__path__", ()), f"{app.name}.{name}."
            ):
                import_module(found.name)


class PmCeleryConfig(AppConfig):
    name = "pm_celery"
    verbose_name = _("Process managers")
    default_auto_field = "django.db.models.BigAutoField"

    def __init__(self, app_name: str, app_module: ModuleType | None) -> None:
        # The last moment before Django loads the driver, for models.
        extras.require_driver()
        super().__init__(app_name, app_module)

    def ready(self) -> None:
        from pm_celery import (  # noqa: F401
            beat,
            checks,
            commands,
            conf,
            filesystem,
            listener,
            log,
            tasks,
        )
        from pm_celery.exceptions import SettingsError

        setting_changed.connect(conf.forget_settings, dispatch_uid="pm_celery")
        log.connect()
        checks.connect()
        beat.connect()
        listener.connect()
        filesystem.register()
        try:
            modules = conf.get_settings().autodiscover
        except SettingsError:
            # A check says it better than a traceback from here.
            modules = conf.Settings().autodiscover
        discover(modules)
        commands.register_tasks()
