"""The photos most like a photo, under a label: what a person compares a suspect with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catflap.artifacts.dataset import Positions
from catflap.training.heads.features import Features

POOL = 20_000  # photos that are looked among


@dataclass(frozen=True)
class Pool:
    """Photos to look among: their positions, labels and groups, (m,), and their directions, (m, width)."""

    positions: Positions
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    directions: Features


def make_pool(
    positions: Positions,
    features: Features,
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
) -> Pool:
    """A pool of photos at some positions; takes their features, labels and groups, (m, ...) each."""
    chosen = np.linspace(0, len(positions) - 1, min(POOL, len(positions))).astype(np.int64)
    return Pool(positions[chosen], labels[chosen], groups[chosen], _directions(features[chosen]))


def most_like(pool: Pool, feature: Features, label: int, group: int, count: int) -> list[int]:
    """The positions of the photos of a label that are most like one with this feature, (width,).

    Near-duplicates, which share its group, are not counted, and of each group one photo at most is.
    """
    able = np.flatnonzero((pool.labels == label) & (pool.groups != group))
    cosine = pool.directions[able] @ _directions(feature[None])[0]
    found: dict[int, int] = {}
    for place in able[np.argsort(-cosine, kind="stable")].tolist():
        found.setdefault(int(pool.groups[place]), int(pool.positions[place]))
        if len(found) == count:
            break
    return list(found.values())


def _directions(features: Features) -> Features:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    directions: Features = features / np.maximum(lengths, 1e-12)
    return directions
