"""Whatever happens in whatever order, two things at a time: what must be true is true in the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interleavings.runs import Runs

pytestmark = pytest.mark.django_db(transaction=True)

_SEEDS, _AT_ONCE, _OPERATIONS = 300, 50, 60


@pytest.fixture
def runs() -> Iterator[Runs]:
    with Runs() as found:
        yield found


@pytest.mark.parametrize("first", range(0, _SEEDS, _AT_ONCE))
def test_nothing_is_lost_doubled_or_overtaken_in_any_order_of_events(
    runs: Runs, first: int
) -> None:
    for seed in range(first, first + _AT_ONCE):
        failed = runs.seed(seed, _OPERATIONS)
        assert failed is None, str(failed)
