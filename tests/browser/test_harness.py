"""What the tests in here rely on: that a page cannot be wrong without a test that says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests import servers
from tests.browser import chromium
from tests.browser.conftest import Staff
from tests.servers import ServerMissing


def test_an_inline_script_does_not_run(staff: Staff, errors: list[str]) -> None:
    page = staff(superuser=True)
    page.goto("/admin/")
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.itRan = true";
            document.body.append(script);
        }"""
    )
    assert page.evaluate("window.itRan") is None
    assert len(errors) == 1
    assert "Content Security Policy" in errors.pop()


def test_an_error_and_a_file_that_is_not_there_are_told(page: Page, errors: list[str]) -> None:
    page.goto("/admin/login/")
    with page.expect_event("pageerror"):
        page.evaluate("() => setTimeout(() => { throw new Error('no such thing') })")
    with page.expect_console_message():
        page.evaluate("() => fetch('/static/missing.css').then(() => 0)")
    told = " ".join(errors)
    errors.clear()
    assert "no such thing" in told
    assert "404" in told


def test_without_a_browser_it_is_told_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    servers.install_package.cache_clear()
    with pytest.raises(ServerMissing, match="apt-get install chromium"):
        chromium.provide(install=True)
    servers.install_package.cache_clear()
