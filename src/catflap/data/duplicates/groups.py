"""Groups of photos that show the same: confirmed near-duplicates, joined, and kept from swallowing the set.

A pair that the hashes suggest counts only when the small pictures are alike too (phash.likeness).
Confirmed pairs are joined through each other, so a chain of frames stays together. A group of more
than max(100, a thousandth of all photos) is suspicious: within it, and only there, the demanded
likeness rises step by step until its pieces are small enough. What is alike to the last step stays together
whatever its size: those are copies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.artifacts.dataset import Positions
from catflap.data.duplicates.pairs import Hashes, near_pairs
from catflap.data.duplicates.phash import MIRROR, likeness, mirror_thumbs
from catflap.image import Pixels

Thumbs: TypeAlias = Callable[[Positions], Pixels]

NEAR = 6  # bits in which the hashes may differ
ALIKE = 0.92  # what confirms a pair; resized, re-encoded or 2 % cropped copies reach 0.95
STRICTER = (0.95, 0.98)  # for groups that grew too large
LARGE = 100
LARGE_SHARE = 1000
PAIRS = 1 << 16  # confirmed at a time


@dataclass(frozen=True)
class Pairs:
    """Confirmed near-duplicates: positions (n,), the smaller first, and how alike they are (n,)."""

    first: Positions
    second: Positions
    alike: npt.NDArray[np.float32]


def confirmed_pairs(hashes: Hashes, thumbs: Thumbs) -> Pairs:
    """Near-duplicates among photos with these hashes, plain or mirrored.

    `thumbs` gives the small pictures at sorted positions, uint8 (n, 256); it is asked once,
    for the photos that some hash suggests.
    """
    first, second, mirrored = near_pairs(hashes, NEAR, mirror=MIRROR)
    involved = np.unique(np.concatenate([first, second]))
    pictures = thumbs(involved)
    one, other = np.searchsorted(involved, first), np.searchsorted(involved, second)
    alike = np.empty(len(first), dtype=np.float32)
    for start in range(0, len(first), PAIRS):
        part = slice(start, start + PAIRS)
        turned = np.where(mirrored[part, None], mirror_thumbs(pictures[other[part]]), pictures[other[part]])
        alike[part] = likeness(pictures[one[part]], turned)
    sure = alike >= ALIKE
    return Pairs(first[sure], second[sure], alike[sure])


def bounded_groups(count: int, pairs: Pairs) -> tuple[Positions, int]:
    """The group of each of `count` photos, named by its first position, and how many chains were cut."""
    chained = group = joined(count, pairs.first, pairs.second)
    limit = max(LARGE, count // LARGE_SHARE)
    kept = np.ones(len(pairs.first), dtype=bool)
    for demanded in STRICTER:
        large = np.bincount(group, minlength=count) > limit
        if not large.any():
            break
        kept &= ~large[group[pairs.first]] | (pairs.alike >= demanded)
        group = joined(count, pairs.first[kept], pairs.second[kept])
    return group, len(np.unique(chained[chained != group]))


def joined(count: int, first: Positions, second: Positions) -> Positions:
    """The smallest position that each position is connected with through pairs, shape (count,)."""
    root = np.arange(count)
    while True:
        one, other = root[first], root[second]
        low, high = np.minimum(one, other), np.maximum(one, other)
        apart = low != high
        if not apart.any():
            return root
        first, second = first[apart], second[apart]
        np.minimum.at(root, high[apart], low[apart])
        while not np.array_equal(above := root[root], root):
            root = above
