"""What this release of the project declares: filled by decorators at import, read by name later.

Names may depend on Django's app labels, so they are resolved when first asked for, not when declared.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from django.apps import apps

if TYPE_CHECKING:
    from pm_celery.commands import CommandHandler
    from pm_celery.listeners import Listener
    from pm_celery.messages import MessageType
    from pm_celery.versions import Upcast

__all__ = [
    "Registry",
    "app_label_of",
    "command_handlers",
    "isolated_registries",
    "listeners",
    "messages",
    "upcasts",
]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)


class Registry(Generic[T]):
    """Declarations of one sort, in the order in which they were made."""

    def __init__(self) -> None:
        self._declared: list[T] = []
        self._by_name: dict[str, T] | None = None
        self._lock = threading.RLock()
        self.version = 0

    def add(self, item: T) -> None:
        with self._lock:
            self._declared.append(item)
            self._changed()

    def _changed(self) -> None:
        self._by_name = None
        self.version += 1

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._declared))

    def get(self, name: str) -> T | None:
        """The declaration of that name; the first one where two share it (a check forbids that)."""
        index = self._by_name
        if index is None:
            with self._lock:
                index = {}
                for item in self._declared:
                    index.setdefault(item.name, item)
                if apps.ready:
                    self._by_name = index
        return index.get(name)

    def shared_names(self) -> dict[str, list[T]]:
        """Names that several declarations bear."""
        by_name: dict[str, list[T]] = {}
        for item in self:
            by_name.setdefault(item.name, []).append(item)
        return {name: items for name, items in by_name.items() if len(items) > 1}

    def replace(self, items: Iterable[T]) -> None:
        with self._lock:
            self._declared = list(items)
            self._changed()


messages: Registry[MessageType] = Registry()
listeners: Registry[Listener] = Registry()
command_handlers: Registry[CommandHandler] = Registry()
upcasts: Registry[Upcast] = Registry()


@contextmanager
def isolated_registries() -> Iterator[None]:
    """Forget, at the end, what was declared inside. For tests that declare their own processes."""
    registries: tuple[Registry[_Named], ...] = (messages, listeners, command_handlers, upcasts)  # type: ignore[assignment]
    before = [list(registry) for registry in registries]
    try:
        yield
    finally:
        for registry, items in zip(registries, before, strict=True):
            registry.replace(items)


def app_label_of(module: str) -> str:
    """The label of the installed app that holds a module; its top-level package where none does."""
    config = apps.get_containing_app_config(module) if apps.apps_ready else None
    return config.label if config else module.partition(".")[0]
