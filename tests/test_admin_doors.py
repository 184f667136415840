"""Every door of the admin that belongs to the package, found from the URLs and not from a list: so that a
page, a filter or an action that is added later is tried as well.

Breaks that turned these red: ``has_change_permission`` or ``has_delete_permission`` removed from
``ReadOnlyAdmin``; an action without ``permissions``; U+0000 handed on by ``get_search_results`` (PostgreSQL).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import quote
from django.contrib.auth.models import AnonymousUser, User
from django.db.models import Model
from django.test import Client
from django.urls import get_resolver, reverse

from pm_celery.models import DeadLetter, Instance, Timer
from tests.doors import patterns
from tests.test_admin import (
    TABLES,
    everything,
    list_url,
    rows,
    staff,
    viewing,
)

pytestmark = pytest.mark.django_db

__all__ = ["rows"]  # a fixture

# What a browser, or somebody who plays one, may put where a word, a number or a moment is expected.
HOSTILE = (
    "",
    "'; DROP TABLE pm_celery_instance; --",
    '"><script>alert(1)</script>',
    "\x00",
    "a\x00b",
    "\ud800",
    "\u202e\u2066\x1b[31m\r\nSet-Cookie: a=b",
    "%00%ff{{ 7|add:7 }}{% debug %}",
    "9" * 30,
    "9" * 5000,
    "-1",
    "1e309",
    "NaN",
    "None",
    "../" * 50,
    "é" * 300,
    "[" * 3000,
)


@dataclass(frozen=True)
class Door:
    """A view of the admin that shows or does something with one of the package's tables."""

    name: str
    model: type[Model] | None
    parameters: tuple[str, ...]

    def url(self, rows: dict[type[Model], Model]) -> str:
        if self.model is None:
            return reverse(self.name, kwargs={"app_label": "pm_celery"})
        its_pk = quote(rows[self.model].pk)
        return reverse(self.name, kwargs=dict.fromkeys(self.parameters, its_pk))

    @property
    def view(self) -> str:
        return self.name.rpartition("_")[2] if self.model else "app_list"


def doors() -> list[Door]:
    found = [Door("admin:app_list", None, ("app_label",))]
    for namespace, pattern in patterns(get_resolver()):
        name = str(pattern.name)
        if not name.startswith("pm_celery_"):
            continue
        model = next(m for m in TABLES if name.startswith(f"pm_celery_{m._meta.model_name}_"))
        parameters = tuple(pattern.pattern.regex.groupindex) or tuple(pattern.pattern.converters)
        found.append(Door(f"{namespace}{name}", model, parameters))
    return found


DOORS = doors()
every_list = pytest.mark.parametrize("model", TABLES, ids=lambda model: model.__name__)

FORM = {
    "name": "changed",
    "key": "changed",
    "status": "completed",
    "state": "{}",
    "post": "yes",
    "_save": "Save",
    "action": "delete_selected",
    "confirmed": "yes",
    "index": "0",
    "select_across": "1",
}


def test_the_doors_are_all_there() -> None:
    views = {(door.model, door.view) for door in DOORS}

    for model in TABLES:
        for view in ("changelist", "add", "history", "delete", "change"):
            assert (model, view) in views
    assert {admin.site._registry[model].opts.app_label for model in TABLES} == {"pm_celery"}
    registered = {m for m in admin.site._registry if m._meta.app_label == "pm_celery"}
    assert registered == set(TABLES), "tests.test_admin.TABLES lacks a table"


def test_every_action_needs_a_permission_that_can_be_given(admin_user: User) -> None:
    request: Any = type("Request", (), {"user": admin_user, "GET": {}})()
    seen = []
    for model in TABLES:
        its_admin = admin.site._registry[model]
        for name, (function, _name, _text) in its_admin.get_actions(request).items():
            needed = getattr(function, "allowed_permissions", ())
            assert needed, f"{model.__name__}: the action {name} needs no permission"
            nobody: Any = type("Request", (), {"user": AnonymousUser()})()
            for permission in needed:
                assert not getattr(its_admin, f"has_{permission}_permission")(nobody)
            seen.append((model, name))

    assert {(DeadLetter, "retry"), (Instance, "cancel"), (Timer, "cancel")} <= set(seen)


# -- who comes through -------------------------------------------------------------------------------


VIEWABLE = [model for model in TABLES if "view" in model._meta.default_permissions]


def pk(door: Door, rows: dict[type[Model], Model]) -> str:
    return str(rows[door.model].pk) if door.model else "1"


@pytest.fixture
def nothing_changes(rows: dict[type[Model], Model], admin_user: User) -> Iterator[None]:
    before = everything()
    yield
    assert everything() == before


def test_an_anonymous_visitor_is_sent_to_the_login(
    rows: dict[type[Model], Model], nothing_changes: None, client: Client
) -> None:
    for door in DOORS:
        url = door.url(rows)
        for ask_it in (client.get, client.head, client.delete, client.post):
            answer = ask_it(url, FORM) if ask_it == client.post else ask_it(url)
            assert answer.status_code == 302, door
            assert answer.headers["Location"].startswith("/admin/login/"), door


def test_somebody_without_a_permission_is_refused(
    rows: dict[type[Model], Model], nothing_changes: None
) -> None:
    client = staff()

    for door in DOORS:
        url = door.url(rows)
        answers = [client.get(url), client.post(url, FORM), client.get(url, {"_popup": "1"})]

        # The page of the app lists no table then: Django says that it is not there.
        refused = 404 if door.model is None else 403
        assert {answer.status_code for answer in answers} == {refused}, door


def test_who_may_look_sees_and_changes_nothing(
    rows: dict[type[Model], Model], nothing_changes: None
) -> None:
    client = staff(*viewing(*VIEWABLE))

    for door in DOORS:
        url = door.url(rows)
        seen = client.get(url)
        tried = [
            client.post(url, {**FORM, ACTION_CHECKBOX_NAME: pk(door, rows), **extra})
            for extra in ({}, {"_popup": "1"}, {"_saveasnew": "1"}, {"_to_field": "id"})
        ]

        may_look = door.model is None or door.model in VIEWABLE
        looks = door.view in ("changelist", "change", "history", "groups", "app_list")
        assert seen.status_code == (200 if may_look and looks else 403), door
        assert all(answer.status_code in (200, 302, 400, 403) for answer in tried), door


def test_not_even_a_superuser_changes_a_row_by_its_form(
    rows: dict[type[Model], Model], nothing_changes: None, admin_client: Client
) -> None:
    """Without ``has_change_permission`` this fails."""
    for door in DOORS:
        for extra in ({}, {"_popup": "1"}, {"_saveasnew": "1"}, {"_continue": "1"}):
            values = {**FORM, ACTION_CHECKBOX_NAME: pk(door, rows), **extra}
            answer = admin_client.post(door.url(rows), values)
            expected = (403,) if door.view in ("add", "change", "delete") else (200, 302)
            assert answer.status_code in expected, door


def test_a_get_changes_nothing_whatever_it_asks(
    rows: dict[type[Model], Model], nothing_changes: None, admin_client: Client
) -> None:
    for door in DOORS:
        for action in ("retry", "cancel"):
            query = {**FORM, ACTION_CHECKBOX_NAME: pk(door, rows), "action": action}
            admin_client.get(door.url(rows), query)


def test_a_post_without_the_token_is_refused(
    rows: dict[type[Model], Model], nothing_changes: None, admin_user: User
) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)

    for door in DOORS:
        assert client.post(door.url(rows), FORM).status_code == 403, door


# -- autocomplete: a door that Django opens to every searchable table ----------------------------------


def autocomplete(client: Client, model: type[Model], field: str, term: str) -> Any:
    return client.get(
        reverse("admin:autocomplete"),
        {
            "app_label": "pm_celery",
            "model_name": model._meta.model_name,
            "field_name": field,
            "term": term,
        },
    )


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (DeadLetter, "instance"),
        (DeadLetter, "message"),
        (DeadLetter, "command"),
        (Timer, "instance"),
    ],
)
def test_autocomplete_tells_only_those_who_may_look(
    model: type[Model], field: str, rows: dict[type[Model], Model], client: Client
) -> None:
    assert autocomplete(client, model, field, "").status_code == 302
    assert autocomplete(staff(), model, field, "").status_code == 403


def test_autocomplete_shows_keys_and_no_payload(rows: dict[type[Model], Model]) -> None:
    client = staff(*viewing(Instance))

    answer = autocomplete(client, Timer, "instance", rows[Instance].key)  # type: ignore[attr-defined]

    assert [row.keys() for row in answer.json()["results"]] == [{"id", "text"}]
    assert answer.json()["results"][0]["id"] == str(rows[Instance].pk)


def test_autocomplete_survives_any_term(
    rows: dict[type[Model], Model], admin_client: Client
) -> None:
    for term in HOSTILE:
        answer = autocomplete(admin_client, Timer, "instance", escaped(term))
        assert answer.status_code == 200, term[:40]


# -- hostile parameters -------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """Lone surrogates as a browser can send them: as bytes that are no UTF-8."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def encodable(answer: Any) -> Any:
    answer.content.decode()
    return answer


def ask(client: Client, url: str, query: dict[str, str]) -> Any:
    raw = urlencode({k: v.encode("utf-8", "surrogatepass") for k, v in query.items()})
    return encodable(client.get(f"{url}?{raw}"))


def parameters_of(model: type[Model]) -> set[str]:
    """Every parameter that the list of a table reads: its own, its filters', and lookups one may try."""
    its_admin = admin.site._registry[model]
    found = {"q", "p", "o", "all", "e", "_popup", "_to_field", "_changelist_filters", "_facets"}
    for entry in its_admin.list_filter:
        name = entry[0] if isinstance(entry, tuple) else entry
        if isinstance(name, str):
            found |= {f"{name}__exact", f"{name}__isempty", name}
        else:
            found.add(str(name.parameter_name))
    for field in {type(field): field for field in model._meta.fields}.values():
        found |= {f"{field.name}__exact", f"{field.name}__in", f"{field.name}__gt"}
    return found | {"instance__id__exact", "instance__state__contains", "nonsense", "id__nonsense"}


@every_list
def test_a_list_survives_any_value_of_any_parameter(
    model: type[Model], rows: dict[type[Model], Model], admin_client: Client
) -> None:
    before = everything()
    names = sorted(parameters_of(model))
    for number, name in enumerate(names):
        # All values for each would be thousands of pages.
        for value in ("\x00", "9" * 30, HOSTILE[number % len(HOSTILE)]):
            answer = ask(admin_client, list_url(model), {name: value})
            assert answer.status_code in (200, 302, 400), (name, value[:40])
            assert "<script>alert(1)" not in answer.text
    assert everything() == before


@every_list
def test_a_search_finds_nothing_for_nonsense_and_never_breaks(
    model: type[Model], rows: dict[type[Model], Model], admin_client: Client
) -> None:
    for value in HOSTILE:
        answer = ask(admin_client, list_url(model), {"q": value})
        assert answer.status_code == 200, value[:40]


def test_a_page_of_a_row_that_cannot_be_is_not_there(admin_client: Client) -> None:
    for door in DOORS:
        values = HOSTILE[1:] if door.view == "change" else HOSTILE[1:10:2]
        for value in values if door.parameters and door.model else ():
            url = reverse(door.name, kwargs=dict.fromkeys(door.parameters, quote(escaped(value))))
            assert admin_client.get(url).status_code in (302, 403, 404), (door, value[:40])


@pytest.mark.parametrize("model", [DeadLetter, Instance, Timer], ids=lambda model: model.__name__)
def test_an_action_on_rows_that_cannot_be_is_refused_aloud(
    model: type[Model], rows: dict[type[Model], Model], admin_client: Client
) -> None:
    before = everything()
    action = "retry" if model is DeadLetter else "cancel"
    for value in HOSTILE:
        text = escaped(value)
        answer = admin_client.post(
            list_url(model),
            {"action": action, ACTION_CHECKBOX_NAME: [text], "confirmed": "yes"},
            follow=True,
        )
        assert answer.status_code == 200
    for value in HOSTILE:
        text = escaped(value)
        answer = admin_client.post(
            list_url(model),
            {"action": text, "index": text, ACTION_CHECKBOX_NAME: ["1"]},
            follow=True,
        )
        assert answer.status_code == 200
    assert everything() == before
