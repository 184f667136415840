"""Going through a table in portions, in the order of an index: each statement reads at most so many rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db.models import Q, QuerySet

__all__ = ["newest_first", "portions"]

PORTION = 5000
# So many ids are looked at by a statement that leaves it to the database which rows fit.
RANGE = 20_000


def portions(
    rows: QuerySet[Any], order: str, *columns: str, since: Any = None, size: int | None = None
) -> Iterator[list[dict[str, Any]]]:
    """The rows' columns as dicts, in the order of a column and their ids, a portion at a time.

    Where a portion ended, the next one begins, so rows may be deleted meanwhile. Conditions of ``rows``
    that the index of ``order`` does not hold belong to whoever reads the portions: in the statement
    they would let it read on for as long as it finds nothing.

    order: a column; or "pk", or "-pk" for the newest first.
    since: leave out rows with a smaller value in that column.
    """
    size = size or PORTION
    named = list(dict.fromkeys(("pk", order.removeprefix("-"), *columns)))
    # The first condition leads into the index; the second one takes what was seen of equals away.
    after = Q(**{f"{order}__gte": since}) if since is not None else Q()
    ordered = rows.order_by(order) if order.endswith("pk") else rows.order_by(order, "pk")
    while True:
        portion = list(ordered.filter(after).values(*named)[:size])
        if portion:
            yield portion
        if len(portion) < size:
            return
        last = portion[-1]
        if order == "pk":
            after = Q(pk__gt=last["pk"])
        elif order == "-pk":
            after = Q(pk__lt=last["pk"])
        else:
            equals = Q(**{order: last[order]}, pk__lte=last["pk"])
            after = Q(**{f"{order}__gte": last[order]}) & ~equals


def newest_first(rows: QuerySet[Any], most: int) -> Iterator[list[int]]:
    """The ids of rows under any condition, from the newest row of the table back over ``most`` ids at most: a
    range of ids at a time, so that no statement reads on for as long as it finds nothing."""
    last = rows.model._default_manager.using(rows.db).order_by("-pk").values_list("pk", flat=True)
    top = last.first() or 0
    for high in range(top, max(0, top - most), -RANGE):
        yield list(
            rows.filter(pk__gt=high - RANGE, pk__lte=high)
            .order_by("-pk")
            .values_list("pk", flat=True)
        )
