"""What no index answers is asked of the newest rows only, so that no page gets slower with its table.

Rows of instances are found all the same, however old: through the instance, which is found by its key or its
correlation id, and from there by its id.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.core.exceptions import FieldDoesNotExist
from django.db.models import Index, Model, Q, UniqueConstraint
from django.http import HttpRequest
from django.utils.formats import number_format
from django.utils.translation import gettext as _

from pm_celery import registry
from pm_celery.conf import get_settings
from pm_celery.models import InboxMessage, Instance, Transition

if TYPE_CHECKING:
    from pm_celery.admin.read_only import ReadOnlyAdmin

__all__ = ["NEWEST", "among", "is_narrow", "newest", "tell"]

#: How many rows are looked at one by one, at most.
NEWEST = 10_000
# Of so many instances, messages and steps that an index has found, the rows are looked for.
_MOST = 1000
# Columns of which one value may stand in most rows. An index that begins with one finds the newest of these,
# but not those among them that meet another condition.
_COMMON = frozenset({"process", "status", "kind"})


def is_narrow(model: type[Model], lookup: str, value: str = "", *, alone: bool = True) -> bool:
    """Whether an index of the table finds the rows that a lookup in an address means.

    alone: it is the only one.
    """
    name = lookup.partition("__")[0]
    try:
        field: Any = model._meta.get_field(name)
    except FieldDoesNotExist:
        return False
    if (name in _COMMON and not alone) or lookup.removesuffix("__exact").removesuffix(
        "__id"
    ) != name:
        return False
    if field.primary_key or field.unique or field.db_index:
        return True
    full: list[Any] = [*model._meta.indexes, *model._meta.constraints]
    for index in full:
        if isinstance(index, Index | UniqueConstraint) and index.fields:
            first = index.fields[0] == name and not index.condition
            if first or (index.condition and index.condition.children == [(name, value)]):
                return True
    return False


def newest(model: type[Model]) -> Q | None:
    """The newest rows; None where these are all."""
    rows = model._default_manager.using(get_settings().database)
    last = rows.order_by("-pk").values_list("pk", flat=True).first()
    return Q(pk__gt=last - NEWEST) if isinstance(last, int) and last > NEWEST else None


def among(model: type[Model], field: str, value: str) -> Q | None:
    """Among which rows to look for a value in a column: those of instances that have to do with it, or else
    the newest; None for all, where a table is not large."""
    latest = newest(model)
    if latest is None or not value:
        return latest
    instances = _instances(field, value)
    if not instances:
        return latest
    if any(column.name == "instance" for column in model._meta.fields):
        # Not the newest besides: with an OR, the planner walks the table from its end.
        return Q(instance__in=list(instances))
    return reduce(or_, _messages(model, instances, value), latest)


def _messages(model: type[Model], instances: dict[int, tuple[str, str]], value: str) -> list[Q]:
    if model is InboxMessage:
        rows = InboxMessage.objects.using(get_settings().database)
        steps = Transition.objects.using(get_settings().database).filter(instance__in=instances)
        found = {*steps.exclude(inbox_id=None).values_list("inbox_id", flat=True)[:_MOST]}
        for process, key in list(instances.values())[:10]:
            still_open = rows.of_instance(process, key).values_list("pk", flat=True)
            found |= {*still_open[:_MOST]}
        return [Q(pk__in=found), Q(message_id=value)]
    return []


def _instances(field: str, value: str) -> dict[int, tuple[str, str]]:
    """Instances, each with process and key, whose rows may have this value in this column."""
    alias = get_settings().database
    instances = Instance.objects.using(alias)
    if field == "key":
        names = [item.name for item in registry.listeners]
        found = instances.filter(process__in=names, key=value)
    elif field == "correlation_id":
        found = instances.filter(correlation_id=value)
    elif field == "message_id":
        rows = InboxMessage.objects.using(alias).filter(message_id=value)
        keys = [
            Q(process=process, key=key) for process, key in rows.values_list("process", "key")[:10]
        ]
        found = instances.filter(reduce(or_, keys)) if keys else instances.none()
    else:
        return {}
    return {
        pk: (process, key) for pk, process, key in found.values_list("pk", "process", "key")[:_MOST]
    }


def tell(its_admin: ReadOnlyAdmin, request: HttpRequest, *, by_instance: bool) -> None:
    """Say on the page that older rows may match as well; once."""
    if getattr(request.resolver_match, "url_name", "") == "autocomplete":
        return
    text = _("Only the newest %(count)s rows were looked at: no index answers this question.")
    if by_instance:
        text = _(
            "Only the rows of process instances that have it were looked at, and the newest %(count)s."
        )
    if text not in request.META.setdefault("pm_celery.told", []):
        request.META["pm_celery.told"].append(text)
        shown = text % {"count": number_format(NEWEST, force_grouping=True)}
        its_admin.message_user(request, shown, messages.WARNING, fail_silently=True)
