"""The bench of the pages, with few rows: it finds every page, and each of them answers."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client

from pm_celery.admin.read_only import ReadOnlyAdmin
from tests.benchmarks.paging.filling import fill
from tests.benchmarks.paging.visits import Visit, Visitor, explained

pytestmark = [pytest.mark.django_db, pytest.mark.postgresql]

# However many rows there are. A page that asks once for each row asks more often.
MOST_QUERIES = 25
# It tells of all tables at once.
MOST_QUERIES_OF_THE_OVERVIEW = 60


@pytest.fixture
def visits(admin_user: User, monkeypatch: pytest.MonkeyPatch) -> list[Visit]:
    # Enough to notice a page that asks once for each row; a hundred take long to show.
    monkeypatch.setattr(ReadOnlyAdmin, "list_per_page", 30)
    fill(600)
    client = Client(raise_request_exception=False)
    client.force_login(admin_user)
    visitor = Visitor(client, times=0)
    found = list(visitor.visits())
    assert visitor.unknown == [], "pages whose addresses tests/benchmarks/paging cannot fill in"
    return found


def most(visit: Visit) -> int:
    is_overview = visit.title == "index of the app"
    return MOST_QUERIES_OF_THE_OVERVIEW if is_overview else MOST_QUERIES


def test_every_page_answers_on_full_tables_with_few_questions(visits: list[Visit]) -> None:
    assert [(visit.title, visit.status) for visit in visits if visit.status != 200] == []
    assert [(visit.title, visit.queries) for visit in visits if visit.queries > most(visit)] == []
    titles = {visit.title for visit in visits}
    # One of each kind: of all others tests/test_admin_doors.py knows that they are in the URL conf.
    assert {
        "index of the app",
        "instance changelist",
        "instance change 1",
        "instance history 1",
        "instance changelist, status: failed",
        "instance changelist, search by correlation_id__exact",
        "inboxmessage changelist, search for nothing",
        "link to pm_celery_transition_changelist instance__id__exact",
    } <= titles
    assert "Scan" in explained(next(visit for visit in visits if visit.slowest[1]))


def test_a_page_is_over_the_limit_by_its_median() -> None:
    def is_over(database: float, in_all: float, status: int = 200) -> bool:
        return Visit("", "", status, 1, [1.0, database, 900.0], [1.0, in_all, 900.0]).is_over

    assert not is_over(99, 299)
    assert is_over(101, 299)
    assert is_over(99, 301)
    assert is_over(1, 1, 500)
