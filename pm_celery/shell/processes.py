"""``pm pause``, ``pm resume``: whole processes."""

from __future__ import annotations

from pm_celery.operations import pauses
from pm_celery.shell.asking import Family, Shell, Subject
from pm_celery.shell.selecting import process_named

__all__ = ["add"]


def add(family: Family) -> None:
    parser = family.add("pause", pause, "Handle nothing more of processes.", is_verb=True)
    parser.add_argument("process", nargs="+", metavar="PROCESS")
    parser = family.add("resume", resume, "Handle paused processes again.", is_verb=True)
    parser.add_argument("process", nargs="+", metavar="PROCESS")


def pause(shell: Shell) -> int:
    return shell.each(_processes(shell), pauses.pause, "paused")


def resume(shell: Shell) -> int:
    return shell.each(_processes(shell), pauses.resume, "resumed")


def _processes(shell: Shell) -> list[Subject]:
    names = [process_named(name, policies=True) for name in shell.options["process"]]
    return [Subject(name, name, {"process": name}) for name in names]
