"""In German: what is shown is translated, what is stored and what machines read is not.

Breaks that turned these red: the history written without ``override``; ``pm`` without ``no_translations``;
the reasons of a bulk action stored as the worker speaks.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils.timezone import now
from django.utils.translation import get_language, override

from pm_celery import bulks, clock
from pm_celery.exceptions import Refused
from pm_celery.models import Instance, Intervention, operations
from pm_celery.operations import bulk, dead_letters, instances
from pm_celery.operations.health import health
from pm_celery.templatetags.pm_moments import moment
from tests.catalogues import PACKAGE
from tests.test_admin import (
    REASON,
    act,
    make_instance,
    make_letter,
    make_transition,
    page_url,
    settle,
    told,
)

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]


@pytest.fixture(autouse=True)
def german(settings: Any) -> Iterator[None]:
    """Everybody speaks German: people, workers and the shell."""
    settings.LANGUAGE_CODE = "de"
    with override("de"):
        yield


def shown(client: Client, url: str) -> str:
    return " ".join(client.get(url).text.split())


# -- what is shown ----------------------------------------------------------------------------------


def test_an_action_counts_truly_in_german(admin_client: Client) -> None:
    letters = [make_letter(f"order-{number}") for number in range(3)]
    settle(letters[0])

    answers = told(act(admin_client, "discard_and_resume", *letters))

    assert answers == [
        ("success", "2 verworfen."),
        ("warning", "1 nicht verworfen: bereits erledigt."),
    ]


@pytest.mark.parametrize(
    ("number", "said"), [(1, "1 Dead Letter ist offen."), (2, "2 Dead Letters sind offen.")]
)
def test_one_is_one_and_more_are_more(number: int, said: str, settings: Any) -> None:
    settings.PM_CELERY = {"HEALTH": {"OPEN_LETTERS": 0}}
    from pm_celery.conf import get_settings
    from pm_celery.operations.health import _letter_problems

    (problem,) = _letter_problems(get_settings().health, number)

    assert problem.text == said


def test_a_refusal_is_in_the_language_of_whoever_reads_it() -> None:
    instance = make_instance(status="timed_out", ended_at=now())

    with pytest.raises(Refused) as refused:
        instances.cancel(instance.pk)

    assert str(refused.value) == "bereits abgelaufen"
    with override("en"):
        assert str(refused.value) == "already timed out"


def test_a_moment_is_written_to_the_second_as_the_language_writes_it() -> None:
    at = datetime(2030, 1, 31, 18, 5, 9, tzinfo=UTC)

    assert moment(at) == "31.01.2030 18:05:09"
    with override("en"):
        assert moment(at) == "2030-01-31 18:05:09"
    assert moment(None) == ""


def test_numbers_have_the_languages_points(admin_client: Client) -> None:
    instance = make_instance()
    make_transition(instance, duration=1.5)

    assert "1,500 s" in shown(admin_client, page_url(instance))


def test_the_page_of_an_instance_is_german(admin_client: Client) -> None:
    letter = make_letter()
    dead_letters.annotate(letter.pk, "Bank gefragt", by="ann", reason=REASON)
    instance = letter.instance
    make_transition(instance)

    page = shown(admin_client, page_url(instance))

    for words in (
        "Der zurückgelegte Weg",
        "ann: Notiz zum Dead Letter geschrieben",
        "Wartet auf",
        "Einen Eingriff: Der Dead Letter ist erneut zu versuchen oder zu verwerfen.",
        "4 Versuche",
        "in diesem Release nicht deklariert",
    ):
        assert words in page


# -- what is stored ---------------------------------------------------------------------------------


def test_what_an_operator_did_is_stored_in_english_and_shown_in_german(
    admin_client: Client,
) -> None:
    instance = make_instance()

    act(admin_client, "cancel", instance)

    assert LogEntry.objects.get().change_message == f"Cancelled. Reason: {REASON}"
    assert Intervention.objects.get().verb == "cancel"
    assert f"Abgebrochen. Grund: {REASON}" in shown(admin_client, page_url(instance, "history"))
    with override("en"):
        assert f"Cancelled. Reason: {REASON}" in shown(admin_client, page_url(instance, "history"))


def test_an_action_without_a_reason_is_stored_and_shown_alike(
    admin_client: Client, settings: Any
) -> None:
    settings.PM_CELERY = {"REASON_REQUIRED": False}
    instance = make_instance()

    act(admin_client, "cancel", instance, reason="")

    assert LogEntry.objects.get().change_message == "Cancelled."
    assert "Abgebrochen." in shown(admin_client, page_url(instance, "history"))


@pytest.mark.django_db(transaction=True)
def test_why_a_bulk_action_refused_is_stored_in_english_and_shown_in_german(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulks, "send", lambda pk: None)
    letters = [make_letter(f"order-{number}") for number in range(2)]
    Instance.objects.filter(pk=letters[0].instance_id).update(
        status="cancelled", ended_at=clock.now()
    )
    asked = bulk.start("retry", {}, by="ann", reason=REASON)

    bulk.work(asked.pk)

    asked.refresh_from_db()
    assert json.loads(asked.refused) == {"the instance is cancelled": 1}
    page = shown(admin_client, page_url(asked))
    assert "1 erneut versucht, 1 abgelehnt (die Instanz ist abgebrochen)." in page


def test_every_verb_that_operators_leave_behind_has_a_name() -> None:
    writers = {"intervene", "_intervene", "write_down", "_settle", "_end"}
    verbs = {f"bulk {verb}" for verb in bulk.VERBS}
    for path in PACKAGE.glob("operations/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in writers:
                texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                verbs |= set(texts[-1:])

    assert set(operations._VERBS) == verbs


# -- what machines and logs read --------------------------------------------------------------------


@pytest.mark.usefixtures("commands_with_handlers")
def test_the_health_for_monitors_is_english(admin_client: Client) -> None:
    answer = admin_client.get(reverse("pm_celery:health"))

    assert "Beat's tick has never run" in answer.json()["problems"][0]["text"]
    assert health().problems[0].text.startswith("Der Tick von Beat ist noch nie gelaufen")


@pytest.mark.usefixtures("commands_with_handlers")
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["words", "json"])
def test_pm_speaks_english(options: list[str]) -> None:
    out = StringIO()

    with pytest.raises(SystemExit):
        call_command("pm", "health", *options, stdout=out)

    assert "Beat's tick has never run" in out.getvalue()
    assert get_language() == "de"


def test_pm_refuses_in_english() -> None:
    instance = make_instance(status="timed_out", ended_at=now())

    with pytest.raises((CommandError, SystemExit)):
        call_command(
            "pm",
            "cancel",
            str(instance.pk),
            "--reason",
            REASON,
            "--yes",
            stdout=(out := StringIO()),
        )

    assert "already timed out" in out.getvalue()


def test_a_permission_is_stored_in_english() -> None:
    from django.contrib.auth.models import Permission

    assert Permission.objects.get(codename="retry_deadletter").name == "Can retry a dead letter"
