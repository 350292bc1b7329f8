"""Surfaces of one size: how large each must be where a device wants all of a side equal.

mechramc/Orion saw an M4 Max refuse a program (status 0x1d) whose inputs, or whose outputs, were not
all of one size. A surface stands on several sides, of its maker and of its readers, so a large one
makes all those large that it meets, and those that they meet.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def level(sides: Iterable[Sequence[T]], sizes: Mapping[T, int]) -> dict[T, int]:
    """The size that each of `sizes` must have for all of each side to be equal; none shrinks."""
    parent = {x: x for x in sizes}

    def root(x: T) -> T:
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    for side in sides:
        for x in side[1:]:
            parent[root(x)] = root(side[0])
    largest: dict[T, int] = {}
    for x, size in sizes.items():
        largest[root(x)] = max(size, largest.get(root(x), 0))
    return {x: largest[root(x)] for x in sizes}
