"""Whatever happens in whatever order, two things at a time: what must be true is true in the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connection

from tests.interleavings.runs import Runs

pytestmark = pytest.mark.django_db(transaction=True)

# SQLite and PostgreSQL have every second one each; both together are what `make test` runs. MariaDB, which
# takes several times as long to empty its tables, has every sixth.
_SEEDS, _AT_ONCE, _OPERATIONS = 300, 30, 60


@pytest.fixture
def runs() -> Iterator[Runs]:
    with Runs() as found:
        yield found


@pytest.mark.parametrize("first", range(0, _SEEDS, _AT_ONCE))
def test_nothing_is_lost_doubled_or_overtaken_in_any_order_of_events(
    runs: Runs, first: int
) -> None:
    """Each of these breaks turned it red. Within six seeds: a command's done mark not written, or not asked
    for, parked events let through, the open messages read in the order of descending ids, handled messages
    not marked. Within thirty, on PostgreSQL: no lock on the instance (SKIP LOCKED and FOR UPDATE removed), no
    ON CONFLICT where it is created."""
    second_half = connection.vendor == "postgresql"
    step = 6 if connection.vendor == "mysql" else 2
    for seed in range(first + second_half, first + _AT_ONCE, step):
        failed = runs.seed(seed, _OPERATIONS)
        assert failed is None, str(failed)
