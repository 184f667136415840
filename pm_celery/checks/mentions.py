"""Where a project's sources mention a class, but for declaring and handling it. They are read, never run."""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path

__all__ = ["TooMuch", "is_anything_published", "unused"]

_MOST_FILES = 5_000
_NOT_OURS = {"__pycache__", "migrations", "node_modules", "site-packages", "dist-packages"}
# Decorators that bind a handler to a class, and options of Meta that name events.
_BINDS = {"handle", "policy", "event", "command", "command_handler", "on_command_failed", "upcast"}
_OPTIONS = {"started_by", "completed_by", "__all__"}


class TooMuch(Exception):
    """There are more sources than a check may read: it is not known."""


def unused(names: Collection[str], folders: Collection[Path]) -> set[str]:
    """Those class names that no source in the folders uses, to make one or in another way that is not known
    to be harmless. Raises :class:`TooMuch`, and ``OSError`` for what cannot be read."""
    left = set(names)
    for _, source in _sources(folders):
        # As bytes, and without parsing: of most files that is all.
        named = {name for name in left if name.encode() in source}
        if not named:
            continue
        try:
            with warnings.catch_warnings():
                # Whoever imports it is told of its odd escapes; we are not asked.
                warnings.simplefilter("ignore")
                tree = ast.parse(source)
            left -= _used(tree, named)
        except (SyntaxError, ValueError, RecursionError):
            # It may mean anything.
            left -= named
        if not left:
            break
    return left


def is_anything_published(folders: Collection[Path], but_in: Collection[Path]) -> bool:
    """Whether a source in the folders, but for these files, has to do with publishing. Raises as above."""
    return any(b"publish" in source and path not in but_in for path, source in _sources(folders))


def _sources(folders: Collection[Path]) -> Iterator[tuple[Path, bytes]]:
    seen: set[str] = set()
    read = 0
    for folder in folders:
        for here, inside, files in os.walk(folder):
            if here in seen:
                inside.clear()
                continue
            seen.add(here)
            inside[:] = sorted(name for name in inside if _is_ours(Path(here, name)))
            for name in sorted(files):
                if name.endswith(".py"):
                    read += 1
                    if read > _MOST_FILES:
                        raise TooMuch
                    path = Path(here, name)
                    yield path, path.read_bytes()


def _is_ours(folder: Path) -> bool:
    name = folder.name
    return (
        name not in _NOT_OURS and not name.startswith(".") and not (folder / "pyvenv.cfg").exists()
    )


def _used(tree: ast.AST, names: set[str]) -> set[str]:
    reader = _Reader(names)
    reader.visit(tree)
    return reader.found


class _Reader(ast.NodeVisitor):
    """Collects the names that are used. What it does not know counts as use: no false alarm."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self.found: set[str] = set()

    def visit_Name(self, node: ast.Name) -> None:
        self._note(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._note(node.attr)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        # A wire name, say, for a task that publishes by name.
        if isinstance(node.value, str):
            for word in re.findall(r"\w+", node.value):
                self._note(word)

    def _note(self, name: str) -> None:
        if name in self.names:
            self.found.add(name)

    def visit_alias(self, node: ast.alias) -> None:
        # Under another name it cannot be followed.
        if node.asname and node.asname != node.name:
            self._note(node.name)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_all(node.bases, node.keywords)
        self._visit_decorated(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = node.args
        self._visit_all(arguments.defaults, [d for d in arguments.kw_defaults if d])
        self._visit_decorated(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def _visit_decorated(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for decorator in node.decorator_list:
            if not (isinstance(decorator, ast.Call) and _last_name(decorator.func) in _BINDS):
                self.visit(decorator)
        self._visit_all(node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and not _is_option(node.target):
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if not all(map(_is_option, node.targets)):
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        # A docstring, or a text that stands there like one.
        if not isinstance(node.value, ast.Constant):
            self.visit(node.value)

    def _visit_all(self, *groups: Collection[ast.AST]) -> None:
        for group in groups:
            for node in group:
                self.visit(node)


def _last_name(node: ast.AST) -> str:
    return str(getattr(node, "attr", None) or getattr(node, "id", ""))


def _is_option(node: ast.AST) -> bool:
    return _last_name(node) in _OPTIONS
