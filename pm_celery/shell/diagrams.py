"""``pm diagram``: a process in Mermaid, for docs and reviews."""

from __future__ import annotations

from pm_celery.operations.diagram import diagram, road
from pm_celery.shell.asking import DONE, Family, Shell
from pm_celery.shell.selecting import instance_of, process_named

__all__ = ["add"]


def add(family: Family) -> None:
    parser = family.add("diagram", show_diagram, "A process in Mermaid, for docs and reviews.")
    parser.add_argument("process", metavar="PROCESS")
    parser.add_argument(
        "--instance", metavar="KEY", help="with the road that the instance of this key took"
    )


def show_diagram(shell: Shell) -> int:
    process, key = process_named(shell.options["process"]), shell.options["instance"]
    text = diagram(process, road(instance_of(process, key)) if key is not None else ())
    shell.out.document({"process": process, "key": key, "mermaid": text})
    shell.out.block(text, indent="")
    return DONE
