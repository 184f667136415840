"""What all tables have in common: they are looked at, not edited, and may hold millions of rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import quote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.core.paginator import Paginator
from django.db import DataError
from django.db.models import Field, FloatField, ForeignKey, Model, Q, QuerySet, TextField
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.translation import gettext_lazy as _

from pm_celery import registry
from pm_celery.admin import history, newest
from pm_celery.conf import get_settings
from pm_celery.definitions import ProcessDefinition
from pm_celery.models import Instance
from pm_celery.redaction import payload_shown, state_shown

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
    _Paginator = Paginator[Any]
else:
    _ModelAdmin = admin.ModelAdmin
    _Paginator = Paginator

__all__ = [
    "InstanceProcessFilter",
    "ListenerFilter",
    "ProcessFilter",
    "ReadOnlyAdmin",
    "process_of",
]

# What a list's address may hold besides filters.
_NO_FILTERS = frozenset({"p", "o", "q", "all", "e", "_popup", "_to_field", "_facets"})

# Counting stops here: COUNT(*) over millions of rows takes longer than all else on a page together.
MOST_COUNTED = 10_000


def pretty(text: str) -> str | None:
    """Text as it was stored, JSON indented; ``None`` where there is none."""
    if not text:
        return None
    return format_html("<pre>{}</pre>", _indented(text) or text)


def _indented(text: str) -> str | None:
    """JSON with indents; ``None`` for other text, and where indents would be most of what is shown."""
    try:
        pieces = json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(json.loads(text))
        shown = []
        left = 10_000 + 4 * len(text)
        for piece in pieces:
            # Nested deeply, a mebibyte of JSON would be a page of hundreds.
            left -= len(piece)
            if left < 0:
                return None
            shown.append(piece)
    except (ValueError, RecursionError):
        return None
    return "".join(shown)


class CappedPaginator(_Paginator):
    @cached_property
    def count(self) -> int:
        rows = cast("QuerySet[Any]", self.object_list)
        return rows.order_by()[:MOST_COUNTED].count()


class Table(ChangeList):
    """A list that leaves payloads, states and tracebacks in the database, and looks at the newest rows only
    where a filter is one that no index answers."""

    def get_queryset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        queryset = super().get_queryset(request, *args, **kwargs)
        its_admin = cast("ReadOnlyAdmin", self.model_admin)
        filters = {name: value for name, value in request.GET.items() if name not in _NO_FILTERS}
        alone = len(filters) == 1
        is_narrow = any(
            newest.is_narrow(self.model, name, str(value), alone=alone)
            for name, value in filters.items()
        )
        # A search has narrowed it already.
        if filters and not self.query and not is_narrow:
            conversation = request.GET.get("correlation_id__exact", "")
            if rows := newest.among(self.model, "correlation_id", conversation):
                queryset = queryset.filter(rows)
                newest.tell(its_admin, request, by_instance=bool(conversation))
        return its_admin.slim(queryset)

    def get_results(self, request: HttpRequest) -> None:
        try:
            super().get_results(request)
        except (OverflowError, ValueError, DataError) as error:
            # A number or a text in the address that the database's driver refuses.
            raise IncorrectLookupParameters(error) from error


def process_of(row: Any) -> str:
    """The process of a row's instance, which may be gone."""
    try:
        return str(row.instance.process)
    except ObjectDoesNotExist:
        return ""


def _unsearchable(model: Any) -> list[str]:
    """Long texts, and durations."""
    return [f.name for f in model._meta.fields if isinstance(f, TextField | FloatField)]


def _long_texts(model: Any) -> list[str]:
    return [field.name for field in model._meta.fields if isinstance(field, TextField)]


class ListenerFilter(admin.SimpleListFilter):
    """By process, from what is declared: asking the table for its values would read all of it."""

    title = _("process")
    parameter_name = "process"
    path = "process"
    listeners: type | tuple[type, ...] = object

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = {item.name for item in registry.listeners if isinstance(item, self.listeners)}
        return [(name, name) for name in sorted(names)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        name = self.value()
        return queryset if name is None else queryset.filter(**{self.path: name})


class ProcessFilter(ListenerFilter):
    """For tables that know no policies."""

    listeners = ProcessDefinition


class InstanceProcessFilter(ProcessFilter):
    path = "instance__process"


class ReadOnlyAdmin(_ModelAdmin):
    """A model admin with which nobody, superusers included, adds, changes or deletes a row."""

    ordering = ("-id",)
    sortable_by = ()
    list_select_related: ClassVar[tuple[str, ...]] = ()
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = CappedPaginator
    list_max_show_all = 0
    change_form_template = "admin/pm_celery/detail.html"
    # Shown on the page of one row, besides its columns.
    also_shown: tuple[str, ...] = ()

    class Media:
        css: ClassVar[dict[str, tuple[str, ...]]] = {"all": ("pm_celery/pages.css",)}

    def __init__(self, model: type[Any], admin_site: admin.AdminSite) -> None:
        super().__init__(model, admin_site)
        columns = [field for field in model._meta.fields if not field.primary_key]
        # Short ones first: nobody should have to scroll past a payload to see a status.
        columns.sort(key=lambda field: isinstance(field, TextField))
        self._fields = (*self.also_shown, *map(self._shown, columns))

    # -- nothing is edited ----------------------------------------------------------------------

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    # -- lists ----------------------------------------------------------------------------------

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Whether a list's address may filter by it: not by what no index knows.

        Of payloads and states it would tell what is hidden, a character at a time; an infinite duration
        MariaDB's driver takes for a programming error.
        """
        if lookup.partition("__")[0] in _unsearchable(self.model):
            return False
        return super().lookup_allowed(lookup, value, request)

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Django's, which would end with an error page for what can be nobody's primary key."""
        try:
            for selected in request.POST.getlist(ACTION_CHECKBOX_NAME):
                self.opts.pk.clean(selected, None)
        except ValidationError:
            text = _("Nothing was done: of what was selected, something can be no row.")
            self.message_user(request, text, messages.ERROR)
            return None
        return super().response_action(request, queryset, *args, **kwargs)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).using(get_settings().database)

    def slim(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """What many rows are read by: with the rows that the list joins, without any long text."""
        names = _long_texts(self.model)
        for path in self.list_select_related:
            queryset = queryset.select_related(path)
            related = self.model._meta.get_field(path).related_model
            names += [f"{path}__{name}" for name in _long_texts(related)]
        return queryset.defer(*names)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return Table

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """The rows that match the first search field that any row matches.

        One after the other: an OR of them reads the whole table as soon as one has no index.
        """
        term = search_term.strip()
        if not term:
            return queryset, False
        if "\x00" in term:  # PostgreSQL refuses it; autocompletion, unlike a list, hands it on
            return queryset.none(), False
        for condition in self._searches(request, term):
            try:
                if (found := queryset.filter(condition)).exists():
                    return found, False
            except (ValueError, ValidationError):  # no UUID, say: then no row has it
                continue
        return queryset.none(), False

    def _searches(self, request: HttpRequest, term: str) -> Iterator[Q]:
        for lookup in map(str, self.get_search_fields(request)):
            path = lookup.removesuffix("key__exact")
            if path != lookup and (path or self.opts.model_name == "instance"):
                # The index that finds an instance by its key begins with the process.
                names = [item.name for item in registry.listeners]
                yield Q(**{f"{path}process__in": names, lookup: term})
            condition = Q(**{lookup: term})
            if newest.is_narrow(self.model, lookup):
                yield condition
            elif rows := newest.among(self.model, lookup.removesuffix("__exact"), term):
                # By the key of an instance it was looked for above: a join with all of them takes long.
                if not path or path == lookup:
                    yield condition & rows
                newest.tell(self, request, by_instance=True)
            else:
                yield condition

    # -- one row --------------------------------------------------------------------------------

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        return None if "\x00" in object_id else super().get_object(request, object_id, from_field)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self._fields

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self._fields

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        context = {
            "verbs": self.get_action_choices(request, []),
            "verbs_url": self.url("changelist"),
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
            **(extra_context or {}),
        }
        return super().changeform_view(request, object_id, form_url, context)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        if not self.is_under_way(context["original"]):
            context["verbs"] = []
        return super().render_change_form(request, context, *args, **kwargs)

    def history_view(
        self,
        request: HttpRequest,
        object_id: str,
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        response = super().history_view(request, object_id, extra_context)
        if isinstance(response, TemplateResponse):
            for entry in (response.context_data or {}).get("action_list", ()):
                entry.change_message = history.shown(entry.change_message)
        return response

    def is_under_way(self, row: Any) -> bool:
        """Whether any verb could still do something to a row: else its page offers none."""
        return True

    def _shown(self, field: Field[Any, Any]) -> str | Callable[[Any], object]:
        """How the page of one row shows a column."""
        show: Callable[[Any], object]
        if isinstance(field, TextField):

            def show(row: Any) -> object:
                return pretty(self.text_of(row, field.name)) or self.get_empty_value_display()

        elif isinstance(field, ForeignKey):

            def show(row: Any) -> object:
                return self.related(row, field.name)

        elif field.name == "correlation_id":

            def show(row: Any) -> object:
                return self.link(
                    self.url("changelist", correlation_id__exact=row.correlation_id),
                    row.correlation_id,
                )

        else:
            return field.name
        show.__name__ = field.name
        show.short_description = field.verbose_name  # type: ignore[attr-defined]
        return show

    def text_of(self, row: Any, column: str) -> str:
        """A long text as people may see it."""
        text: str = getattr(row, column)
        if column == "payload":
            name, process = row.name, getattr(row, "process", "")
            kind, version = getattr(row, "kind", ""), getattr(row, "version", None)
            return payload_shown(name, process, text, kind=kind, version=version)
        return state_shown(row.process, text, row.state_version) if column == "state" else text

    def describe(self, row: Any) -> str:
        """What tells a row from others where somebody is asked whether to act on it."""
        return str(row)

    # -- links ----------------------------------------------------------------------------------

    def url(
        self, view: str, *args: int | str, model: type[Model] | None = None, **query: int | str
    ) -> str:
        """The address of a page of this admin site; empty where a project left its table out."""
        opts = (model or self.model)._meta
        try:
            address = reverse(
                f"admin:{opts.app_label}_{opts.model_name}_{view}",
                args=[quote(arg) for arg in args],
                current_app=self.admin_site.name,
            )
        except NoReverseMatch:
            return ""
        return f"{address}?{urlencode(query)}" if query else address

    def link(self, url: str, text: object) -> object:
        return format_html('<a href="{}">{}</a>', url, text) if url and text else text

    def related(self, row: Any, name: str) -> object:
        """A link to a foreign key's row, which may be gone: no constraint holds it."""
        field = row._meta.get_field(name)
        pk = getattr(row, field.attname)
        if pk is None:
            return self.get_empty_value_display()
        try:
            return self.link(
                self.url("change", pk, model=field.related_model), str(getattr(row, name))
            )
        except ObjectDoesNotExist:
            return _("%(id)s (no longer there)") % {"id": pk}

    @admin.display(description=_("key"))
    def key_of_instance(self, row: Any) -> object:
        """For rows that know their instance's key: a link that needs no further query."""
        if row.instance_id is None:
            return row.key
        return self.link(self.url("change", row.instance_id, model=Instance), row.key)
