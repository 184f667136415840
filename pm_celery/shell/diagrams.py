"""``pm diagram``: a process in Mermaid, for docs and reviews."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from pm_celery.shell.asking import DONE, Family, Shell
from pm_celery.shell.selecting import process_named

__all__ = ["add"]

_DIAGRAM = "pm_celery.operations.diagram"


def add(family: Family) -> None:
    if find_spec(_DIAGRAM) is None:
        return
    parser = family.add("diagram", diagram, "A process in Mermaid, for docs and reviews.")
    parser.add_argument("process", metavar="PROCESS")


def diagram(shell: Shell) -> int:
    process = process_named(shell.options["process"])
    text = import_module(_DIAGRAM).mermaid(process)
    shell.out.document({"process": process, "mermaid": text})
    shell.out.block(text, indent="")
    return DONE
