"""What a test that failed is told: where everything stands, and why an instance is not there."""

from __future__ import annotations

from pm_celery import clock, registry
from pm_celery.conf import get_settings
from pm_celery.models import DeadLetter, InboxMessage, Instance
from pm_celery.testing.upcoming import upcoming

__all__ = ["no_instance", "report"]

_MOST_NAMED = 10


def report() -> str:
    """The newest instances, the oldest open dead letters, and what comes next."""
    alias = get_settings().database
    lines = [f"It is {clock.now():%Y-%m-%d %H:%M:%S} UTC."]
    for instance in Instance.objects.using(alias).order_by("-pk")[:_MOST_NAMED]:
        steps = f"{instance.number} transition{'s' if instance.number > 1 else ''}"
        lines.append(f"{instance.process} {instance.key}: {instance.status} after {steps}")
    lines += [
        f"dead letter of {letter.process} {letter.key}: {letter.name} in {letter.handler}, run "
        f"{letter.attempts}: {letter.exception}: {letter.error}"
        for letter in DeadLetter.objects.using(alias).open().order_by("pk")[:_MOST_NAMED]
    ]
    lines += [f"next: {coming}" for coming in upcoming(_MOST_NAMED)]
    return "\n".join(lines)


def no_instance(process: str, key: str) -> str:
    """Why there is none with that key, as far as the rows tell."""
    alias = get_settings().database
    text = f"There is no instance of {process} with the key {key!r}."
    if registry.listeners.get(process) is None:
        known = ", ".join(sorted(listener.name for listener in registry.listeners))
        return f"{text} No process has that name; known: {known}."
    keys = Instance.objects.using(alias).filter(process=process).order_by("pk")
    found = list(keys.values_list("key", flat=True)[: _MOST_NAMED + 1])
    if found:
        named = ", ".join(map(repr, found[:_MOST_NAMED]))
        return f"{text} There is {named}{' and more' if len(found) > _MOST_NAMED else ''}."
    if InboxMessage.objects.using(alias).of_instance(process, key).exists():
        return f"{text} Its messages are not handled yet: drain() does that."
    return f"{text} There is none at all: was its start event published?"
