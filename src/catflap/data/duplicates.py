"""Near-duplicates: pairs of hashes within a few bits of each other, confirmed and joined into groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Hashes: TypeAlias = npt.NDArray[np.uint64]
Positions: TypeAlias = npt.NDArray[np.int64]
Confirm: TypeAlias = Callable[[Positions, Positions], npt.NDArray[np.bool_]]

DISTANCE = 4


def near_pairs(hashes: Hashes, distance: int = DISTANCE) -> Iterator[tuple[Positions, Positions]]:
    """Blocks of pairs of positions (first < second) whose hashes differ in at most `distance` bits.

    Exact: of `distance + 1` bands of a hash at least one is equal in both (pigeonhole principle).
    A pair that several bands find is given once, by the first of them.
    """
    bands = _bands(distance + 1)
    for number, band in enumerate(bands):
        keys = hashes & band
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        for step in range(1, len(hashes)):
            same = np.flatnonzero(ordered[:-step] == ordered[step:])
            if not len(same):
                break
            one, other = order[same], order[same + step]
            difference = hashes[one] ^ hashes[other]
            near = np.bitwise_count(difference) <= distance
            for earlier in bands[:number]:
                near &= (difference & earlier) != 0
            one, other = one[near], other[near]
            yield np.minimum(one, other), np.maximum(one, other)


def groups_of(count: int, first: Positions, second: Positions) -> Positions:
    """The smallest position of each position's connected group, shape (count,)."""
    root = np.arange(count)
    while True:
        one, other = root[first], root[second]
        low, high = np.minimum(one, other), np.maximum(one, other)
        if np.array_equal(low, high):
            return root
        np.minimum.at(root, high, low)
        while not np.array_equal(root, root[root]):
            root = root[root]


def _bands(count: int) -> list[np.uint64]:
    edges = [64 * band // count for band in range(count + 1)]
    return [
        np.uint64(((1 << high) - 1) ^ ((1 << low) - 1)) for low, high in zip(edges, edges[1:], strict=False)
    ]
