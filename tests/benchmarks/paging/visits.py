"""Which pages there are, found from the URL conf, the lists' filters and searches, and the links on pages;
and what it takes to answer each."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import unescape
from statistics import median
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from django.contrib import admin
from django.contrib.admin.utils import quote
from django.core.exceptions import ObjectDoesNotExist
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.urls import Resolver404, get_resolver, resolve, reverse

from pm_celery import registry
from pm_celery.definitions import ProcessDefinition
from tests.doors import patterns

__all__ = ["MOST_DATABASE_MS", "MOST_MS", "Visit", "Visitor"]

#: The limits, in milliseconds: of the database, and of the page in all.
MOST_DATABASE_MS = 100.0
MOST_MS = 300.0

_TIMES = 5
# A page that takes longer is not asked for so often.
_PATIENCE_MS = 2000.0
# One that takes longer than that is given up, and counts as over.
_GIVEN_UP_MS = 20_000
_HREF = re.compile(r'href="(/[^"#]*)"')
# Pages that show no row: forms that nobody may fill in.
_FORMS = ("add", "delete")
_NOTHING_HAS_IT = "00000000-0000-4000-8000-000000000000"


@dataclass
class Visit:
    """What came of asking for a page several times, in milliseconds.

    slowest: the statement that took longest, with its parameters.
    """

    title: str
    url: str
    status: int = 0
    queries: int = 0
    database_ms: list[float] = field(default_factory=list)
    in_all_ms: list[float] = field(default_factory=list)
    slowest: tuple[float, str, Any] = (0.0, "", None)

    @property
    def is_over(self) -> bool:
        return (
            self.status >= 500
            or median(self.database_ms) > MOST_DATABASE_MS
            or median(self.in_all_ms) > MOST_MS
        )


class Visitor:
    """A superuser who looks at everything, each kind of page once.

    times: how often a page is asked for once it is warm; 0: once, as it comes.
    """

    def __init__(self, client: Client, times: int = _TIMES) -> None:
        self.client = client
        self.times = times
        #: Pages whose address holds something that nobody here can fill in.
        self.unknown: list[str] = []
        self._seen: set[object] = set()
        self._found: list[tuple[str, str]] = []

    def visits(self, only: str = "") -> Iterator[Visit]:
        """Every page, one after the other; only those whose title holds a text, if one is given."""
        self._found += self._addresses()
        while self._found:
            title, url = self._found.pop(0)
            if url in self._seen or only not in title:
                continue
            self._seen |= {url, _kind(url)}
            yield self._visit(title, url)

    # -- what there is --------------------------------------------------------------------------

    def _addresses(self) -> Iterator[tuple[str, str]]:
        yield "index of the admin", reverse("admin:index")
        yield "index of the app", reverse("admin:app_list", kwargs={"app_label": "pm_celery"})
        for namespace, pattern in patterns(get_resolver()):
            name = str(pattern.name)
            if not name.startswith("pm_celery_"):
                continue
            parameters = tuple(pattern.pattern.regex.groupindex) or tuple(
                pattern.pattern.converters
            )
            model = _model_of(name)
            title = name.removeprefix("pm_celery_").replace("_", " ")
            if name.endswith(_FORMS):
                continue
            if model is not None and name == f"pm_celery_{model._meta.model_name}_changelist":
                url = reverse(f"{namespace}{name}")
                yield title, url
                self._found += self._searches(model, title, url)
                continue
            rows = list(_rows(model)) if model and parameters else [None]
            for row in rows:
                values = {key: _value(key, row) for key in parameters}
                if None in values.values():
                    self.unknown.append(f"{namespace}{name} ({', '.join(parameters)})")
                    continue
                shown = f" {getattr(row, 'pk', '')}".rstrip()
                yield title + shown, reverse(f"{namespace}{name}", kwargs=values)

    def _searches(self, model: type[Model], title: str, url: str) -> Iterator[tuple[str, str]]:
        its_admin = admin.site._registry[model]
        row = _row_in_the_middle(model)
        for lookup in its_admin.search_fields:
            term = _read(row, str(lookup).removesuffix("__exact")) if row else None
            if term:
                yield f"{title}, search by {lookup}", f"{url}?{urlencode({'q': term})}"
        if its_admin.search_fields:
            yield f"{title}, search for nothing", f"{url}?{urlencode({'q': _NOTHING_HAS_IT})}"
            for term in ("state.moves:77", "state.nobody:77"):
                yield f"{title}, search {term}", f"{url}?{urlencode({'q': term})}"

    def _on_the_page(self, visit: Visit, answer: Any) -> None:
        """The choices of a list's filters, its last page, and links to kinds of pages that were not seen."""
        table = (getattr(answer, "context", None) or {}).get("cl")
        path, _, query = visit.url.partition("?")
        if table is not None and not query:
            for spec in table.filter_specs:
                for choice in spec.choices(table):
                    shown = f"{visit.title}, {spec.title}: {choice['display']}"
                    self._found.append((shown, path + choice["query_string"]))
            if table.paginator.num_pages > 1:
                last = urlencode({"p": table.paginator.num_pages})
                self._found.append((f"{visit.title}, last page", f"{path}?{last}"))
        for link in _HREF.findall(answer.text):
            url = unescape(link)
            kind = _kind(url)
            if kind is not None and kind not in self._seen:
                self._seen.add(kind)
                self._found.append((f"link to {kind[0]} {' '.join(kind[1])}", url))

    # -- asking ---------------------------------------------------------------------------------

    def _visit(self, title: str, url: str) -> Visit:
        visit = Visit(title, url)
        # The first one fills caches: it counts only if it is so slow that it is the only one.
        answer = self._ask(visit)
        if self.times and visit.in_all_ms[0] < _PATIENCE_MS:
            visit = Visit(title, url)
            for _ in range(self.times):
                answer = self._ask(visit)
        if answer.status_code == 200 and "html" in answer.headers.get("Content-Type", ""):
            self._on_the_page(visit, answer)
        return visit

    def _ask(self, visit: Visit) -> Any:
        spent: list[float] = []

        def listen(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            began = time.perf_counter()
            try:
                return execute(sql, params, many, context)
            finally:
                spent.append(1000 * (time.perf_counter() - began))
                visit.slowest = max(
                    visit.slowest, (spent[-1], sql, params), key=lambda told: told[0]
                )

        began = time.perf_counter()
        with connection.execute_wrapper(listen):
            answer = self.client.get(visit.url)
        visit.in_all_ms.append(1000 * (time.perf_counter() - began))
        visit.database_ms.append(sum(spent))
        visit.queries, visit.status = len(spent), answer.status_code
        return answer


def give_up_slow_statements() -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout TO {_GIVEN_UP_MS}")


def explained(visit: Visit) -> str:
    """The plan of a page's slowest statement."""
    _, sql, parameters = visit.slowest
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {sql}", parameters)
        plan = "\n".join(f"    {line}" for (line,) in cursor.fetchall())
    return (
        f"{visit.title}: {visit.slowest[0]:.0f} ms\n  {sql[:1500]}\n  {parameters!r:.300}\n{plan}"
    )


# -- values for addresses ---------------------------------------------------------------------------


def _kind(url: str) -> tuple[str, tuple[str, ...]] | None:
    """What tells a kind of page of ours from others: its view, and which parameters it has."""
    parts = urlsplit(url)
    try:
        found = resolve(parts.path)
    except Resolver404:
        return None
    name = str(found.url_name)
    if not name.startswith("pm_celery_") or name.endswith(_FORMS):
        return None
    return name, tuple(sorted(set(parse_qs(parts.query, keep_blank_values=True)) - {"p", "o"}))


def _model_of(name: str) -> type[Model] | None:
    ours = [model for model in admin.site._registry if model._meta.app_label == "pm_celery"]
    return next((m for m in ours if name.startswith(f"pm_celery_{m._meta.model_name}_")), None)


def _rows(model: type[Model]) -> Iterator[Model]:
    """The first row, one in the middle, and the last; of those with a status, the last one of each."""
    rows = model._default_manager.order_by("pk")
    found = [rows.first(), _row_in_the_middle(model), rows.last()]
    if "status" in {f.name for f in model._meta.fields} and model._meta.model_name == "instance":
        found.append(rows.filter(status="failed").last())
    yield from {row.pk: row for row in found if row is not None}.values()


def _row_in_the_middle(model: type[Model]) -> Model | None:
    rows = model._default_manager.order_by("pk")
    last = rows.last()
    if last is None or not isinstance(last.pk, int):
        return last
    return rows.filter(pk__gte=last.pk // 2).first()


_VALUES: dict[str, Callable[[], Any]] = {
    "app_label": lambda: "pm_celery",
    "process": lambda: next(
        found.name for found in registry.listeners if isinstance(found, ProcessDefinition)
    ),
    "number": lambda: 3,
}


def _value(parameter: str, row: Model | None) -> Any:
    """What to put in a place of an address; None where nobody here knows."""
    if parameter in _VALUES:
        return _VALUES[parameter]()
    if row is None:
        return None
    if hasattr(row, parameter) and parameter not in ("pk", "id"):
        return getattr(row, parameter)
    return quote(row.pk)


def _read(row: Model, path: str) -> Any:
    value: Any = row
    try:
        for name in path.split("__"):
            value = getattr(value, name)
    except (ObjectDoesNotExist, AttributeError):
        return None
    return value
