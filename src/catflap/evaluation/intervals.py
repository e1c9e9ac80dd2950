"""How far a measured number can be trusted: 95 % intervals that count groups, not photos.

Photos of one group (near-duplicates, one burst, one video) are not independent. Shares use
Wilson's interval (1927) with Kish's effective sample size (1965); other numbers use the
bootstrap over groups (Efron 1979; Davison and Hinkley 1997, section 3.8).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Metric: TypeAlias = dict[str, Any]

Z = 1.959963984540054
DRAWS_AT_ONCE = 4_000_000


def metric(value: float, low: float, high: float) -> Metric:
    """A number with its 95 % interval as it stands in JSON, to six decimals."""
    return {"value": round(float(value), 6), "low": round(float(low), 6), "high": round(float(high), 6)}


def missing(reason: str) -> Metric:
    """A number that the photos cannot give, and why."""
    return {"value": None, "low": None, "high": None, "reason": reason}


def effective_photos(keys: Ints, groups: Ints, count: int) -> Floats:
    """How many independent photos each key has, shape (count,): (sum of sizes)² / sum of sizes².

    `keys` (n,) are numbers below `count`, `groups` (n,) numbers of groups; a size is the number of
    photos that a group has under a key. Equal groups give the number of groups (Kish 1965); 0
    where a key has no photo.
    """
    if not len(keys):
        return np.zeros(count)
    span = int(groups.max()) + 1
    cells, sizes = np.unique(keys * span + groups, return_counts=True)
    owners = cells // span
    total = np.bincount(owners, sizes, count)
    squares = np.bincount(owners, sizes.astype(np.float64) ** 2, count)
    return np.asarray(total**2 / np.maximum(squares, 1.0))


def wilson(share: npt.ArrayLike, photos: npt.ArrayLike) -> tuple[Floats, Floats]:
    """The low and high end of a share among so many independent photos (Wilson 1927)."""
    p, n = np.asarray(share, np.float64), np.maximum(np.asarray(photos, np.float64), 1e-9)
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return np.clip(centre - half, 0.0, p), np.clip(centre + half, p, 1.0)


def share(hits: float, photos: float, effective: float, reason: str) -> Metric:
    """hits / photos with its interval, or the reason when there are no photos."""
    if not photos:
        return missing(reason)
    low, high = wilson(hits / photos, effective)
    return metric(hits / photos, float(low), float(high))


def resamples(groups: int, seed: int, rounds: int = 1000) -> Iterator[Floats]:
    """Bootstrap weights in pieces (some rounds, groups): how often each group is drawn."""
    generator = np.random.default_rng(seed)
    step = max(1, DRAWS_AT_ONCE // max(groups, 1))
    for start in range(0, rounds, step):
        here = min(step, rounds - start)
        drawn = generator.integers(0, groups, (here, groups))
        drawn += np.arange(here)[:, None] * groups
        yield np.bincount(drawn.ravel(), minlength=here * groups).reshape(here, groups).astype(np.float64)
