"""A browser, people who are logged in, and a look at what they see.

::

    def test_the_page_tells_what_there_is(staff: Staff, look: Look) -> None:
        page = staff("view_instance")
        page.goto("/admin/pm_celery/")
        expect(page.get_by_text("tests.Order")).to_be_visible()
        look(page, "overview")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.before_django import servers_are_required
from tests.browser import chromium
from tests.servers import ServerMissing

__all__ = ["Look", "Staff"]

Staff = Callable[..., Page]
Look = Callable[[Page, str], None]

# A machine that does something else besides may take its time.
PATIENCE_MS = 15_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            # No database makes a page look different.
            item.add_marker(pytest.mark.any_database)
            item.add_marker(pytest.mark.django_db(transaction=True))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Installs what is lacking here, where no test's timeout is running."""
    if session.config.option.collectonly:
        return
    if any("chromium_path" in getattr(item, "fixturenames", ()) for item in session.items):
        capture = session.config.pluginmanager.getplugin("capturemanager")
        try:
            with capture.global_and_fixture_disabled():
                chromium.provide(install=True)
        except ServerMissing:
            return  # the fixture tells, test by test


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """The browser; the tests are skipped where there is none, and with CI set that is an error."""
    try:
        return chromium.provide()
    except ServerMissing as missing:
        reason = str(missing)
    if servers_are_required():
        pytest.fail(f"{reason} With CI set, this is an error.", pytrace=False)
    pytest.skip(reason)


# Of the package and no longer: while it is open, Django holds this thread to be one of an event loop.
@pytest.fixture(scope="package")
def browser(chromium_path: str) -> Iterator[Browser]:
    """One browser for all tests here; each has a profile of its own in it."""
    patch = pytest.MonkeyPatch()
    patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    with sync_playwright() as playwright:
        # Its sandbox refuses root.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=chromium_path, args=arguments)
        yield opened
        opened.close()
    patch.undo()


@pytest.fixture
def errors() -> list[str]:
    """What the browser complained of so far; who expects a complaint takes it out."""
    return []


@pytest.fixture
def page(browser: Browser, live_server: Any, errors: list[str]) -> Iterator[Page]:
    """A tab in which nobody is logged in; an error in its console, or an address without an answer, fails the
    test."""
    context = browser.new_context(
        base_url=live_server.url, viewport={"width": 1280, "height": 900}, color_scheme="light"
    )
    context.set_default_timeout(PATIENCE_MS)
    opened = context.new_page()
    opened.on("console", lambda said: errors.extend(_complaints(said)))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on(
        "response", lambda got: got.status >= 500 and errors.append(f"{got.status} {got.url}")
    )
    yield opened
    context.close()
    assert errors == [], "the browser's console is not empty"


def _complaints(said: ConsoleMessage) -> list[str]:
    # Browsers ask for it by themselves, and the admin has none.
    is_favicon = said.location.get("url", "").endswith("/favicon.ico")
    return [said.text] if said.type == "error" and not is_favicon else []


_numbers = count(1)


@pytest.fixture
def staff(page: Page, live_server: Any) -> Staff:
    """`staff("view_instance", ...)`: the tab, in which somebody with these permissions of ours is logged in;
    `staff(superuser=True)`: somebody who may do all."""

    def log_in(*permissions: str, superuser: bool = False) -> Page:
        name = f"staff-{next(_numbers)}"
        user = User.objects.create_user(name, is_staff=True, is_superuser=superuser)
        ours = Permission.objects.filter(content_type__app_label="pm_celery")
        given = ours.filter(codename__in=permissions)
        assert len(given) == len(permissions), "no such permission"
        user.user_permissions.set(given)
        client = Client()
        client.force_login(user)
        cookie = client.cookies["sessionid"]
        page.context.add_cookies(
            [{"name": cookie.key, "value": cookie.value, "url": live_server.url}]
        )
        return page

    return log_in


@pytest.fixture
def look() -> Look:
    """`look(page, "overview")`: in light and in dark; with PM_LOOK set to a folder, `overview-light.png` and
    `overview-dark.png` are put there, for people to look at."""
    folder = os.environ.get("PM_LOOK")

    def at(page: Page, name: str) -> None:
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            if folder:
                # The theme's colours take a moment to change.
                page.wait_for_timeout(300)
                page.screenshot(path=Path(folder, f"{name}-{theme}.png"), full_page=True)
        page.emulate_media(color_scheme="light")

    return at
