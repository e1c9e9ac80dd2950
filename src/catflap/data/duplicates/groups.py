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
from catflap.data.duplicates.pairs import Hashes, near_hashes
from catflap.data.duplicates.phash import MIRROR, likeness, mirror_thumbs
from catflap.image import Pixels

Thumbs: TypeAlias = Callable[[Positions], Pixels]

NEAR = 6  # bits in which the hashes may differ
CONFIRMED = 0.92  # what confirms a pair; resized, re-encoded or 2 % cropped copies reach 0.95
STRICTER = (0.95, 0.98)  # for groups that grew too large
LARGE = 100
LARGE_SHARE = 1000
PAIRS = 1 << 14  # confirmed at a time


@dataclass(frozen=True)
class Pairs:
    """Confirmed near-duplicates: positions (n,), the smaller first, and how alike they are (n,)."""

    first: Positions
    second: Positions
    alike: npt.NDArray[np.float32]

    def take(self, places: npt.NDArray[np.integer | np.bool_]) -> Pairs:
        """The pairs at some places."""
        return Pairs(self.first[places], self.second[places], self.alike[places])


def confirmed_pairs(hashes: Hashes, thumbs: Thumbs) -> Pairs:
    """Near-duplicates among photos with these hashes, plain or mirrored; of n photos n - 1 pairs at most.

    Where photos are joined through others at each likeness that may be demanded, further pairs of them
    say nothing new: they are not kept, nor judged once the strictest likeness joins them.
    `thumbs` gives the small pictures at sorted positions, uint8 (n, 256); it is asked once,
    for the photos that some hash suggests.
    """
    near = near_hashes(hashes, NEAR, mirror=MIRROR)
    suggested = np.zeros(len(hashes), dtype=bool)
    for first, second, _ in near.blocks():
        suggested[first] = suggested[second] = True
    involved = np.flatnonzero(suggested)
    number, pictures = np.cumsum(suggested) - 1, thumbs(involved)
    root, waiting = np.arange(len(involved)), 0
    kept = [Pairs(root[:0], root[:0], np.empty(0, np.float32))]
    for first, second, mirrored in near.blocks():
        for start in range(0, len(first), PAIRS):
            part = slice(start, start + PAIRS)
            one, other = number[first[part]], number[second[part]]
            new = root[one] != root[other]
            kept.append(_judged(one[new], other[new], mirrored[part][new], pictures))
            waiting += len(kept[-1].first)
            if waiting >= len(involved):
                kept, root, waiting = *_telling(len(involved), kept), 0
    (pairs,), _ = _telling(len(involved), kept)
    return Pairs(involved[pairs.first], involved[pairs.second], pairs.alike)


def _judged(first: Positions, second: Positions, mirrored: npt.NDArray[np.bool_], pictures: Pixels) -> Pairs:
    """Those of suggested pairs that the small pictures confirm."""
    other = pictures[second]
    other[mirrored] = mirror_thumbs(other[mirrored])
    alike = likeness(pictures[first], other)
    return Pairs(first, second, alike).take(alike >= CONFIRMED)


def _telling(count: int, found: list[Pairs]) -> tuple[list[Pairs], Positions]:
    """The pairs that tell who is joined at each likeness, in one piece, and who is at the strictest."""
    first, second = (np.concatenate([getattr(part, name) for part in found]) for name in ("first", "second"))
    pairs = Pairs(first, second, np.concatenate([part.alike for part in found]))
    root, roots, kept = np.arange(count), [], []
    for lowest in (*reversed(STRICTER), CONFIRMED):
        here = np.flatnonzero(pairs.alike >= lowest)
        kept.append(here[_join(root, first[here], second[here])])
        roots.append(root.copy())
    return [pairs.take(np.concatenate(kept))], roots[0]


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
    _join(root, first, second)
    return root


def _join(root: Positions, first: Positions, second: Positions) -> Positions:
    """Join what pairs connect: `root` then names the smallest position; returns the pairs that it took."""
    places, last = np.arange(len(first)), np.empty_like(root)
    taken: list[Positions] = []
    while True:
        one, other = root[first], root[second]
        low, high = np.minimum(one, other), np.maximum(one, other)
        apart = low != high
        if not apart.any():
            return np.concatenate([*taken, places[:0]])
        first, second, places, low, high = (part[apart] for part in (first, second, places, low, high))
        np.minimum.at(root, high, low)
        joins = root[high] == low
        last[high[joins]] = places[joins]
        taken.append(places[joins][last[high[joins]] == places[joins]])  # one for each that was joined
        while not np.array_equal(above := root[root], root):
            root[:] = above
