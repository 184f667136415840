"""Search: one term, and the instances that it may mean."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Q
from django.db.models.expressions import RawSQL
from django.utils.translation import gettext_lazy as _

from pm_celery import redaction, registry
from pm_celery.conf import get_settings
from pm_celery.exceptions import Refused
from pm_celery.keys import LONGEST_KEY
from pm_celery.models import InboxMessage, Instance, OutboxCommand
from pm_celery.operations import indexes

__all__ = ["Found", "search"]

MOST = 100
_BY_STATE = "state."
_LARGEST_ID = 2**63 - 1
_MOST_PROCESSES = 200


@dataclass(frozen=True, slots=True)
class Found:
    """Instances that a term means, and as what: ``"key"``, ``"instance id"``, ``"event id"``, …"""

    meaning: str
    instance_ids: tuple[int, ...]


def search(term: str) -> list[Found]:
    """What a term may mean: a whole key, a number of an instance, an event's, command's or correlation id; or
    ``state.customer_id:42``. Each is a look-up in an index; at most 100 instances of each.

    Raises ``Refused`` for a search by state that cannot be: on another database than PostgreSQL, without an
    index of that field, and by a field that is not to be shown.
    """
    term = term.strip()
    if not term or "\x00" in term or len(term) > LONGEST_KEY + len(_BY_STATE):
        return []
    if term.startswith(_BY_STATE) and ":" in term:
        field, _, value = term.removeprefix(_BY_STATE).partition(":")
        return _told("state", _by_state(field, value))
    return [
        *_told("key", _by_key(term)),
        *_told("instance id", _by_instance_id(term)),
        *_told("event id", _by_event_id(term)),
        *_told("command id", _by_command_id(term)),
        *_told("correlation id", _ids(Q(correlation_id=term))),
    ]


def _told(meaning: str, ids: Iterable[int]) -> list[Found]:
    found = tuple(ids)
    return [Found(meaning, found)] if found else []


def _ids(condition: Q) -> list[int]:
    rows = Instance.objects.using(get_settings().database).filter(condition)
    return list(rows.order_by().values_list("pk", flat=True)[:MOST])


def _by_key(term: str) -> list[int]:
    # The index that finds an instance by its key begins with the process.
    declared = [item.name for item in registry.listeners]
    return _ids(Q(process__in=declared, key=term)) or _ids(Q(process__in=_processes(), key=term))


def _processes() -> list[str]:
    """The processes that have instances, declared or not: one look-up in that index for each."""
    rows = Instance.objects.using(get_settings().database).order_by("process")
    found: list[str] = []
    name = ""
    while len(found) < _MOST_PROCESSES:
        following = rows.filter(process__gt=name).values_list("process", flat=True).first()
        if following is None:
            break
        found.append(following)
        name = following
    return found


def _by_instance_id(term: str) -> list[int]:
    is_id = term.isascii() and term.isdecimal() and len(term) < 20 and int(term) <= _LARGEST_ID
    return _ids(Q(pk=int(term))) if is_id else []


def _by_event_id(term: str) -> list[int]:
    rows = InboxMessage.objects.using(get_settings().database).filter(message_id=term)
    pairs = list(rows.exclude(key="").values_list("process", "key")[:MOST])
    if not pairs:
        return []
    return _ids(functools.reduce(operator.or_, (Q(process=p, key=key) for p, key in pairs)))


def _by_command_id(term: str) -> list[int]:
    try:
        command_id = UUID(term)
    except ValueError:
        return []
    rows = OutboxCommand.objects.using(get_settings().database).filter(command_id=command_id)
    ids = rows.filter(instance__isnull=False).values_list("instance_id", flat=True)
    return _ids(Q(pk__in=list(ids)))


def _by_state(field: str, value: str) -> list[int]:
    expression = indexes.expression(field)
    usable = [index for index in indexes.existing(field) if index.is_valid]
    if not usable:
        raise Refused(
            _(
                "no process has an index of the state's field %(field)s, and without one all states "
                "would be read. Make one: manage.py pm index <process> %(field)s"
            ),
            field=field,
        )
    shown = [index for index in usable if not redaction.is_hidden(index.process, field)]
    # A field that holds fields is text as a whole, and may hold some that are not to be shown.
    if not shown or value.startswith(("{", "[")):
        raise Refused(
            _("%(field)s cannot be searched by: its value is not to be shown, or no plain one"),
            field=field,
        )
    found: list[int] = []
    alias = get_settings().database
    for index in shown:
        conditions = ["state <> ''", f"{expression} = left(%s, {indexes.LONGEST})"]
        of_process = Instance.objects.using(alias).filter(process=index.process)
        rows = of_process.extra(where=conditions, params=[value])
        whole = RawSQL(f"(state::jsonb) ->> '{field}'", [])
        matching = rows.annotate(searched=whole).filter(searched=value)
        found += matching.order_by().values_list("pk", flat=True)[:MOST]
    return found[:MOST]
