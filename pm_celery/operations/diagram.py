"""A process as a picture: which messages it takes, what it does with each, and how it ends.

A process manager has no states that somebody drew: it has a status, and handlers. So a box is a message with
its handler, and an arrow leads from a handler to a message that what it decided brings about: an event that
the handler of its command publishes, a timer that it sets, the failure of its command. That is read from
the handlers' sources; what these do not tell is said in the notes. For one instance, the road that it took
is marked, and what only the road tells is added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from pm_celery import registry
from pm_celery.conf import get_settings
from pm_celery.definitions import ProcessDefinition
from pm_celery.models import Instance, Transition
from pm_celery.operations.sources import Found, events_published_by, read_handler
from pm_celery.operations.timeline import issued, wished

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

__all__ = ["Arrow", "Box", "Diagram", "Ending", "RoadStep", "diagram", "draw", "road"]

# Transitions that are looked at for the road of an instance: the first, and the last ones.
LONGEST_ROAD = 500


@dataclass(frozen=True, slots=True)
class RoadStep:
    """What the picture needs to know of a transition. timers: the names of those that it set."""

    number: int
    kind: str
    name: str
    handler: str
    status: str
    message_id: str
    causation_id: str
    commands: Sequence[tuple[str, str]]
    timers: Sequence[str] = ()


@dataclass(slots=True)
class Box:
    """A message that the process takes, and what its handler does.

    sort: event, timer, timeout, command_failed or failure. declared: whether this release handles it.
    ends: whether the instance has ended for certain when its handler has returned.
    comes: "start" for a start event; "elsewhere" where no arrow tells where it comes from.
    sends, sets: commands and timers, each with whether this instance has had it.
    taken: the numbers of the transitions that it took.
    """

    id: str
    sort: str
    name: str
    handler: str = ""
    comes: str = ""
    sends: dict[str, bool] = field(default_factory=dict)
    sets: dict[str, bool] = field(default_factory=dict)
    taken: list[int] = field(default_factory=list)
    declared: bool = True
    ends: bool = False


@dataclass(slots=True)
class Ending:
    """A status, as the end of a road."""

    id: str
    status: str
    taken: bool = False


@dataclass(slots=True)
class Arrow:
    """sort: event, timer, command_failed or end. label: the command, or the timer."""

    source: str
    target: str
    sort: str
    label: str = ""
    taken: bool = False


@dataclass(slots=True)
class Diagram:
    """notes: what cannot be told, in words. last: the box where an instance is now."""

    process: str
    boxes: list[Box] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)
    notes: list[StrOrPromise] = field(default_factory=list)
    last: str = ""

    def short(self, name: str) -> str:
        """A name without the app's label, where the process has the same."""
        prefix = self.process.partition(".")[0] + "."
        return name.removeprefix(prefix) if "." in self.process else name


def diagram(process: str, taken: Iterable[RoadStep] = ()) -> str:
    """A process as Mermaid text (a flowchart), with the road of one instance marked on it."""
    from pm_celery.operations.mermaid import mermaid

    return mermaid(draw(process, taken))


def road(instance: Instance, until: int | None = None) -> list[RoadStep]:
    """The first transition of an instance and the last ones, at most so many, up to a number."""
    last = instance.number if until is None else until
    # The instance stands in both conditions, so that each is a range of the index.
    of_instance = Q(instance_id=instance.pk)
    rows = Transition.objects.using(get_settings().database).filter(
        (of_instance & Q(number=1))
        | (of_instance & Q(number__gt=last - LONGEST_ROAD, number__lte=last))
    )
    return [
        RoadStep(
            number=row.number,
            kind=row.kind,
            name=row.name,
            handler=row.handler,
            status=row.status,
            message_id=row.message_id,
            causation_id=row.causation_id,
            commands=issued(row.commands),
            timers=[timer.name for timer in wished(row.timers) if timer.due_at],
        )
        for row in rows.defer("state").order_by("number")
    ]


def draw(process: str, taken: Iterable[RoadStep] = ()) -> Diagram:
    """The picture as values. Of a process that is not declared, only the road is known."""
    artist = _Artist(process)
    definition = registry.listeners.get(process)
    if isinstance(definition, ProcessDefinition):
        artist.draw_declared(definition)
    else:
        artist.found.notes.append(_("this release declares no such process"))
    artist.draw_road(list(taken))
    artist.say_where_from()
    return artist.found


class _Artist:
    def __init__(self, process: str) -> None:
        self.found = Diagram(process)
        self.boxes: dict[tuple[str, str], Box] = {}
        self.endings: dict[str, Ending] = {}
        self.arrows: dict[tuple[str, str, str, str], Arrow] = {}

    # -- what is declared -----------------------------------------------------------------------

    def draw_declared(self, definition: ProcessDefinition) -> None:
        decided: list[tuple[Box, Found]] = []

        def add(sort: str, name: str, method: str) -> Box:
            box = self._box(sort, name, method)
            read = read_handler(definition.cls, method) if method else Found()
            box.sends = dict.fromkeys(read.commands, False)
            box.sets = dict.fromkeys(read.timers, False)
            decided.append((box, read))
            return box

        # The class tells its methods by the alphabet; the source has an order that means something.
        order = {name: at for at, name in enumerate(vars(definition.cls))}
        for handler in sorted(
            definition.event_handlers.values(),
            key=lambda handler: (not handler.start, order.get(handler.method, len(order))),
        ):
            box = add("event", handler.event.name, handler.method)
            if handler.start:
                box.comes = "start"
            if handler.end:
                box.ends = True
                self._arrow(box.id, self._ending("completed").id, "end")
        for name, method in definition.timer_handlers.items():
            add("timer", name, method)
        for command, method in definition.command_failed_handlers.items():
            add("command_failed", command.name, method)
        if definition.timeout is not None or definition.timeout_handler:
            box = add("timeout", "", definition.timeout_handler or "")
            box.ends = True
            self._arrow(box.id, self._ending("timed_out").id, "end")
        if definition.failure_handler:
            box = add("failure", "", definition.failure_handler)
            self._arrow(box.id, self._ending("failed").id, "end")
        for box, read in decided:
            self._connect(box, read)

    def _connect(self, box: Box, read: Found) -> None:
        self._note(read.unknown)
        if read.completes:
            self._arrow(box.id, self._ending("completed").id, "end")
        if box.ends:
            return  # what its commands bring about finds no running instance
        for command in read.commands:
            self._connect_command(box, command)
        for timer in read.timers:
            if target := self.boxes.get(("timer", timer)):
                self._arrow(box.id, target.id, "timer", timer)
        for event in read.events:
            if target := self.boxes.get(("event", event)):
                self._arrow(box.id, target.id, "event")

    def _connect_command(self, box: Box, command: str) -> None:
        if target := self.boxes.get(("command_failed", command)):
            self._arrow(box.id, target.id, "command_failed", command)
        handler = registry.command_handlers.get(command)
        if handler is None:
            return
        read = events_published_by(handler.function)
        for event in read.events:
            if target := self.boxes.get(("event", event)):
                self._arrow(box.id, target.id, "event", command)
        self._note(read.unknown)

    # -- what happened --------------------------------------------------------------------------

    def draw_road(self, steps: Sequence[RoadStep]) -> None:
        sent: dict[str, tuple[str, str]] = {}
        status = "started"
        for step in steps:
            box = self._box_of(step)
            if box is not None:
                box.taken.append(step.number)
                self._mark_cause(step, box, sent)
                for id_, name in step.commands:
                    box.sends[name] = True
                    sent[id_] = box.id, name
                box.sets |= dict.fromkeys(step.timers, True)
                if step.message_id:
                    sent[step.message_id] = box.id, ""
                self.found.last = box.id
            if step.status not in (status, "started"):
                ending = self._ending(step.status)
                if box is not None:
                    self._arrow(box.id, ending.id, "end").taken = True
                elif self.found.last:
                    self._arrow(self.found.last, ending.id, "end").taken = True
            status = step.status
        if steps and status != "started":
            ending = self._ending(status)
            ending.taken = True
            self.found.last = ending.id
        self.found.endings.sort(key=lambda ending: not ending.taken)

    def _mark_cause(self, step: RoadStep, box: Box, sent: dict[str, tuple[str, str]]) -> None:
        if step.causation_id not in sent:
            return
        source, command = sent[step.causation_id]
        sort, label = box.sort, command
        if step.kind == "failure":
            sort = "command_failed"
        if sort == "timer":
            label = box.name
        elif sort not in ("event", "command_failed"):
            return
        self._arrow(source, box.id, sort, label).taken = True

    def _box_of(self, step: RoadStep) -> Box | None:
        if step.kind == "failed":
            kinds = ("event", "timer", "command_failed")
            found = (self.boxes.get((kind, step.name)) for kind in kinds)
            return next(filter(None, found), None)
        if step.kind not in ("event", "timer", "timeout", "command_failed", "failure"):
            return None
        for known in self.found.boxes:
            if step.handler and known.handler == step.handler and known.declared:
                return known
        box = self.boxes.get((step.kind, _named(step.kind, step.name)))
        if box is None:
            box = self._box(step.kind, _named(step.kind, step.name), step.handler)
            box.declared = False
        if step.number == 1:
            box.comes = "start"
        return box

    # -- parts ----------------------------------------------------------------------------------

    def say_where_from(self) -> None:
        reached = {arrow.target for arrow in self.found.arrows if arrow.source != arrow.target}
        for box in self.found.boxes:
            if box.sort == "event" and not box.comes and box.id not in reached:
                box.comes = "elsewhere"

    def _box(self, sort: str, name: str, handler: str) -> Box:
        box = Box(f"b{len(self.boxes)}", sort, name, handler)
        self.boxes[sort, name] = box
        self.found.boxes.append(box)
        return box

    def _ending(self, status: str) -> Ending:
        if status not in self.endings:
            self.endings[status] = Ending(f"e{len(self.endings)}", status)
            self.found.endings.append(self.endings[status])
        return self.endings[status]

    def _arrow(self, source: str, target: str, sort: str, label: str = "") -> Arrow:
        key = source, target, sort, label
        if key not in self.arrows:
            self.arrows[key] = Arrow(source, target, sort, label)
            self.found.arrows.append(self.arrows[key])
        return self.arrows[key]

    def _note(self, texts: Iterable[StrOrPromise]) -> None:
        self.found.notes += [text for text in texts if text not in self.found.notes]


def _named(kind: str, name: str) -> str:
    return "" if kind in ("timeout", "failure") else name
