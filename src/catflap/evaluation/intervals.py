"""How far a measured number can be trusted: 95 % intervals that count groups, not photos.

Photos of one group (near-duplicates, one burst, one video) are not independent. Shares use
Wilson's interval (1927) with Kish's effective sample size (1965); numbers made of many photos
use a variance summed over groups; only the calibration error needs the bootstrap over groups
(Efron 1979). How well each one covers the truth is simulated in tests/evaluation/test_coverage.py.
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
STUDENT = {
    1: 12.706205,
    2: 4.302653,
    3: 3.182446,
    4: 2.776445,
    5: 2.570582,
    6: 2.446912,
    8: 2.306004,
    10: 2.228139,
    15: 2.131450,
    30: 2.042272,
    60: 2.000298,
    10**9: Z,
}
DRAWS_AT_ONCE = 4_000_000
NOISE = 1e-20  # of the square of all that moves a number: what rounding leaves of sums that are zero
NO_TWO_DIFFER = "there are not two independent photos that differ"


def metric(value: float, low: float, high: float) -> Metric:
    """A number with its 95 % interval as it stands in JSON, to six decimals."""
    return {"value": round(float(value), 6), "low": round(float(low), 6), "high": round(float(high), 6)}


def missing(reason: str, value: float | None = None) -> Metric:
    """A number, or its interval only, that the photos cannot give, and why."""
    rounded = None if value is None else round(float(value), 6)
    return {"value": rounded, "low": None, "high": None, "reason": reason}


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


def independent(groups: Ints) -> int:
    """How many independent photos these are, by the groups (n,) they are of, n ≥ 1; 1 at least."""
    return int(effective_photos(np.zeros(len(groups), np.int64), groups, 1)[0])


def once(groups: Ints) -> Floats:
    """How much each photo weighs, (n,), where each of the groups (n,) weighs as one photo."""
    owners = np.unique(groups, return_inverse=True)[1]
    return np.asarray(1 / np.bincount(owners)[owners])


def wilson(share: npt.ArrayLike, photos: npt.ArrayLike, z: float = Z) -> tuple[Floats, Floats]:
    """The low and high end of a share among so many independent photos (Wilson 1927)."""
    p, n = np.asarray(share, np.float64), np.maximum(np.asarray(photos, np.float64), 1e-9)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return np.clip(centre - half, 0.0, p), np.clip(centre + half, p, 1.0)


def share(hits: float, photos: float, effective: float, reason: str) -> Metric:
    """hits / photos with its interval, or the reason when there are no photos."""
    if not photos:
        return missing(reason)
    low, high = wilson(hits / photos, effective)
    return metric(hits / photos, float(low), float(high))


def spread(pull: Floats, groups: Ints) -> tuple[float, float]:
    """The variance of a number and how many standard errors its 95 % interval reaches.

    `pull` (n,) is how far each photo moves the number, summing to zero: its influence. The
    variance sums it within groups first. The reach is Student's t with as many degrees of freedom
    as there are groups that carry the variance, (sum of squares)² / sum of fourth powers
    (Satterthwaite 1946), but at least 2: a few mistakes make a good classifier's whole variance.
    """
    sums = np.bincount(groups, pull) ** 2
    total = float(sums.sum())
    if total <= NOISE * float(np.abs(pull).sum()) ** 2:
        return 0.0, Z
    carriers = max(2.0, total**2 / float((sums**2).sum()))
    reach = np.interp(1 / carriers, [1 / k for k in reversed(STUDENT)], list(reversed(STUDENT.values())))
    return total * len(sums) / max(len(sums) - 1, 1), float(reach)


def beyond_chance(gains: Floats, groups: Ints) -> bool:
    """Whether the 95 % interval of the mean of gains (n,), of as many photos in `groups`, lies above 0.

    Photos of one group show nothing.
    """
    mean, owners = float(gains.mean()), np.unique(groups, return_inverse=True)[1]
    variance, reach = spread((gains - mean) / len(gains), owners)
    return bool(owners.any()) and mean > reach * variance**0.5


def rate(value: float, pull: Floats, groups: Ints, effective: float) -> Metric:
    """A number between 0 and 1 with Wilson's interval, at the photos that its variance is worth.

    `effective` photos stand in where nothing varies, as in a set without a mistake.
    """
    variance, reach = spread(pull, groups)
    if variance > 0 and 0 < value < 1:
        effective = value * (1 - value) / variance
    low, high = wilson(value, effective, reach)
    return metric(value, float(low), float(high))


def positive(value: float, pull: Floats, groups: Ints) -> Metric:
    """A number above 0 with an interval that is symmetric in its logarithm."""
    variance, reach = spread(pull, groups)
    if not variance > 0 or not value > 0:
        return missing(NO_TWO_DIFFER, value)
    factor = float(np.exp(min(reach * variance**0.5 / value, 700.0)))
    return metric(value, value / factor, value * factor)


def resamples(groups: int, seed: int) -> Iterator[Floats]:
    """Bootstrap weights in pieces (some rounds, groups): how often each group is drawn.

    There are 1,000 rounds; above 200,000 groups fewer, at least 200, so that it takes seconds.
    """
    generator = np.random.default_rng(seed)
    rounds = min(1000, max(200, 200_000_000 // max(groups, 1)))
    step = max(1, DRAWS_AT_ONCE // max(groups, 1))
    for start in range(0, rounds, step):
        here = min(step, rounds - start)
        drawn = generator.integers(0, groups, (here, groups))
        drawn += np.arange(here)[:, None] * groups
        yield np.bincount(drawn.ravel(), minlength=here * groups).reshape(here, groups).astype(np.float64)
