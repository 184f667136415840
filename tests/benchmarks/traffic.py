"""The orders of a run and the order of their events: the same for every variant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from uuid import UUID

__all__ = ["AMOUNT", "EVENTS_PER_ORDER", "interleaved", "order_ids"]

EVENTS_PER_ORDER = 3
AMOUNT = 990


def order_ids(seed: str, number: int) -> list[UUID]:
    """Order ids that look random and are the same for the same seed."""
    random = Random(seed)
    return [UUID(int=random.getrandbits(128), version=4) for _ in range(number)]


def interleaved(orders: Sequence[UUID], block: int) -> Iterator[tuple[UUID, int]]:
    """Every event as order and sequence number: all first events of a block, all second ones, …"""
    for start in range(0, len(orders), block):
        for sequence in range(1, EVENTS_PER_ORDER + 1):
            for order in orders[start : start + block]:
                yield order, sequence
