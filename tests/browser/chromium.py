"""Where the distribution's Chromium is, or how to get it; Playwright's own is never downloaded."""

from __future__ import annotations

import shutil

from tests.servers import ServerMissing, install_package, may_install

__all__ = ["provide"]

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def provide(*, install: bool = False) -> str:
    """The program, installed now if need be, or `ServerMissing`."""
    problem = ""
    found = _find()
    if found is None and install and may_install():
        problem = install_package("chromium")
        found = _find()
    if found is None:
        raise ServerMissing(
            "Chromium is not installed. Get it with `apt-get install chromium` or your system's "
            f"equivalent; as root, where there is apt-get, the tests do.{problem}"
        )
    return found


def _find() -> str | None:
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)
