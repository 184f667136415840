"""What a handler may decide, read from its source: the commands it sends, its timers, whether it completes.

It is read, once for it takes milliseconds, and never run. What cannot be told from the source, a command
held in a variable of unknown origin, say, is counted as unknown; source that is not there tells nothing.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from celery.canvas import Signature
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from pm_celery.messages import MessageType
from pm_celery.publishing import Envelope

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

__all__ = ["Found", "events_published_by", "read_handler"]

# Calls of helpers are followed so far.
_DEEPEST = 4
# What a function does with something that its source does not name.
_DOES = {
    "sends": _("{function}() sends something that its source does not name"),
    "publishes": _("{function}() publishes something that its source does not name"),
    "sets": _("{function}() sets a timer that its source does not name"),
    "cancels": _("{function}() cancels a timer that its source does not name"),
}


@dataclass(slots=True)
class Found:
    """Names, each once, in the order of the source.

    commands, events: wire names; a Celery signature by its task's name. timers: those that are set.
    unknown: in words, what the source does not tell; translated when they are read, for this is kept.
    """

    commands: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    timers: list[str] = field(default_factory=list)
    cancelled_timers: list[str] = field(default_factory=list)
    completes: bool = False
    unknown: list[StrOrPromise] = field(default_factory=list)


def read_handler(cls: type, method: str) -> Found:
    """What a process manager's method may decide, with the methods and functions that it calls."""
    return _read(getattr(cls, method, None), cls)


def events_published_by(function: Callable[..., Any]) -> Found:
    """The events that a command handler may publish, with the functions of its project that it calls."""
    return _read(function, None)


@lru_cache(maxsize=1024)
def _read(function: Any, cls: Any) -> Found:
    reader = _Reader(cls)
    if function is not None:
        reader.read(function, 0)
    return reader.found


class _Reader:
    def __init__(self, cls: type | None) -> None:
        self.cls = cls
        self.found = Found()
        self._seen: set[int] = set()

    def read(self, function: Any, depth: int) -> None:
        function = inspect.unwrap(getattr(function, "__func__", function))
        code = getattr(function, "__code__", None)
        if code is None or id(code) in self._seen or depth > _DEEPEST:
            return
        self._seen.add(id(code))
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError, SyntaxError, ValueError, RecursionError):
            text = _("the source of {function}() cannot be read")
            _add(self.found.unknown, format_lazy(text, function=function.__name__))
            return
        _Body(self, function, tree, depth).read()


class _Body:
    """The calls in one function."""

    def __init__(self, reader: _Reader, function: Any, tree: ast.AST, depth: int) -> None:
        self.reader = reader
        self.found = reader.found
        self.function = function
        self.tree = tree
        self.depth = depth
        definition = next(iter(ast.iter_child_nodes(tree)), None)
        parameters = definition.args.args if isinstance(definition, ast.FunctionDef) else []
        self.itself = parameters[0].arg if parameters and reader.cls else ""
        self.decorators = set(map(id, getattr(definition, "decorator_list", ())))

    def read(self) -> None:
        for call in self._calls(self.tree):
            target = call.func
            if isinstance(target, ast.Attribute) and self._is_itself(target.value):
                self._read_own(target.attr, call)
            else:
                self._read_function(call)

    def _calls(self, node: ast.AST) -> Iterator[ast.Call]:
        for child in ast.iter_child_nodes(node):
            if id(child) in self.decorators:
                continue
            if isinstance(child, ast.Call):
                yield child
            yield from self._calls(child)

    def _is_itself(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Call):  # super().placed(event)
            return isinstance(node.func, ast.Name) and node.func.id == "super"
        return bool(self.itself) and isinstance(node, ast.Name) and node.id == self.itself

    def _read_own(self, name: str, call: ast.Call) -> None:
        match name:
            case "send":
                sent = call.args[0] if call.args else _keyword(call, "command")
                for command in self._made(sent):
                    self._keep(command, "command", self.found.commands, "sends")
            case "set_timer" | "cancel_timer":
                timer = self._text(call.args[0] if call.args else _keyword(call, "name"))
                set_ = name == "set_timer"
                if timer is None:
                    self._note("sets" if set_ else "cancels")
                else:
                    _add(self.found.timers if set_ else self.found.cancelled_timers, timer)
            case "complete":
                self.found.completes = True
            case _:
                for cls in getattr(self.reader.cls, "__mro__", ()):
                    method = vars(cls).get(name)
                    if cls.__module__.partition(".")[0] != "pm_celery" and callable(
                        getattr(method, "__func__", method)
                    ):
                        self.reader.read(method, self.depth + 1)

    def _read_function(self, call: ast.Call) -> None:
        target = self._resolved(call.func)
        name = getattr(target, "__name__", "")
        if getattr(target, "__module__", "") == "pm_celery.publishing":
            if name == "publish" and call.args:
                for event in self._made(call.args[0]):
                    self._keep(event, "event", self.found.events, "publishes")
            elif name == "publish_many" and call.args:
                self._read_many(call.args[0])
        elif inspect.isfunction(inspect.unwrap(target)) if callable(target) else False:
            ours = self.function.__module__.partition(".")[0]
            if target.__module__.partition(".")[0] == ours:
                self.reader.read(target, self.depth + 1)

    def _read_many(self, events: ast.AST) -> None:
        elements: list[ast.expr] = []
        if isinstance(events, ast.List | ast.Tuple):
            elements = events.elts
        elif isinstance(events, ast.ListComp | ast.GeneratorExp):
            elements = [events.elt]
        else:
            self._note("publishes")
        for element in elements:
            for event in self._made(element):
                self._keep(event, "event", self.found.events, "publishes")

    # -- what is meant by an expression ---------------------------------------------------------

    def _made(self, node: ast.AST | None, depth: int = 0) -> Iterator[Any]:
        """The classes and signatures that an expression may be of; None for one that cannot be told."""
        if isinstance(node, ast.IfExp):
            yield from self._made(node.body, depth)
            yield from self._made(node.orelse, depth)
        elif isinstance(node, ast.Call):
            target = node.func
            if isinstance(target, ast.Attribute) and target.attr in ("s", "si", "signature"):
                yield getattr(self._resolved(target.value), "name", None)
            elif (known := self._resolved(target)) is Envelope and node.args:
                yield from self._made(node.args[0], depth)
            else:
                yield known
        elif isinstance(node, ast.Name) and depth < _DEEPEST:
            values = [
                assigned.value
                for assigned in ast.walk(self.tree)
                if isinstance(assigned, ast.Assign | ast.AnnAssign | ast.NamedExpr)
                and assigned.value is not None
                and _assigns(assigned, node.id)
            ]
            for value in values:
                yield from self._made(value, depth + 1)
            if not values:
                known = self._resolved(node)
                yield known.task if isinstance(known, Signature) else type(known)
        else:
            yield None

    def _keep(self, thing: Any, kind: str, names: list[str], verb: str) -> None:
        declared = getattr(thing, "__dict__", {}).get("__pm_message__")
        if isinstance(declared, MessageType) and declared.kind == kind:
            _add(names, declared.name)
        elif isinstance(thing, str) and thing and kind == "command":
            _add(names, thing)
        else:
            self._note(verb)

    def _resolved(self, node: ast.AST) -> Any:
        """What a dotted name stands for in the function's module, or around it; None if unknown."""
        if isinstance(node, ast.Attribute):
            owner = self._resolved(node.value)
            # Modules and classes only: an attribute of anything else may be computed.
            known = inspect.ismodule(owner) or inspect.isclass(owner)
            return inspect.getattr_static(owner, node.attr, None) if known else None
        if not isinstance(node, ast.Name):
            return None
        code = self.function.__code__
        for name, cell in zip(code.co_freevars, self.function.__closure__ or (), strict=False):
            if name == node.id:
                try:
                    return cell.cell_contents
                except ValueError:
                    return None
        return self.function.__globals__.get(node.id)

    def _text(self, node: ast.AST | None) -> str | None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        known = self._resolved(node) if node is not None else None
        return known if isinstance(known, str) else None

    def _note(self, verb: str) -> None:
        _add(self.found.unknown, format_lazy(_DOES[verb], function=self.function.__name__))


def _add(names: list[Any], name: StrOrPromise) -> None:
    if name not in names:
        names.append(name)


def _keyword(call: ast.Call, name: str) -> ast.AST | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def _assigns(node: ast.Assign | ast.AnnAssign | ast.NamedExpr, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)
