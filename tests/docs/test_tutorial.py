"""The tutorial's steps, taken as its reader takes them, with a real worker, show what the page shows."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from tests.docs.fresh_project import FreshProject
from tests.docs.pages import TUTORIAL
from tests.servers import free_port

pytestmark = [pytest.mark.any_database, pytest.mark.workers]

# What the suite has done for this environment already.
DONE = ("python -m venv", "source ", "pip install")
# Asked again until they tell what the page shows: the worker may still be at it.
QUESTIONS = ("python manage.py pm show", "python manage.py pm list")
SECONDS = 30


@dataclass(frozen=True)
class File:
    """A block of Python that begins with its file's name."""

    name: str
    text: str
    append: bool


@dataclass(frozen=True)
class Command:
    """A line behind a prompt, and what the page shows below it."""

    line: str
    shown: str


def steps(page: Path) -> Iterator[File | Command]:
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.M | re.S):
        if language == "python":
            name, place = re.match(r"# ([\w/]+\.py)(.*)", block).groups()
            yield File(name, block, append="end" in place)
        elif language == "console":
            for typed in re.split(r"^\$ ", block, flags=re.M)[1:]:
                line = typed.partition("\n")[0]
                if line.count('"') % 2:  # goes on until the quotation ends
                    line = typed[: typed.index('\n"') + 2]
                yield Command(line, typed.removeprefix(line).strip("\n"))
        else:
            raise AssertionError(f"a step in {language}")


def told(text: str) -> str:
    """Without what is different each time: ids, moments, durations, and the width of columns."""
    for pattern, word in (
        (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "ID"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", "MOMENT"),
        (r"\b\d+(\.\d+)? ?(ms|s)\b( ago)?", "DURATION"),
        (r"-{5,}", "----"),
        (r"^ *\d+ +(?=(handled|skipped|open) )", "N "),
        (r" +", " "),
        (r" $", ""),
    ):
        text = re.sub(pattern, word, text, flags=re.M)
    return text.strip()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[FreshProject]:
    fresh = FreshProject(tmp_path, free_port())
    try:
        yield fresh
    finally:
        fresh.close()


@pytest.mark.timeout(240)
def test_the_tutorials_steps_show_what_the_page_shows(project: FreshProject) -> None:
    for step in steps(TUTORIAL):
        if isinstance(step, File):
            project.write(step.name, step.text, append=step.append)
        elif step.line.startswith(QUESTIONS):
            ask(project, step)
        elif not step.line.startswith(DONE):
            take(project, step)

    for path in re.findall(r"<http://127.0.0.1:8000(/\S+)>", TUTORIAL.read_text()):
        assert "shop.OrderFulfilment" in page_of(project, path)


def take(project: FreshProject, step: Command) -> None:
    printed = project.type(step.line)
    if step.shown and not is_shown(printed, step.shown):
        # Compared, so that pytest shows where they differ.
        assert told(printed) == told(step.shown), printed


def is_shown(printed: str, shown: str) -> bool:
    """Whether it is what the page shows, which may leave lines out."""
    parts = map(re.escape, told(shown).split("\n…\n"))
    return re.fullmatch(r"\n(.*\n)?".join(parts), told(printed), re.S) is not None


def ask(project: FreshProject, step: Command) -> None:
    """The same for what may have to be asked again, because the worker is still at it."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            take(project, step)
        except AssertionError as error:
            if time.monotonic() > deadline:
                error.add_note(project.log())
                raise
        else:
            return
        time.sleep(0.2)


def page_of(project: FreshProject, path: str) -> str:
    """A page of the admin, as ann sees it."""
    browser = build_opener(HTTPCookieProcessor(jar := CookieJar()))
    login = f"http://127.0.0.1:{project.port}/admin/login/"
    deadline = time.monotonic() + SECONDS
    while not jar:
        try:
            browser.open(login)
        except URLError:
            assert time.monotonic() < deadline, project.log()
            time.sleep(0.1)
    token = next(cookie.value for cookie in jar if cookie.name == "csrftoken")
    form = {"username": "ann", "password": "secret", "csrfmiddlewaretoken": token, "next": path}
    return str(browser.open(login, urlencode(form).encode()).read().decode())


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("id  2026-11-24 18:39:39, 6s ago\n", "id 2027-01-01 00:00:00, 12s ago"),
        ("key 5b2f6c1e-6d1c-4b1e-9a55-0d6d1b7a4711", "key 47d9c617-e35d-463c-91a3-c30d42f81d22"),
        ("one\ntwo\nthree\nfour\n", "one\n…\nfour"),
        ("one\ntwo", "one\n…\ntwo"),
    ],
)
def test_ids_moments_and_lines_left_out_are_no_difference(printed: str, shown: str) -> None:
    assert is_shown(printed, shown)


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("status started", "status completed"),
        ("one\ntwo\nthree", "one\n…\nfour"),
        ("one\ntwo", "one"),
        ("1 retried", "2 retried"),
    ],
)
def test_anything_else_is_a_difference(printed: str, shown: str) -> None:
    assert not is_shown(printed, shown)
