"""Photos that show the same picture, under one label or under two."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from catflap.artifacts.dataset import Positions
from catflap.data.duplicates.groups import NEAR
from catflap.data.duplicates.pairs import Hashes, near_pairs
from catflap.data.duplicates.phash import MIRROR


def mixed(labels: npt.NDArray[np.int64], groups: npt.NDArray[np.int64]) -> Positions:
    """The positions of all photos whose group holds more than one label; group -1 is none."""
    member = np.flatnonzero(groups >= 0)
    _, group = np.unique(groups[member], return_inverse=True)
    count = int(group.max(initial=-1)) + 1
    least, most = np.full(count, np.iinfo(np.int64).max), np.full(count, -1, np.int64)
    np.minimum.at(least, group, labels[member])
    np.maximum.at(most, group, labels[member])
    found: Positions = member[(least != most)[group]]
    return found


def same_picture(groups: npt.NDArray[np.int64], hashes: Hashes) -> tuple[Positions, Positions]:
    """Pairs of positions, the smaller first, of photos that show the same; takes (n,) each.

    A group may also hold what a user put together, such as the frames of a video, so only photos
    of a group whose perceptual hashes are near count.
    """
    if len(hashes) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    first, second, _ = near_pairs(hashes, NEAR, mirror=MIRROR)
    together = groups[first] == groups[second]
    return first[together], second[together]


def two_labels(
    labels: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], hashes: Hashes
) -> tuple[Positions, Positions]:
    """Pairs of positions of photos that show the same under different labels; takes (n,) each."""
    first, second = same_picture(groups, hashes)
    apart = labels[first] != labels[second]
    return first[apart], second[apart]
