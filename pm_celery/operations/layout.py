"""Where the boxes of a diagram stand, and how its arrows run: a layered drawing, from top to bottom.

The four steps of Sugiyama, Tagawa and Toda (1981): turn arrows round until there is no circle, put each box
below all that lead to it, order each layer so that few arrows cross, and move boxes to the middle of their
neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Layout", "Size", "lay_out"]

_GAP = 28.0
_GAP_OF_ARROWS = 16.0
_GAP_OF_LAYERS = 46.0
_MARGIN = 18.0
_ROUNDS = 12

Size = tuple[float, float]
Point = tuple[float, float]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Layout:
    """boxes: the top left corner of each. arrows: an SVG path's data for each pair."""

    width: float
    height: float
    boxes: Mapping[str, Point]
    arrows: Mapping[Pair, str]


def lay_out(
    sizes: Mapping[str, Size], pairs: Sequence[Pair], least: Mapping[str, int], last: Sequence[str]
) -> Layout:
    """Lay boxes out. least: the first layer that a box may stand in. last: those that stand lowest."""
    return _Drawing(sizes, pairs, least, last).laid_out()


class _Drawing:
    def __init__(
        self,
        sizes: Mapping[str, Size],
        pairs: Sequence[Pair],
        least: Mapping[str, int],
        last: Sequence[str],
    ) -> None:
        self.sizes = dict(sizes)
        self.pairs = list(dict.fromkeys(pairs))
        self.downward = self._without_circles()
        self.rank = self._ranks(least, last)
        self.chains = self._chains()
        self.layers = self._layers()

    def laid_out(self) -> Layout:
        self._order()
        middles = self._middles()
        leftmost = min((middles[name] - self._width(name) / 2 for name in middles), default=0)
        tops: dict[str, float] = {}
        self.heights: dict[str, float] = {}
        y = _MARGIN
        for layer in self.layers:
            height = max((self.sizes.get(name, (0, 0))[1] for name in layer), default=0)
            tops |= dict.fromkeys(layer, y)
            self.heights |= dict.fromkeys(layer, height)
            y += height + _GAP_OF_LAYERS
        middles = {name: x - leftmost + _MARGIN for name, x in middles.items()}
        right = max((middles[name] + self._width(name) / 2 for name in middles), default=0)
        boxes = {
            name: (round(middles[name] - width / 2, 1), round(tops[name], 1))
            for name, (width, _height) in self.sizes.items()
        }
        return Layout(
            width=right + _MARGIN + 10,
            height=y - _GAP_OF_LAYERS + _MARGIN,
            boxes=boxes,
            arrows=self._arrows(middles, tops),
        )

    # -- layers ---------------------------------------------------------------------------------

    def _without_circles(self) -> list[Pair]:
        """The pairs, those that lead back turned round; boxes that lead to themselves are left out."""
        following: dict[str, list[str]] = {name: [] for name in self.sizes}
        for source, target in self.pairs:
            if source != target:
                following[source].append(target)
        found: list[Pair] = []
        done: set[str] = set()
        on_the_way: set[str] = set()

        def visit(name: str) -> None:
            done.add(name)
            on_the_way.add(name)
            for target in following[name]:
                found.append((target, name) if target in on_the_way else (name, target))
                if target not in done:
                    visit(target)
            on_the_way.discard(name)

        for name in self.sizes:
            if name not in done:
                visit(name)
        return list(dict.fromkeys(found))

    def _ranks(self, least: Mapping[str, int], last: Sequence[str]) -> dict[str, int]:
        rank = {name: least.get(name, 0) for name in self.sizes}
        for _ in self.sizes:
            for source, target in self.downward:
                rank[target] = max(rank[target], rank[source] + 1)
        lowest = max((rank[name] for name in rank if name not in last), default=-1) + 1
        rank |= dict.fromkeys(last, lowest)
        return rank

    def _chains(self) -> dict[Pair, list[str]]:
        """For each pair, what its arrow passes: a place of its own in each layer between."""
        chains = {}
        for source, target in self.downward:
            between = []
            for rank in range(self.rank[source] + 1, self.rank[target]):
                name = f"{source}>{target}>{rank}"
                self.rank[name] = rank
                between.append(name)
            chains[source, target] = [source, *between, target]
        return chains

    def _layers(self) -> list[list[str]]:
        layers: list[list[str]] = [[] for _ in range(max(self.rank.values(), default=-1) + 1)]
        for name, rank in self.rank.items():
            layers[rank].append(name)
        self.above: dict[str, list[str]] = {name: [] for name in self.rank}
        self.below: dict[str, list[str]] = {name: [] for name in self.rank}
        for chain in self.chains.values():
            for upper, lower in pairwise(chain):
                if self.rank[upper] < self.rank[lower]:
                    self.below[upper].append(lower)
                    self.above[lower].append(upper)
        return [layer for layer in layers if layer]

    # -- order ----------------------------------------------------------------------------------

    def _order(self) -> None:
        best, fewest = [list(layer) for layer in self.layers], self._crossings()
        for turn in range(_ROUNDS):
            down = turn % 2 == 0
            neighbours = self.above if down else self.below
            for layer in self.layers if down else reversed(self.layers):
                place = self._places()
                layer.sort(
                    key=lambda name, near=neighbours, place=place: (  # type: ignore[misc]
                        _mean([place[other] for other in near[name]], place[name])
                    )
                )
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(layer) for layer in self.layers], crossings
        self.layers = best

    def _places(self) -> dict[str, float]:
        return {
            name: (at + 0.5) / len(layer) for layer in self.layers for at, name in enumerate(layer)
        }

    def _crossings(self) -> int:
        total = 0
        for layer, lower in pairwise(self.layers):
            place = {name: at for at, name in enumerate(lower)}
            ends = [
                place[other]
                for name in layer
                for other in sorted(self.below[name], key=lambda other: place.get(other, 0))
                if other in place
            ]
            total += sum(a > b for at, a in enumerate(ends) for b in ends[at + 1 :])
        return total

    # -- places ---------------------------------------------------------------------------------

    def _width(self, name: str) -> float:
        return self.sizes.get(name, (0.0, 0.0))[0]

    def _apart(self, left: str, right: str) -> float:
        gap = _GAP if left in self.sizes and right in self.sizes else _GAP_OF_ARROWS
        return (self._width(left) + self._width(right)) / 2 + gap

    def _middles(self) -> dict[str, float]:
        middles: dict[str, float] = {}
        for layer in self.layers:
            x = 0.0
            for at, name in enumerate(layer):
                x += self._apart(layer[at - 1], name) if at else 0
                middles[name] = x
            for name in layer:
                middles[name] -= x / 2
        for turn in range(_ROUNDS):
            for layer in self.layers if turn % 2 == 0 else reversed(self.layers):
                near = self.above if turn % 2 == 0 else self.below
                wanted = [
                    _mean([middles[other] for other in near[name]], middles[name]) for name in layer
                ]
                middles |= zip(layer, self._pushed_apart(layer, wanted), strict=True)
        return self._side_by_side(middles)

    def _side_by_side(self, middles: dict[str, float]) -> dict[str, float]:
        """Parts that no arrow joins moved together, as near as their outlines allow."""
        parts = sorted(self._parts(), key=lambda part: min(middles[name] for name in part))
        right: dict[int, float] = {}
        moved: dict[str, float] = {}
        for part in parts:
            shift = max(
                (
                    right[self.rank[name]] + _GAP - middles[name] + self._width(name) / 2
                    for name in part
                    if self.rank[name] in right
                ),
                default=-min(middles[name] - self._width(name) / 2 for name in part),
            )
            for name in part:
                moved[name] = middles[name] + shift
            for name in part:
                edge = moved[name] + self._width(name) / 2
                right[self.rank[name]] = max(right.get(self.rank[name], edge), edge)
        return moved

    def _parts(self) -> list[list[str]]:
        parts: list[list[str]] = []
        seen: set[str] = set()
        for start in self.rank:
            found, left = [], [start]
            while left:
                name = left.pop()
                if name not in seen:
                    seen.add(name)
                    found.append(name)
                    left += [*self.above[name], *self.below[name]]
            if found:
                parts.append(found)
        return parts

    def _pushed_apart(self, layer: list[str], wanted: list[float]) -> Iterator[float]:
        """As near to what is wanted as the order and the gaps allow: between pushing right and left."""
        rightwards, leftwards = list(wanted), list(wanted)
        for at in range(1, len(layer)):
            apart = self._apart(layer[at - 1], layer[at])
            rightwards[at] = max(rightwards[at], rightwards[at - 1] + apart)
        for at in range(len(layer) - 2, -1, -1):
            apart = self._apart(layer[at], layer[at + 1])
            leftwards[at] = min(leftwards[at], leftwards[at + 1] - apart)
        for one, other in zip(rightwards, leftwards, strict=True):
            yield (one + other) / 2

    # -- arrows ---------------------------------------------------------------------------------

    def _arrows(self, middles: Mapping[str, float], tops: Mapping[str, float]) -> dict[Pair, str]:
        leaving, arriving = self._ports(self.below, middles), self._ports(self.above, middles)
        paths = {}
        for (source, target), chain in self.chains.items():
            points = [(leaving[source, chain[1]], tops[source] + self.sizes[source][1])]
            for name in chain[1:-1]:  # straight down between the boxes of that layer
                points.append((middles[name], tops[name]))
                points.append((middles[name], tops[name] + self.heights[name]))
            points.append((arriving[target, chain[-2]], tops[target]))
            paths[source, target] = points
        found = {}
        for source, target in self.pairs:
            if source == target:
                x, y = middles[source] + self._width(source) / 2, tops[source]
                found[source, target] = f"M{x:.1f},{y + 10:.1f} c24,0 24,16 0,16"
            elif (source, target) in paths:
                found[source, target] = _curve(paths[source, target])
            else:
                found[source, target] = _curve(paths[target, source][::-1])
        return found

    def _ports(
        self, neighbours: Mapping[str, list[str]], middles: Mapping[str, float]
    ) -> dict[Pair, float]:
        """Where on its edge a box's arrows begin or end: side by side, in the order of where they lead."""
        ports = {}
        for name in self.sizes:
            near = sorted(neighbours[name], key=lambda other: middles[other])
            step = min(26.0, self._width(name) * 0.7 / max(len(near), 1))
            for at, other in enumerate(near):
                ports[name, other] = middles[name] + (at - (len(near) - 1) / 2) * step
        return ports


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _curve(points: list[Point]) -> str:
    (x, y), *others = points
    path = [f"M{x:.1f},{y:.1f}"]
    for next_x, next_y in others:
        bend = (next_y - y) / 2
        path.append(
            f"C{x:.1f},{y + bend:.1f} {next_x:.1f},{next_y - bend:.1f} {next_x:.1f},{next_y:.1f}"
        )
        x, y = next_x, next_y
    return " ".join(path)
