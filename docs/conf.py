"""How Sphinx builds these pages: `make docs`.

Pages are Markdown (MyST) that GitHub shows as well; the reference of the API comes from docstrings.
Nothing is fetched, neither when the pages are built nor when they are read.
"""

from __future__ import annotations

import os
import re
import sys
from importlib import metadata
from pathlib import Path

import django
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent.parent))
# The package's models are documented from their docstrings, and models want settings.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

project = "pm_celery"
author = "The pm_celery authors"
version = release = metadata.version("pm-celery")

extensions = ["myst_parser", "sphinx.ext.autodoc"]

# Anchors as GitHub makes them, so that one link works in both places.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
add_module_names = False
# Our docstrings write code in single backticks.
default_role = "code"

nitpicky = True
nitpick_ignore_regex = [
    # Other projects' classes: links to them would have to be fetched.
    ("py:.*", r"(?!pm_celery\.).*"),
    # Type variables, and the aliases that stand for a function of whatever type.
    ("py:class", r"pm_celery\.[\w.]+\.([A-Z]|Handler)"),
    # Tables have a page of their own, and what a test reads of the kit is told where it is used.
    ("py:class", r"pm_celery\.(models|testing)\..+"),
]

html_theme = "furo"
# Furo's own underlines every name of a class and a module.
pygments_dark_style = "github-dark"
html_title = "pm_celery"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False

# From a page in docs/, or in a folder of it, to a file outside.
_LEADS_OUT = re.compile(
    r"\]\(((?:\.\./)+(?:tests|example_project|pm_celery)/[^)#]+\.md)(?:#[^)]*)?\)"
)


def files_outside(app: Sphinx, page: str, source: list[str]) -> None:
    """Links to Markdown outside of docs/ lead to the file, as GitHub's do: it is no page here."""
    source[0] = _LEADS_OUT.sub(r"](path:\1)", source[0])


_ENTRY = re.compile(r"[a-z_]+(, [a-z_]+)*: \S")


def listed_entries(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Paragraphs of lines ``name: what it is``, as our docstrings have them, become lists."""
    in_list = False
    result: list[str] = []
    for number, line in enumerate(lines):
        begins = number == 0 or not lines[number - 1].strip()
        if not line.strip():
            in_list = False
        elif _ENTRY.match(line) and (begins or in_list):
            in_list = True
            head, text = line.split(": ", 1)
            names = ", ".join(f"``{word}``" for word in head.split(", "))
            result.append(f"- {names}: {text}")
            continue
        result.append(f"  {line}" if in_list else line)
    lines[:] = result


def setup(app: Sphinx) -> None:
    app.connect("source-read", files_outside)
    app.connect("autodoc-process-docstring", listed_entries)
