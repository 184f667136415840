"""``PM_CELERY``: one dict, read when first needed, checked with the nearest remedy."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pm_celery.conf import PmCelerySettings, Settings, get_settings, read_settings
from pm_celery.exceptions import SettingsError
from pm_celery.keeping import Retention

ROOT = Path(__file__).parent.parent


def test_without_a_setting_everything_has_its_default() -> None:
    assert read_settings({}) == Settings()
    assert Settings().database == "default"
    assert Settings().max_payload_bytes == 1024 * 1024


def test_every_setting_has_a_type_a_default_and_a_description() -> None:
    keys = set(PmCelerySettings.__annotations__)

    assert keys == {field.name.upper() for field in fields(Settings)}
    # Without the indentation, which Python 3.13 takes away by itself.
    described = inspect.cleandoc(PmCelerySettings.__doc__ or "")
    assert all(f"\n{key}\n" in described for key in keys)


def test_every_setting_can_be_set() -> None:
    found = read_settings(
        {
            "DATABASE": "other",
            "QUEUES": 4,
            "BATCH_SIZE": 10,
            "BATCH_SECONDS": 2,
            "ADVANCE_SECONDS": 0.5,
            "TICK_SECONDS": None,
            "WAKE_LEASE": "3s",
            "COMMAND_LEASE": timedelta(minutes=1),
            "COMMANDS_PER_MESSAGE": 50,
            "UNKNOWN_MESSAGE_WAIT": "1m",
            "MAX_PAYLOAD_BYTES": 5,
            "MAX_CHAIN_DEPTH": 7,
            "RETENTION": "30d",
            "REASON_REQUIRED": False,
            "REDACT": ["iban", "*.password"],
            "EXTERNAL_EVENTS": ["payments.*"],
            "AUTODISCOVER": ["processes", "sagas"],
        }
    )

    assert found == Settings(
        database="other",
        queues=4,
        batch_size=10,
        batch_seconds=2.0,
        advance_seconds=0.5,
        tick_seconds=None,
        wake_lease=timedelta(seconds=3),
        command_lease=timedelta(minutes=1),
        commands_per_message=50,
        unknown_message_wait=timedelta(minutes=1),
        max_payload_bytes=5,
        max_chain_depth=7,
        retention=Retention.of(timedelta(days=30)),
        reason_required=False,
        redact=("iban", "*.password"),
        external_events=("payments.*",),
        autodiscover=("processes", "sagas"),
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("BATCHSIZE", "BATCH_SIZE"),
        ("batch_size", "BATCH_SIZE"),
        ("MAX_PAYLOAD", "MAX_PAYLOAD_BYTES"),
        ("QUEUE", "QUEUES"),
        ("DATABASES", "DATABASE"),
        ("TICK", "TICK_SECONDS"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_nearest_known_one(
    written: str, meant: str
) -> None:
    with pytest.raises(SettingsError, match=f"no setting '{written}'.*Did you mean '{meant}'?"):
        read_settings({written: 1})


@pytest.mark.parametrize("written", ["XQZ", 7, ""])
def test_a_key_that_is_near_to_none_is_an_error_that_names_all(written: Any) -> None:
    with pytest.raises(SettingsError, match=r"Known: DATABASE, QUEUES"):
        read_settings({written: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATABASE", "nowhere"),
        ("DATABASE", None),
        ("DATABASE", ["default"]),
        ("QUEUES", 0),
        ("QUEUES", "2"),
        ("QUEUES", True),
        ("QUEUES", 1.5),
        ("BATCH_SIZE", -1),
        ("REDACT", "iban"),
        ("REDACT", ["iban", 7]),
        ("REDACT", ["bank. iban"]),
        ("REDACT", ["bank..iban"]),
        ("REDACT", [""]),
        ("BATCH_SECONDS", 0),
        ("BATCH_SECONDS", "1s"),
        ("ADVANCE_SECONDS", True),
        ("ADVANCE_SECONDS", float("nan")),
        ("TICK_SECONDS", 0),
        ("WAKE_LEASE", 5),
        ("WAKE_LEASE", "soon"),
        ("COMMAND_LEASE", "0s"),
        ("COMMAND_LEASE", None),
        ("COMMANDS_PER_MESSAGE", 0),
        ("UNKNOWN_MESSAGE_WAIT", timedelta(0)),
        ("MAX_PAYLOAD_BYTES", 0),
        ("MAX_CHAIN_DEPTH", None),
        ("RETENTION", "-1d"),
        ("RETENTION", 90),
        ("EXTERNAL_EVENTS", "payments.Settled"),
        ("EXTERNAL_EVENTS", ["payments.", 7]),
        ("EXTERNAL_EVENTS", ["payments."]),
        ("AUTODISCOVER", "processes"),
        ("AUTODISCOVER", [1]),
    ],
)
def test_an_unusable_value_is_an_error_that_names_key_and_value(key: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=rf"PM_CELERY\['{key}'\] = "):
        read_settings({key: value})


@pytest.mark.parametrize("given", [None, "BATCH_SIZE", [("BATCH_SIZE", 1)], 7])
def test_what_is_no_dict_is_an_error(given: Any) -> None:
    with pytest.raises(SettingsError, match="PM_CELERY must be a dict"):
        read_settings(given)


def test_settings_that_a_test_overrides_are_believed_at_once(settings: Any) -> None:
    before = get_settings().batch_size

    settings.PM_CELERY = {"BATCH_SIZE": 3}
    during = get_settings().batch_size
    settings.PM_CELERY = {}

    assert (before, during, get_settings().batch_size) == (500, 3, 500)


def test_settings_are_read_once_while_nobody_changes_them() -> None:
    assert get_settings() is get_settings()


def test_the_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        get_settings().batch_size = 1  # type: ignore[misc]


def _python(code: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_importing_the_package_reads_no_settings_and_loads_no_models() -> None:
    code = """
import sys
import pm_celery
from pm_celery import ProcessManager, Retry, Wait, command, event, handle, on_timer, policy
from django.conf import settings
assert not settings.configured
print([name for name in sys.modules if name.startswith("pm_celery.models")])
"""

    assert _python(code) == "[]"


def test_messages_and_processes_may_be_declared_before_django_is_set_up() -> None:
    code = """
from pm_celery import ProcessManager, event, handle

@event
class Opened:
    door: str

class Door(ProcessManager):
    @handle(Opened, start=True, end=True, correlate="door")
    def opened(self, event): ...

from django.conf import settings
assert not settings.configured
settings.configure(
    INSTALLED_APPS=["pm_celery"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
import django
django.setup()
print(Door.definition.name, Opened.__pm_message__.name, len(Door.definition.problems))
"""

    assert _python(code) == "__main__.Door __main__.Opened 0"


def test_settings_that_cannot_be_read_do_not_keep_django_from_starting() -> None:
    """The system check says it better than a traceback from ``django.setup()``."""
    code = """
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["pm_celery"],
    PM_CELERY={"BATCHSIZE": 1},
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
django.setup()
from django.core import checks
print([m.id for m in checks.run_checks(tags=["pm_celery"]) if m.level >= checks.ERROR])
"""

    assert _python(code) == "['pm_celery.E030']"
