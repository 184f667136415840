"""A fresh project in which a page's steps are taken as its reader takes them."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

# One process that has loaded Django and the project. Each command runs in a fork of it, by manage.py, which
# saves the second in which every one of them would load the same again.
_FORKED = """
import json, os, runpy, sys
import django
sys.path.insert(0, os.getcwd())
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
django.setup()
import django.contrib.admin, django.test, pm_celery.shell
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if not child:
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.environ.update(request["environment"])
        sys.argv = ["manage.py", *request["arguments"]]
        try:
            runpy.run_path("manage.py", run_name="__main__")
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        else:
            code = 0
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class CommandFailed(AssertionError):
    """What was typed ended with another code than 0; the message has what it printed."""


class FreshProject:
    """A folder, what runs in it, and how to type there. Everything started is ended with it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.worker: subprocess.Popen[bytes] | None = None
        self.background: list[subprocess.Popen[bytes]] = []
        self._loaded: subprocess.Popen[str] | None = None

    def write(self, file: str, text: str, *, append: bool) -> None:
        """A file of the page."""
        with (self.folder / file).open("a" if append else "w") as target:
            target.write(text)
        if not file.endswith("/tests.py"):
            self._unload()

    def type(self, line: str) -> str:
        """Run a command line and return what it prints; servers stay in the background."""
        words = shlex.split(line, comments=True) if "$(" not in line else []
        environment = {}
        while words and re.match(r"[A-Z_]+=", words[0]):
            name, _, value = words.pop(0).partition("=")
            environment[name] = value
        match words:
            case ["celery", *rest]:
                self._start_worker(rest, environment)
                return ""
            case ["python", "manage.py", "runserver"]:
                arguments = ["manage.py", "runserver", "--noreload", str(self.port)]
                self.background.append(self._start(arguments, environment, "server.log"))
                return ""
            case ["python", "manage.py", *rest] if self._has_settings():
                return self._manage(rest, environment)
            case ["python", "manage.py", *rest]:
                return self._run([sys.executable, "manage.py", *rest])
            case ["django-admin", *rest]:
                return self._run([sys.executable, "-m", "django", *rest])
        return self._run(["bash", "-c", line])

    def log(self) -> str:
        return "".join(path.read_text()[-3000:] for path in self.folder.glob("*.log"))

    def close(self) -> None:
        self._unload()
        for process in [*self.background, *([self.worker] if self.worker else [])]:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _has_settings(self) -> bool:
        return "pm_celery" in (self.folder / "mysite/settings.py").read_text()

    def _run(self, arguments: list[str]) -> str:
        done = subprocess.run(
            arguments,
            cwd=self.folder,
            env=plain_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise CommandFailed(f"{shlex.join(arguments)}:\n{done.stdout}")
        return done.stdout

    def _start(
        self, arguments: list[str], environment: dict[str, str], log: str
    ) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.folder,
                env={**plain_environment(), **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                # As in a terminal: what is killed by its group's id is all of it, and nothing else.
                start_new_session=True,
            )

    def _start_worker(self, arguments: list[str], environment: dict[str, str]) -> None:
        if self.worker is not None and self.worker.poll() is None:
            self.worker.terminate()  # the page's Ctrl-C
            self.worker.wait(30)
        pidfile = self.folder / "worker.pid"
        pidfile.unlink(missing_ok=True)
        self.worker = self._start(["-m", "celery", *arguments], environment, "worker.log")
        deadline = time.monotonic() + 30
        while not pidfile.exists():
            assert self.worker.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def _manage(self, arguments: list[str], environment: dict[str, str]) -> str:
        if self._loaded is None:
            self._loaded = subprocess.Popen(
                [sys.executable, "-c", _FORKED],
                cwd=self.folder,
                env=plain_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._loaded.stdin is not None
        assert self._loaded.stdout is not None
        output = self.folder / "output.txt"
        request = {
            "arguments": arguments,
            "environment": environment,
            "output": str(output),
        }
        self._loaded.stdin.write(json.dumps(request) + "\n")
        self._loaded.stdin.flush()
        code = self._loaded.stdout.readline().strip()
        printed = output.read_text()
        if code != "0":
            raise CommandFailed(f"manage.py {shlex.join(arguments)} ended with {code}:\n{printed}")
        return printed

    def _unload(self) -> None:
        if self._loaded is not None:
            assert self._loaded.stdin is not None
            self._loaded.stdin.close()
            self._loaded.wait()
            self._loaded = None


def plain_environment() -> dict[str, str]:
    """Without what this suite is told by its environment."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("DJANGO_", "PM_TEST_"))}
    return plain | {"PYTHONPATH": "", "COLUMNS": "200"}
