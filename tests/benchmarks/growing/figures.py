"""A measured figure with its goal, and the sizes of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Figure", "Sizes"]


@dataclass(frozen=True)
class Sizes:
    """How large the parts are; ``quick`` divides what is not given."""

    instances: int = 1_000_000
    quick: bool = False

    def __call__(self, number: int) -> int:
        """A part's own size, or a twentieth of it."""
        return max(1, number // 20) if self.quick else number


@dataclass(frozen=True)
class Figure:
    """One figure; a goal is a lower or an upper bound."""

    part: str
    title: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    def line(self) -> str:
        """For people."""
        value = f"{self.value:,.{0 if self.value >= 1000 else 2}f} {self.unit}".rstrip()
        return f"{self.part:7} {self.title:58} {value:>20}  {self._verdict()}".rstrip()

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "reached": self.reached}

    def _verdict(self) -> str:
        if self.reached is None:
            return ""
        sign, bound = ("≥", self.at_least) if self.at_most is None else ("≤", self.at_most)
        return f"goal {sign} {bound:g}: {'reached' if self.reached else 'missed'}"
