"""The driver for MariaDB, which comes as source: it is compiled against the machine's client library."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys

from tests.servers import ServerMissing, install_package, may_install, tail

__all__ = ["REQUIREMENT", "provide_mysqlclient"]

REQUIREMENT = "mysqlclient>=2.2.1"
# What compiling it takes.
PACKAGES = ("libmariadb-dev", "pkg-config", "gcc", "libc6-dev")


def provide_mysqlclient(*, install: bool = False) -> None:
    """Has this interpreter find mysqlclient, built now if need be, or raises `ServerMissing`."""
    if importlib.util.find_spec("MySQLdb"):
        return
    problem = ""
    if install and may_install():
        problem = install_package(*PACKAGES) or _pip_install(REQUIREMENT)
        importlib.invalidate_caches()
    if not importlib.util.find_spec("MySQLdb"):
        raise ServerMissing(
            f"mysqlclient is not installed. Get it with `apt-get install {' '.join(PACKAGES)}` "
            f"or your system's equivalent, and `pip install mysqlclient`.{problem}"
        )


def _pip_install(requirement: str) -> str:
    """Installs a Python package beside the tests; returns what went wrong, or ""."""
    sys.stderr.write(f"Installing {requirement} with pip, because it is missing ...\n")
    sys.stderr.flush()
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", requirement],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return "" if done.returncode == 0 else f" Installing it failed:\n{tail(done.stdout)}"
