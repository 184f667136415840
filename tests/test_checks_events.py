"""System checks of events that lead nowhere. Tests are named after the ids."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps

from pm_celery import registry
from pm_celery.checks import check_events
from pm_celery.checks import events as event_checks
from pm_celery.checks.mentions import TooMuch, _sources, unused

pytestmark = pytest.mark.any_database

EVENTS = """
from pm_celery import event

@event
class Sold:
    number: str

@event
class Sent:
    number: str
"""
PROCESSES = """
from pm_celery import ProcessManager, handle
from bazaar.events import Sent, Sold

class Sale(ProcessManager):
    class Meta:
        correlate = "number"
        completed_by = [Sent]

    @handle(Sold, start=True)
    def sold(self, event: Sold) -> None: ...
"""
VIEWS = """
from pm_celery import publish
from bazaar.events import Sent, Sold

def sell(number):
    publish(Sold(number=number))

def send(number):
    publish(Sent(number=number))
"""

# It publishes, and neither of the two.
OTHERS = "from pm_celery import publish"


@pytest.fixture
def bazaar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """A project's app from its files; what the checks say of it, as ``W008 Sold``."""
    registry.listeners.replace([])
    registry.messages.replace([])

    def check(**files: str) -> list[str]:
        folder = tmp_path / "bazaar"
        folder.mkdir()
        (folder / "__init__.py").touch()
        for name, text in {
            "events": EVENTS,
            "processes": PROCESSES,
            "views": VIEWS,
            **files,
        }.items():
            (folder / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        app = SimpleNamespace(name="bazaar", label="bazaar", path=str(folder))
        monkeypatch.setattr(apps, "get_containing_app_config", lambda module: app)
        monkeypatch.setattr(event_checks, "_folders", lambda events: [folder])
        __import__("bazaar.processes")
        return [
            f"{message.id}".removeprefix("pm_celery.")
            + f" {message.msg.partition(':')[0].rpartition('.')[2]}"
            for message in check_events()
        ]

    yield check
    for name in [name for name in sys.modules if name.partition(".")[0] == "bazaar"]:
        del sys.modules[name]


def test_events_that_are_published_and_handled_are_not_mentioned(
    bazaar: Callable[..., list[str]],
) -> None:
    assert bazaar() == []


def test_w008_nobody_handles_an_event(bazaar: Callable[..., list[str]]) -> None:
    found = bazaar(processes=PROCESSES.replace("completed_by = [Sent]", ""))

    assert found == ["W008 Sent"]
    (message,) = check_events()
    assert "bazaar.events.Sent: publishing it does nothing" in message.msg
    assert "processes.py" in str(message.hint)
    assert '"EXTERNAL_EVENTS": ["bazaar.Sent"]' in str(message.hint)


def test_w008_a_policy_is_enough(bazaar: Callable[..., list[str]]) -> None:
    thanks = "from pm_celery import policy\n@policy(Sent)\ndef thank(event, reaction): ...\n"

    assert bazaar(processes=PROCESSES.replace("completed_by = [Sent]", "") + thanks) == []


def test_w008_is_silent_for_a_class_from_which_events_are_derived(
    bazaar: Callable[..., list[str]],
) -> None:
    base = EVENTS + "\n@event\nclass Base:\n    number: str\n\n@event\nclass More(Base): ...\n"

    assert bazaar(events=base) == ["W008 More"]


def test_w008_is_silent_for_events_that_another_package_brings(
    bazaar: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = bazaar(processes=PROCESSES.replace("completed_by = [Sent]", ""))
    app: Any = apps.get_containing_app_config("bazaar.events")
    app.path = "/srv/venv/lib/python3.13/site-packages/bazaar"

    assert found == ["W008 Sent"]
    assert check_events() == []


def test_w009_nobody_publishes_an_event(bazaar: Callable[..., list[str]]) -> None:
    assert bazaar(views=VIEWS.partition("def send")[0]) == ["W009 Sent"]
    (message,) = check_events()
    assert "no source of this project makes one" in message.msg


def test_w009_is_silent_in_a_project_in_which_only_handlers_publish(
    bazaar: Callable[..., list[str]],
) -> None:
    """A first try, whose events come from a shell; or a service that gets them from others."""
    answers = "from pm_celery import publish\ndef answer(): publish(Sent(number='1'))\n"

    assert bazaar(processes=PROCESSES + answers, views="") == []


@pytest.mark.parametrize("command", ["migrate", "makemigrations", "runserver", "test"])
def test_w009_is_silent_where_somebody_is_about_to_do_something_else(
    bazaar: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("sys.argv", ["manage.py", command])
    assert bazaar(views=OTHERS) == []

    monkeypatch.setattr("sys.argv", ["manage.py", "check"])
    assert len(check_events()) == 2


def test_w008_and_w009_are_silent_for_what_other_services_publish_or_hear(
    bazaar: Callable[..., list[str]], settings: Any
) -> None:
    settings.PM_CELERY = {"EXTERNAL_EVENTS": ["bazaar.S*d"]}

    found = bazaar(views=OTHERS, processes=PROCESSES.replace("completed_by = [Sent]", ""))

    # Neither Sold, which nobody publishes; and Sent is none of those.
    assert found == ["W008 Sent"]


def test_w008_and_w009_are_silent_while_a_process_is_broken(
    bazaar: Callable[..., list[str]],
) -> None:
    assert bazaar(processes=PROCESSES.replace(", start=True", ""), views=OTHERS) == []


USES = [
    "publish(Sold(number='1'))",
    "publish_many(Sold(number=n) for n in numbers)",
    "kinds = {'sold': Sold}",
    "from shop.events import Sold as Happened",
    "events.Sold(number='1')",
    "def make(kind=Sold): ...",
    "def make(*, kind=Sold): ...",
    "async def make(): return Sold(number='1')",
    "send_task('pm_celery.publish', ['shop.Sold', {}])",
    "getattr(events, 'Sold')",
    "@receiver(post_save, sender=Sold)\ndef f(): ...",
    "class SoldTwice(Sold): ...",
    "class SoldOut(metaclass=Meta, event=Sold): ...",
    "x: object = Sold(number='1')",
    "if isinstance(event, Sold): ...",
    "this is no Python, but it names Sold",
]
NO_USES = [
    "from shop.events import Sold",
    "from shop.events import Sold as Sold",
    "@event\nclass Sold: ...",
    "@handle(Sold, start=True)\ndef f(self, event: Sold) -> None: ...",
    "@pm_celery.policy(Sold)\nasync def f(event: Sold): ...",
    "@upcast(Sold, from_version=1)\ndef f(data): ...",
    "class P:\n    class Meta:\n        started_by = [Sold]\n        completed_by: list = [Sold]",
    "__all__ = ['Sold']",
    '"""Tells what a Sold is."""',
    "def f(event: Sold) -> Sold: ...",
    "x: Sold",
    "Soldier()",
    "# Sold",
]


@pytest.mark.parametrize("text", USES)
def test_w009_what_may_make_one_counts_as_use(text: str, tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(text)

    assert unused({"Sold"}, [tmp_path]) == set()


@pytest.mark.parametrize("text", NO_USES)
def test_w009_to_declare_to_handle_or_to_talk_of_one_is_no_use(text: str, tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(text)

    assert unused({"Sold"}, [tmp_path]) == {"Sold"}


def test_w009_reads_each_folder_once_and_none_that_is_not_the_project_s(tmp_path: Path) -> None:
    for folder in (".git", "node_modules", "venv", "app/migrations", "app/deep"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file.py").write_text("Sold()" if folder != "app/deep" else "Sent()")
    (tmp_path / "venv" / "pyvenv.cfg").touch()

    folders = [tmp_path / "app", tmp_path]
    assert unused({"Sold", "Sent"}, folders) == {"Sold"}
    assert [path for path, _ in _sources(folders)] == [tmp_path / "app" / "deep" / "file.py"]


def test_w009_is_silent_where_there_is_too_much_to_read_or_what_cannot_be(
    bazaar: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pm_celery.checks.mentions._MOST_FILES", 2)
    assert bazaar(views=OTHERS) == []
    with pytest.raises(TooMuch):
        unused({"Sold"}, [tmp_path])

    monkeypatch.setattr("pm_celery.checks.mentions._MOST_FILES", 100)
    assert len(check_events()) == 2
    (tmp_path / "bazaar" / "gone.py").symlink_to(tmp_path / "nowhere.py")
    assert check_events() == []


def test_w009_looks_in_the_apps_of_the_project_and_under_its_base(
    settings: Any, tmp_path: Path
) -> None:
    settings.BASE_DIR = tmp_path

    folders = event_checks._folders([])

    assert folders[-1] == tmp_path
    assert Path(__file__).parent in folders  # of tests.testapp
    assert not any("site-packages" in folder.parts for folder in folders)
    assert not any(folder.name == "pm_celery" for folder in folders)
