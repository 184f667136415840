"""The admin: what may be seen there, by whom, and what may be done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import unescape
from typing import Any
from uuid import uuid4

import pytest
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path, reverse
from django.utils.html import escape
from django.utils.timezone import now

from pm_celery import ProcessManager, registry
from pm_celery.admin import DeadLetterAdmin, InstanceAdmin, actions, read_only
from pm_celery.keys import partition_of
from pm_celery.models import (
    Batch,
    BulkAction,
    DeadLetter,
    Heartbeat,
    InboxMessage,
    Instance,
    Intervention,
    OutboxCommand,
    Pause,
    Timer,
    Transition,
    Wakeup,
)
from pm_celery.operations import dead_letters

pytestmark = pytest.mark.django_db

PROCESS = "shop.OrderFulfillment"
REASON = "The customer called."
HTML = '<script>alert("pm_celery")</script>'
TABLES = (
    Batch,
    BulkAction,
    DeadLetter,
    Heartbeat,
    InboxMessage,
    Instance,
    OutboxCommand,
    Pause,
    Timer,
    Transition,
    Wakeup,
)

# A project's own admin site, with two tables of ours.
own_site = admin.AdminSite(name="operations")
own_site.register(Instance, InstanceAdmin)
own_site.register(DeadLetter, DeadLetterAdmin)
urlpatterns = [path("admin/", admin.site.urls), path("operations/", own_site.urls)]


@dataclass(frozen=True)
class Action:
    """An action with the permission that it needs, and what it asks besides a reason."""

    model: type[Model]
    name: str
    permission: str
    asks: tuple[tuple[str, str], ...] = ()


ACTIONS = (
    Action(DeadLetter, "retry", "retry_deadletter"),
    Action(DeadLetter, "discard_and_resume", "discard_deadletter"),
    Action(DeadLetter, "discard_for_good", "discard_deadletter"),
    Action(InboxMessage, "wake", "wake_inboxmessage"),
    Action(Instance, "cancel", "cancel_instance"),
    Action(Instance, "complete", "complete_instance"),
    Action(Instance, "retry", "retry_deadletter"),
    Action(Instance, "fire_timeout", "fire_timeout_instance"),
    Action(OutboxCommand, "dispatch", "dispatch_outboxcommand"),
    Action(OutboxCommand, "cancel", "cancel_outboxcommand"),
    Action(Pause, "resume", "pause_process"),
    Action(Timer, "fire", "fire_timer"),
    Action(Timer, "move", "move_timer", (("due_at", "2999-01-31T12:00"),)),
    Action(Timer, "cancel", "cancel_timer"),
)

every_table = pytest.mark.parametrize("model", TABLES, ids=lambda model: model.__name__)
every_action = pytest.mark.parametrize(
    "action", ACTIONS, ids=lambda action: f"{action.model.__name__}-{action.name}"
)


# -- rows and people -----------------------------------------------------------------------------


def make_instance(key: str = "order-1", *, status: str = "started", **values: Any) -> Instance:
    return Instance.objects.create(
        **{
            "process": PROCESS,
            "key": key,
            "partition": partition_of(PROCESS, key),
            "status": status,
            "state": json.dumps({"note": HTML}),
            "number": 1,
            "correlation_id": "conversation-1",
            "started_at": now(),
            "changed_at": now(),
            "timeout_at": now() + timedelta(days=7),
        }
        | values
    )


def make_transition(instance: Instance, number: int = 1, **values: Any) -> Transition:
    return Transition.objects.create(
        **{
            "instance": instance,
            "number": number,
            "kind": "event",
            "name": "shop.OrderPlaced",
            "message_id": f"event-{number}",
            "inbox_id": 17,
            "handler": "placed",
            "state": instance.state,
            "status": "started",
            "commands": json.dumps([[str(uuid4()), "shop.ReserveStock"]]),
            "correlation_id": "conversation-1",
            "attempt": 1,
            "recorded_at": now(),
        }
        | values
    )


def make_message(instance: Instance, **values: Any) -> InboxMessage:
    return InboxMessage.objects.create(
        **{
            "message_id": str(uuid4()),
            "kind": "event",
            "name": "shop.OrderPlaced",
            "payload": json.dumps({"note": HTML}),
            "process": instance.process,
            "key": instance.key,
            "partition": instance.partition,
            "status": "dead",
            "due_at": now(),
            "attempts": 4,
            "correlation_id": "conversation-1",
            "occurred_at": now(),
            "published_at": now(),
            "handled_at": now(),
        }
        | values
    )


def make_command(instance: Instance, **values: Any) -> OutboxCommand:
    return OutboxCommand.objects.create(
        **{
            "command_id": uuid4(),
            "kind": "command",
            "name": "shop.ReserveStock",
            "payload": json.dumps({"note": HTML}),
            "process": instance.process,
            "key": instance.key,
            "instance": instance,
            "status": "dispatched",
            "due_at": now(),
            "correlation_id": "conversation-1",
            "issued_at": now(),
        }
        | values
    )


def make_timer(instance: Instance, **values: Any) -> Timer:
    return Timer.objects.create(
        **{
            "instance": instance,
            "name": "payment_reminder",
            "due_at": now() + timedelta(days=1),
            "payload": json.dumps({"note": HTML}),
            "correlation_id": "conversation-1",
        }
        | values
    )


def make_letter(key: str = "order-1", **values: Any) -> DeadLetter:
    """An open letter, with the failed instance and the dead message that belong to it."""
    instance = make_instance(key, status="failed")
    message = make_message(instance)
    return DeadLetter.objects.create(
        **{
            "message": message,
            "instance": instance,
            "place": "handler",
            "process": instance.process,
            "key": instance.key,
            "name": message.name,
            "message_ref": message.message_id,
            "group_id": "0" * 32,
            "handler": "placed",
            "payload": message.payload,
            "exception": "ValueError",
            "error": HTML,
            "traceback": f"Traceback (most recent call last):\n  {HTML}",
            "attempts": 4,
            "died_at": now(),
        }
        | values
    )


def settle(letter: DeadLetter) -> None:
    """Somebody else was faster."""
    DeadLetter.objects.filter(pk=letter.pk).update(status="discarded", settled_at=now())


@pytest.fixture
def rows() -> dict[type[Model], Model]:
    """One row of each table, with HTML wherever text from outside is stored."""
    letter = make_letter(f"dead {HTML}")
    instance = make_instance(f"order {HTML}")
    return {
        Batch: Batch.objects.create(message_ids=json.dumps([HTML]), began_at=now()),
        BulkAction: BulkAction.objects.create(
            verb="retry", conditions="{}", total=1, last=0, by=f"ann {HTML}", asked_at=now()
        ),
        DeadLetter: letter,
        Heartbeat: Heartbeat.objects.create(name=f"tick {HTML}", beat_at=now()),
        InboxMessage: make_message(instance),
        Instance: instance,
        OutboxCommand: make_command(instance),
        Pause: Pause.objects.create(process=f"shop {HTML}", paused_at=now(), reason=HTML),
        Timer: make_timer(instance),
        Transition: make_transition(instance),
        Wakeup: Wakeup.objects.create(lane=1, outstanding_until=now()),
    }


@pytest.fixture
def superuser(admin_client: Client) -> Client:
    return admin_client


def staff(*permissions: str) -> Client:
    """A browser in which the member of the staff is logged in, who has these permissions from now on."""
    user, _ = User.objects.get_or_create(username="olga", is_staff=True)
    found = Permission.objects.filter(codename__in=permissions, content_type__app_label="pm_celery")
    assert len(found) == len(permissions)
    user.user_permissions.set(found)
    client = Client()
    client.force_login(user)
    return client


def viewing(*models: type[Model]) -> list[str]:
    return [f"view_{model._meta.model_name}" for model in models]


# -- pages and deeds -----------------------------------------------------------------------------


def list_url(model: type[Model]) -> str:
    return reverse(f"admin:pm_celery_{model._meta.model_name}_changelist")


def page_url(row: Model, view: str = "change") -> str:
    return reverse(f"admin:pm_celery_{row._meta.model_name}_{view}", args=[quote(row.pk)])


def act(client: Client, name: str, *rows: Model, query: str = "", **data: str) -> Any:
    """What a browser posts when an action is chosen for these rows and, where asked, confirmed."""
    return client.post(
        list_url(type(rows[0])) + query,
        {
            "action": name,
            ACTION_CHECKBOX_NAME: [row.pk for row in rows],
            "confirmed": "yes",
            "reason": REASON,
            **data,
        },
    )


def told(response: Any) -> list[tuple[str, str]]:
    return [(message.level_tag, str(message)) for message in get_messages(response.wsgi_request)]


def row_for(action: Action) -> Model:
    if action.model is DeadLetter:
        return make_letter()
    if action.model is Pause:
        return Pause.objects.create(process=PROCESS, paused_at=now())
    if action.model is Instance and action.name == "retry":
        return make_letter().instance
    instance = make_instance()
    if action.model is Instance:
        return instance
    if action.model is InboxMessage:
        backing_off = now() + timedelta(minutes=1)
        return make_message(instance, status="pending", due_at=backing_off, handled_at=None)
    if action.model is OutboxCommand:
        delayed = now() + timedelta(days=1)
        return make_command(instance, status="pending", due_at=delayed)
    return make_timer(instance)


def everything() -> list[dict[str, Any]]:
    """All that an action could have changed."""
    tables: tuple[type[Model], ...] = (*TABLES, Intervention, LogEntry)
    return [row for table in tables for row in table._default_manager.order_by("pk").values()]


# -- looking -------------------------------------------------------------------------------------


@every_table
def test_every_list_opens_and_escapes(
    model: type[Model], rows: dict[type[Model], Model], superuser: Client
) -> None:
    response = superuser.get(list_url(model))

    assert response.status_code == 200
    assert page_url(rows[model]) in response.text
    assert HTML not in response.text


@every_table
def test_every_row_opens_and_escapes(
    model: type[Model], rows: dict[type[Model], Model], superuser: Client
) -> None:
    response = superuser.get(page_url(rows[model]))

    assert response.status_code == 200
    assert HTML not in response.text
    assert '<div class="readonly">None</div>' not in response.text
    if model is not Wakeup:  # it holds numbers and moments only
        assert escape(HTML) in response.text or escape(json.dumps(HTML)) in response.text


def test_json_is_indented_and_other_text_is_left_alone(superuser: Client) -> None:
    letter = make_letter(payload='{"total": "12.50", "name": "Žofie"}', error='{"total": ')

    text = unescape(superuser.get(page_url(letter)).text)

    assert '<pre>{\n  "total": "12.50",\n  "name": "Žofie"\n}</pre>' in text
    assert '<pre>{"total": </pre>' in text


@pytest.mark.parametrize(
    "stored", ["[" * 100_000, "9" * 5_000], ids=["nested too deep", "a number too long"]
)
def test_json_that_cannot_be_read_is_shown_as_it_is(stored: str, superuser: Client) -> None:
    letter = make_letter(payload=stored)

    assert f"<pre>{stored}</pre>" in superuser.get(page_url(letter)).text


def test_a_letter_whose_message_was_pruned_still_opens(superuser: Client) -> None:
    letter = make_letter()
    Instance.objects.all().delete()
    InboxMessage.objects.all().delete()

    response = superuser.get(page_url(letter))

    assert f"{letter.message_id} (no longer there)" in response.text


def test_an_inbox_message_links_to_its_instance(superuser: Client) -> None:
    instance = make_instance()

    response = superuser.get(page_url(make_message(instance)))

    assert f'<a href="{page_url(instance)}">{PROCESS} order-1</a>' in response.text


def test_a_correlation_id_leads_to_its_conversation(superuser: Client) -> None:
    message = make_message(make_instance())
    url = f"{list_url(InboxMessage)}?correlation_id__exact=conversation-1"
    assert f'href="{url}"' in superuser.get(page_url(message)).text

    response = superuser.get(url)

    assert [row.pk for row in response.context["cl"].result_list] == [message.pk]


# -- the page of one instance --------------------------------------------------------------------


def test_the_list_of_an_instances_transitions_has_the_last_first(superuser: Client) -> None:
    instance = make_instance()
    for number in (3, 1, 2):
        make_transition(instance, number)
    make_transition(make_instance("order-2"), 9)
    url = f"{list_url(Transition)}?instance__id__exact={instance.pk}"
    assert f'href="{url}"' in superuser.get(page_url(instance)).text

    response = superuser.get(url)

    assert [row.number for row in response.context["cl"].result_list] == [3, 2, 1]


@pytest.mark.urls("tests.test_admin")
@pytest.mark.stock_theme
def test_an_own_admin_site_may_have_some_of_the_tables_only(superuser: Client) -> None:
    letter = make_letter()

    listed = superuser.get("/operations/pm_celery/deadletter/")
    shown = superuser.get(f"/operations/pm_celery/deadletter/{letter.pk}/change/")
    instance = superuser.get(f"/operations/pm_celery/instance/{letter.instance_id}/change/")

    link = f'href="/operations/pm_celery/instance/{letter.instance_id}/change/"'
    assert link in listed.text
    assert link in shown.text
    assert f"{letter.name} {letter.message_ref}" in shown.text  # no link: it leads nowhere
    assert "/pm_celery/inboxmessage/" not in shown.text
    assert instance.context["parts"] == {"letters", "interventions"}
    assert f'href="/operations/pm_celery/deadletter/{letter.pk}/change/"' in instance.text


# -- lists of millions ---------------------------------------------------------------------------


def test_rows_are_counted_up_to_a_limit(superuser: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_only, "MOST_COUNTED", 2)
    for number in range(3):
        make_instance(f"order-{number}")

    response = superuser.get(list_url(Instance))

    assert response.context["cl"].result_count == 2


# The list of processes tells why one is paused; it has a row for each process.
@pytest.mark.parametrize("model", sorted({*TABLES} - {Pause}, key=str), ids=lambda it: it.__name__)
def test_a_list_reads_neither_long_texts_nor_distinct_values(
    model: type[Model], rows: dict[type[Model], Model], superuser: Client
) -> None:
    with CaptureQueriesContext(connection) as queries:
        superuser.get(list_url(model))

    quoted = connection.ops.quote_name
    table = f"FROM {quoted(model._meta.db_table)}"
    statements = [query["sql"] for query in queries if table in query["sql"]]
    assert len(statements) == 2  # the rows and their count, however many rows there are
    for statement in statements:
        assert "DISTINCT" not in statement
        for column in ("payload", "state", "traceback", "message_ids", "options", "commands"):
            assert quoted(column) not in statement
    (count,) = [statement for statement in statements if "COUNT" in statement]
    assert f"LIMIT {read_only.MOST_COUNTED}" in count
    assert "ORDER BY" not in count


@pytest.fixture
def declared() -> Iterator[None]:
    with registry.isolated_registries():

        class OrderFulfillment(ProcessManager):
            class Meta:
                name = PROCESS

        class Refund(ProcessManager):
            class Meta:
                name = "shop.Refund"

        yield


@pytest.mark.usefixtures("declared")
@pytest.mark.parametrize(
    "model", [DeadLetter, InboxMessage, Instance, OutboxCommand, Timer, Transition]
)
def test_lists_are_filtered_by_declared_processes(
    model: type[Model], rows: dict[type[Model], Model], superuser: Client
) -> None:
    response = superuser.get(list_url(model))
    assert "?process=shop.Refund" in response.text

    own, other = (
        superuser.get(list_url(model), {"process": name}) for name in (PROCESS, "shop.Refund")
    )

    assert rows[model] in own.context["cl"].result_list
    assert list(other.context["cl"].result_list) == []


@pytest.mark.usefixtures("declared")
def test_search_finds_whole_keys_and_ids_only(superuser: Client) -> None:
    instance = make_instance("order 17")
    command = make_command(instance)
    letter = make_letter("order 18")

    def found(model: type[Model], term: str) -> list[int]:
        response = superuser.get(list_url(model), {"q": term})
        assert response.status_code == 200
        return [row.pk for row in response.context["cl"].result_list]

    assert found(Instance, " order 17 ") == [instance.pk]
    assert found(Instance, "order") == []
    assert found(Instance, "ORDER 17") == []
    assert found(Instance, "conversation-1") == [letter.instance_id, instance.pk]
    assert found(OutboxCommand, str(command.command_id)) == [command.pk]
    assert found(OutboxCommand, "no-uuid") == []
    assert found(OutboxCommand, "order 17") == [command.pk]
    assert found(InboxMessage, letter.message_ref) == [letter.message_id]
    assert found(DeadLetter, letter.message_ref) == [letter.pk]
    assert found(Timer, "order 17") == []


def test_search_finds_instances_of_processes_that_are_declared_no_more(superuser: Client) -> None:
    instance = make_instance("order-17")

    response = superuser.get(list_url(Instance), {"q": "order-17"})

    assert [row.pk for row in response.context["cl"].result_list] == [instance.pk]


# -- nothing is edited ---------------------------------------------------------------------------


@every_table
def test_not_even_a_superuser_adds_changes_or_deletes(
    model: type[Model], rows: dict[type[Model], Model], superuser: Client
) -> None:
    before = everything()
    row = rows[model]
    add = reverse(f"admin:pm_celery_{model._meta.model_name}_add")
    values = {"name": "changed", "key": "changed", "status": "completed", "post": "yes"}

    answers = [
        superuser.get(add),
        superuser.post(add, values),
        superuser.post(page_url(row), values),
        superuser.post(page_url(row), {**values, "_saveasnew": "1"}),
        superuser.get(page_url(row, "delete")),
        superuser.post(page_url(row, "delete"), values),
    ]

    assert [answer.status_code for answer in answers] == [403] * 6
    act(superuser, "delete_selected", row, post="yes")
    assert everything() == before


@every_table
def test_who_may_see_nothing_sees_nothing(
    model: type[Model], rows: dict[type[Model], Model]
) -> None:
    client = staff()

    assert client.get(list_url(model)).status_code == 403
    assert client.get(page_url(rows[model])).status_code == 403


# -- acting --------------------------------------------------------------------------------------


@every_action
def test_anonymous_is_sent_to_the_login(action: Action, client: Client) -> None:
    row = row_for(action)
    before = everything()

    response = act(client, action.name, row)

    assert response.status_code == 302
    assert response.url.startswith("/admin/login/")
    assert everything() == before


@every_action
def test_who_may_only_look_is_not_offered_an_action(action: Action) -> None:
    row = row_for(action)
    client = staff(*viewing(action.model))

    listed, shown = client.get(list_url(action.model)), client.get(page_url(row))

    assert listed.status_code == shown.status_code == 200
    assert f'value="{action.name}"' not in listed.text + shown.text


@every_action
def test_who_may_only_look_cannot_forge_an_action(action: Action) -> None:
    row = row_for(action)
    client = staff(*viewing(action.model))
    before = everything()

    act(client, action.name, row)
    act(client, action.name, row, index="0")
    act(client, action.name, row, select_across="1")
    client.post(page_url(row), {"action": action.name, ACTION_CHECKBOX_NAME: row.pk})

    assert everything() == before


@every_action
def test_another_permission_does_not_allow_an_action(action: Action) -> None:
    row = row_for(action)
    others = {other.permission for other in ACTIONS} - {action.permission}
    client = staff(*viewing(action.model), *others)
    before = everything()

    act(client, action.name, row)

    assert f'value="{action.name}"' not in client.get(list_url(action.model)).text
    assert everything() == before


@every_action
def test_an_action_without_the_right_to_look_is_refused(action: Action) -> None:
    row = row_for(action)
    client = staff(action.permission)
    before = everything()

    assert act(client, action.name, row).status_code == 403
    assert everything() == before


@every_action
def test_an_operator_acts_and_the_admin_remembers(action: Action) -> None:
    row = row_for(action)
    client = staff(*viewing(action.model), action.permission)
    offer = f'value="{action.name}"'
    assert offer in client.get(list_url(action.model)).text
    assert offer in client.get(page_url(row)).text

    response = act(client, action.name, row, **dict(action.asks))

    assert response.status_code == 302
    ((level, text),) = told(response)
    assert (level, text[:2]) == ("success", "1 ")
    entry = LogEntry.objects.get()
    assert (entry.user.username, entry.object_id) == ("olga", str(row.pk))
    assert entry.change_message.endswith(f"Reason: {REASON}")
    done = Intervention.objects.get()
    assert (done.by, done.reason) == ("olga", REASON)
    assert done.instance_id or action.model is Pause, "not in the instance's timeline"


@every_action
def test_a_get_never_acts(action: Action, superuser: Client) -> None:
    row = row_for(action)
    before = everything()

    superuser.get(
        list_url(action.model),
        {"action": action.name, ACTION_CHECKBOX_NAME: row.pk, "confirmed": "yes", "index": "0"},
    )

    assert everything() == before


@every_action
def test_a_post_without_the_token_never_acts(action: Action, admin_user: User) -> None:
    row = row_for(action)
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    before = everything()

    assert act(client, action.name, row).status_code == 403
    assert everything() == before


@every_action
def test_the_buttons_on_the_page_of_a_row_act_as_well(action: Action, superuser: Client) -> None:
    row = row_for(action)

    page = superuser.get(page_url(row)).text

    button = (
        f'<button type="submit" class="button" form="verbs" name="action" value="{action.name}">'
    )
    assert button in page
    form = page.rpartition("<form")[2]
    for part in (
        f'action="{list_url(action.model)}" id="verbs"',
        'name="csrfmiddlewaretoken"',
        f'<input type="hidden" name="{ACTION_CHECKBOX_NAME}" value="{row.pk}">',
    ):
        assert part in form


@every_action
def test_every_action_asks_for_a_reason_first(action: Action, superuser: Client) -> None:
    row = row_for(action)
    before = everything()

    response = act(superuser, action.name, row, confirmed="", index="0")

    assert response.status_code == 200
    assert everything() == before
    form = response.text.rpartition("<form")[2]
    for part in (
        'name="csrfmiddlewaretoken"',
        f'<input type="hidden" name="action" value="{action.name}">',
        f'<input type="hidden" name="{ACTION_CHECKBOX_NAME}" value="{row.pk}">',
        '<input type="hidden" name="confirmed" value="yes">',
        '<textarea name="reason"',
        *(f'name="{name}"' for name, _value in action.asks),
    ):
        assert part in form
    assert f'href="{page_url(row)}"' in response.text


@every_action
def test_nothing_is_done_without_a_reason(action: Action, superuser: Client) -> None:
    row = row_for(action)
    before = everything()

    response = act(superuser, action.name, row, **dict(action.asks), reason=" \n ")

    assert response.status_code == 200
    assert "This field is required." in response.text
    assert everything() == before


def test_a_project_may_do_without_reasons(superuser: Client, settings: Any) -> None:
    settings.PM_CELERY = {"REASON_REQUIRED": False}
    instance = make_instance()

    act(superuser, "cancel", instance, reason="")

    assert Intervention.objects.get().reason == ""
    assert LogEntry.objects.get().change_message == "Cancelled."


def test_a_question_reads_no_payload_and_no_row_by_itself(superuser: Client) -> None:
    timers = [make_timer(make_instance(f"order-{number}")) for number in range(3)]

    with CaptureQueriesContext(connection) as queries:
        response = act(superuser, "cancel", *timers, confirmed="")

    assert f"{PROCESS} order-2, payment_reminder" in response.text
    # Without the quotes, which are not the same on every database.
    statements = [query["sql"].translate({ord('"'): " ", ord("`"): " "}) for query in queries]
    assert len([sql for sql in statements if "FROM  pm_celery_timer " in sql]) == 2  # one counts
    assert not [sql for sql in statements if "FROM  pm_celery_instance " in sql]
    assert not [sql for sql in statements if " payload " in sql or " state " in sql]


def test_the_question_escapes_what_it_lists(superuser: Client) -> None:
    letter = make_letter(HTML)

    response = act(superuser, "discard_for_good", letter, confirmed="")

    assert escape(HTML) in response.text
    assert HTML not in response.text


def test_the_way_back_from_a_question_keeps_the_lists_filter(superuser: Client) -> None:
    letter = make_letter()

    response = act(superuser, "discard_for_good", letter, confirmed="", query="?status__exact=open")

    assert f'href="{list_url(DeadLetter)}?status__exact=open"' in response.text


# -- what the actions do -------------------------------------------------------------------------


def test_a_retried_letter_has_its_message_pending_again(superuser: Client) -> None:
    letter = make_letter()

    act(superuser, "retry", letter)

    letter.refresh_from_db()
    assert (letter.status, letter.settled_by) == ("retried", "admin")
    assert InboxMessage.objects.get().status == "pending"


@pytest.mark.parametrize(
    ("name", "goes_on"), [("discard_and_resume", True), ("discard_for_good", False)]
)
def test_a_discarded_letters_instance_resumes_or_stays_failed(
    name: str, goes_on: bool, superuser: Client
) -> None:
    letter = make_letter()

    act(superuser, name, letter)

    letter.refresh_from_db()
    assert (letter.status, letter.settled_by) == ("discarded", "admin")
    instance = Instance.objects.get()
    assert instance.status == ("started" if goes_on else "failed")
    assert (instance.ended_at is None) is goes_on


def test_a_cancelled_instance_has_ended(superuser: Client) -> None:
    instance = make_instance()

    act(superuser, "cancel", instance)

    instance.refresh_from_db()
    assert instance.status == "cancelled"
    assert isinstance(instance.ended_at, datetime)


def test_a_timeout_that_is_fired_enters_the_inbox(superuser: Client) -> None:
    instance = make_instance()

    act(superuser, "fire_timeout", instance)

    message = InboxMessage.objects.get()
    assert (message.kind, message.process, message.key) == ("timeout", PROCESS, "order-1")


def test_a_cancelled_timer_is_gone(superuser: Client) -> None:
    timer = make_timer(make_instance())

    act(superuser, "cancel", timer)

    assert not Timer.objects.exists()


# -- true counts ---------------------------------------------------------------------------------


def test_of_three_letters_one_was_settled_already(superuser: Client) -> None:
    letters = [make_letter(f"order-{number}") for number in range(3)]
    settle(letters[1])

    response = act(superuser, "retry", *letters)

    assert told(response) == [
        ("success", "2 retried."),
        ("warning", "1 not retried: already settled."),
    ]
    assert DeadLetter.objects.filter(status="retried").count() == 2
    assert {entry.object_id for entry in LogEntry.objects.all()} == {
        str(letters[0].pk),
        str(letters[2].pk),
    }


def test_a_letter_that_left_the_lists_filter_is_refused_aloud(superuser: Client) -> None:
    letter = make_letter()
    settle(letter)

    response = act(superuser, "retry", letter, query="?status__exact=open")

    assert told(response) == [("warning", "1 not retried: already settled.")]


def test_a_row_that_is_gone_is_refused_aloud(superuser: Client) -> None:
    kept, gone = (make_letter(f"order-{number}") for number in range(2))
    DeadLetter.objects.filter(pk=gone.pk).delete()

    response = act(superuser, "retry", kept, gone)

    assert told(response) == [
        ("success", "1 retried."),
        ("warning", "1 not retried: no longer there."),
    ]


def test_a_reason_that_many_share_is_told_once(superuser: Client) -> None:
    timers = [make_timer(make_instance(f"order-{number}")) for number in range(2)]
    Timer.objects.all().delete()

    response = act(superuser, "cancel", *timers)

    assert told(response) == [("warning", "2 not cancelled: no longer there.")]
    assert not LogEntry.objects.exists()


def test_of_many_reasons_the_most_frequent_are_told(
    superuser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "REASONS_TOLD", 1)
    monkeypatch.setattr(actions, "LONGEST_REASON", 12)
    statuses = ("completed", "cancelled", "cancelled")
    ended = [
        make_instance(f"order-{number}", status=status, ended_at=now(), timeout_at=None)
        for number, status in enumerate(statuses)
    ]

    response = act(superuser, "cancel", *ended)

    assert told(response) == [("warning", "3 not cancelled: already can…; and other reasons.")]


def test_what_was_done_before_something_broke_is_told(
    superuser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_letter("order-1"), make_letter("order-2")
    retry = dead_letters.retry

    def breaks_at_the_second(pk: int, **why: str) -> None:
        if pk == second.pk:
            raise ConnectionError
        retry(pk, **why)

    monkeypatch.setattr(dead_letters, "retry", breaks_at_the_second)
    superuser.raise_request_exception = False

    response = act(superuser, "retry", first, second)

    assert response.status_code == 500
    assert told(response) == [("success", "1 retried.")]
    assert LogEntry.objects.get().object_id == str(first.pk)


def test_all_rows_of_a_filter_may_be_selected(superuser: Client) -> None:
    letters = [make_letter(f"order-{number}") for number in range(3)]
    settle(letters[1])

    query = "?status__exact=open"
    asked = act(superuser, "retry", letters[0], query=query, select_across="1", reason="")
    started = act(superuser, "retry", letters[0], query=query, select_across="1", reason="mended")

    assert "2 open dead letters match." in asked.text
    assert told(started) == [("success", "A worker begins with 2 dead letters.")]
    found = BulkAction.objects.get()
    assert (found.verb, found.total, found.by, found.reason) == ("retry", 2, "admin", "mended")


def test_too_many_at_once_are_refused_as_a_whole(
    superuser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "AT_ONCE", 2)
    letters = [make_letter(f"order-{number}") for number in range(3)]
    before = everything()

    ticked = act(superuser, "retry", *letters)
    all_of_them = act(superuser, "cancel", letters[0].instance, select_across="1")

    for response in (ticked, all_of_them):
        assert told(response)[-1] == ("error", "Nothing was done: select at most 2 at once.")
    assert everything() == before


# -- another database ----------------------------------------------------------------------------


@pytest.mark.django_db(databases=["default", "other"])
def test_the_admin_looks_and_acts_in_the_packages_database(
    superuser: Client, settings: Any
) -> None:
    settings.PM_CELERY = {"DATABASE": "other"}
    values = {"name": "shop.OrderPlaced", "message_ref": "event-1", "payload": "{}", "attempts": 1}
    letter = DeadLetter.objects.using("other").create(
        **values,
        group_id="0" * 32,
        place="publish",
        exception="ValueError",
        error="",
        died_at=now(),
    )

    listed = superuser.get(list_url(DeadLetter))
    shown = superuser.get(page_url(letter))
    act(superuser, "discard_for_good", letter)

    assert page_url(letter) in listed.text
    assert shown.status_code == 200
    letter.refresh_from_db(using="other")
    assert letter.status == "discarded"
    assert LogEntry.objects.get().object_id == str(letter.pk)
