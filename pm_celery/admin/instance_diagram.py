"""A diagram as shapes that a template draws as SVG: with classes alone, for a strict CSP forbids styles."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.utils.translation import gettext as _

from pm_celery.models.instances import InstanceStatus
from pm_celery.operations.diagram import Arrow, Box, Diagram, Ending
from pm_celery.operations.layout import Size, lay_out

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

__all__ = ["Picture", "picture"]

_LINE = 16
_PADDING = 10
_WIDTH_OF_A_LETTER, _WIDTH_OF_A_BOLD_LETTER = 7.0, 7.8
_LIGHT = ("pm-quiet", "pm-plain")
_NARROWEST, _MOST_LETTERS = 110, 30
_HEIGHT_OF_AN_ENDING = 30


@dataclass(frozen=True, slots=True)
class Text:
    x: float
    y: float
    text: str
    look: str


@dataclass(frozen=True, slots=True)
class Shape:
    """A box or an ending. title: what a pointer over it tells, in whole. stub: where it comes from."""

    x: float
    y: float
    width: float
    height: float
    radius: int
    look: str
    title: str
    texts: list[Text]
    badge: str = ""
    stub: str = ""

    @property
    def stub_x(self) -> float:
        return self.x - 10

    @property
    def stub_y(self) -> float:
        return self.y + 13

    @property
    def badge_x(self) -> float:
        return self.x + self.width - _PADDING

    @property
    def badge_y(self) -> float:
        return self.texts[0].y


@dataclass(frozen=True, slots=True)
class Line:
    path: str
    look: str
    taken: bool
    title: str


@dataclass(frozen=True, slots=True)
class Picture:
    width: int
    height: int
    shapes: list[Shape]
    lines: list[Line]
    notes: list[StrOrPromise]


def picture(found: Diagram) -> Picture:
    """Where everything stands."""
    written = {box.id: _written(found, box) for box in found.boxes}
    sizes: dict[str, Size] = {box.id: _size(written[box.id], box) for box in found.boxes}
    labels = {ending.id: _label(ending) for ending in found.endings}
    sizes |= {id_: _size_of_ending(label) for id_, label in labels.items()}
    arrows: dict[tuple[str, str], list[Arrow]] = defaultdict(list)
    for arrow in found.arrows:
        arrows[arrow.source, arrow.target].append(arrow)
    least = {box.id: 0 if box.comes == "start" else 1 for box in found.boxes}
    laid = lay_out(sizes, list(arrows), least, [ending.id for ending in found.endings])
    shapes = [_box(found, box, written[box.id], laid.boxes[box.id], sizes) for box in found.boxes]
    for ending in found.endings:
        x, y = laid.boxes[ending.id]
        label, (width, height) = labels[ending.id], sizes[ending.id]
        look = " pm-taken pm-last" if ending.taken and found.last == ending.id else ""
        text = Text(x + width / 2, y + 19, label, "pm-middle pm-strong")
        shapes.append(Shape(x, y, width, height, 15, f"pm-ending{look}", label, [text]))
    lines = [
        Line(
            path=laid.arrows[pair],
            look=f"pm-line-{some[0].sort}",
            taken=any(arrow.taken for arrow in some),
            title=", ".join(found.short(arrow.label) for arrow in some if arrow.label),
        )
        for pair, some in arrows.items()
    ]
    lines.sort(key=lambda line: line.taken)
    return Picture(round(laid.width), round(laid.height), shapes, lines, found.notes)


# A line of text, what it looks like, and the whole text.
_Written = list[tuple[str, str, str]]


def _written(found: Diagram, box: Box) -> _Written:
    name = found.short(box.name)
    titles = {
        "event": name,
        "timer": _("timer %(timer)s") % {"timer": name},
        "timeout": _("timeout"),
        "command_failed": _("%(command)s failed") % {"command": name},
        "failure": _("anything else failed"),
    }
    written = [(titles[box.sort], "pm-strong", box.name)]
    if box.handler:
        written.append((f"{box.handler}()", "pm-quiet", box.handler))
    for command, sent in box.sends.items():
        look = "pm-done" if sent else "pm-plain"
        written.append((f"→ {found.short(command)}", look, command))
    for timer, set_ in box.sets.items():
        text = _("timer %(timer)s") % {"timer": timer}
        written.append((text, "pm-done" if set_ else "pm-plain", timer))
    return [(_cut(text), look, whole) for text, look, whole in written]


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"


def _size(written: _Written, box: Box) -> Size:
    widths = [
        len(text) * (_WIDTH_OF_A_LETTER if look in _LIGHT else _WIDTH_OF_A_BOLD_LETTER)
        for text, look, _whole in written
    ]
    if box.taken:
        widths[0] += (len(_badge(box)) + 2) * _WIDTH_OF_A_BOLD_LETTER
    width = max(_NARROWEST, max(widths) + 2 * _PADDING)
    return round(width, 1), len(written) * _LINE + _PADDING


def _label(ending: Ending) -> str:
    return str(InstanceStatus(ending.status).label) if ending.status else ""


def _size_of_ending(label: str) -> Size:
    width = max(_NARROWEST, len(label) * _WIDTH_OF_A_BOLD_LETTER + 2 * _PADDING)
    return round(width, 1), _HEIGHT_OF_AN_ENDING


def _badge(box: Box) -> str:
    """The numbers of the transitions that came by: the first and the last ones of many."""
    numbers = list(map(str, box.taken))
    if len(numbers) > 4:
        numbers = [*numbers[:2], "…", numbers[-1]]
    return "#" + " ".join(numbers) if numbers else ""


def _box(
    found: Diagram, box: Box, written: _Written, corner: tuple[float, float], sizes: dict[str, Size]
) -> Shape:
    x, y = corner
    width, height = sizes[box.id]
    looks = [f"pm-box-{box.sort}"]
    looks += ["pm-taken"] if box.taken else []
    looks += ["pm-last"] if found.last == box.id else []
    looks += [] if box.declared else ["pm-undeclared"]
    return Shape(
        x,
        y,
        width,
        height,
        4,
        " ".join(looks),
        "\n".join(whole for _text, _look, whole in written if whole),
        [
            Text(x + _PADDING, y + _PADDING / 2 + _LINE * (at + 0.75), text, look)
            for at, (text, look, _whole) in enumerate(written)
        ],
        badge=_badge(box),
        stub=box.comes,
    )
