"""95 % intervals (Wilson, by group), and sample sizes for a stated bound; the unit is the group.

Photos of one group (near-duplicates, one burst, one video) are not independent. Proportions use
Wilson's interval (1927) with Kish's effective sample size (1965). Averages use a cluster-robust
variance. That of the calibration error is in calibration_error.py. Bounds on an error rate at a chosen
threshold are exact order statistics (Wilks 1941). tests/evaluation/test_coverage.py
simulates how often each interval contains the true value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]
Metric: TypeAlias = dict[str, Any]

Z = 1.959963984540054
STUDENT_T = {
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
ROUNDING = 1e-20  # of the squared sum of influences: below it a variance is rounding error
NO_VARIANCE = "no two independent photos differ"
CONFIDENCE = 0.95  # of a bound that `allowed_errors` proves


def metric(value: float, low: float, high: float) -> Metric:
    """A value with its 95 % interval, ready for JSON, rounded to six decimals."""
    return {"value": round(float(value), 6), "low": round(float(low), 6), "high": round(float(high), 6)}


def missing(reason: str, value: float | None = None) -> Metric:
    """A value without an interval, or neither, and the reason."""
    rounded = None if value is None else round(float(value), 6)
    return {"value": rounded, "low": None, "high": None, "reason": reason}


def effective_photos(keys: Ints, groups: Ints, count: int) -> Floats:
    """Kish's effective sample size of each key, shape (count,): (sum of sizes)² / sum of sizes².

    `keys` (n,) are integers below `count`, `groups` (n,) are group numbers. A size is the number of
    photos of one group with one key. Groups of equal size give the number of groups (Kish 1965).
    A key without photos gives 0.
    """
    if not len(keys):
        return np.zeros(count)
    span = int(groups.max()) + 1
    cells, sizes = np.unique(keys * span + groups, return_counts=True)
    owners = cells // span
    total = np.bincount(owners, sizes, count)
    squares = np.bincount(owners, sizes.astype(np.float64) ** 2, count)
    return np.asarray(total**2 / np.maximum(squares, 1.0))


def independent_photos(groups: Ints) -> int:
    """The effective sample size of photos in these groups (n,), n ≥ 1, rounded down; at least 1."""
    return int(effective_photos(np.zeros(len(groups), np.int64), groups, 1)[0])


def group_weights(groups: Ints) -> Floats:
    """Weights (n,) of photos such that each of the groups (n,) has a total weight of 1."""
    owners = np.unique(groups, return_inverse=True)[1]
    return np.asarray(1 / np.bincount(owners)[owners])


def wilson(share: npt.ArrayLike, photos: npt.ArrayLike, z: float = Z) -> tuple[Floats, Floats]:
    """Wilson's interval (1927) for a proportion among so many independent photos: low and high."""
    p, n = np.asarray(share, np.float64), np.maximum(np.asarray(photos, np.float64), 1e-9)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return np.clip(centre - half, 0.0, p), np.clip(centre + half, p, 1.0)


def share(hits: float, photos: float, effective: float, reason: str) -> Metric:
    """hits / photos with its interval; the reason instead when there are no photos."""
    if not photos:
        return missing(reason)
    low, high = wilson(hits / photos, effective)
    return metric(hits / photos, float(low), float(high))


def clustered_variance(influence: Floats, groups: Ints, freedom: float = 1.0) -> tuple[float, float]:
    """The cluster-robust variance of an estimate, and the t quantile of its 95 % interval.

    `influence` (n,) is each photo's influence on the estimate; it sums to zero. It is summed within
    groups first. The degrees of freedom are the number of groups that carry the variance, (sum of
    squares)² / sum of fourth powers (Satterthwaite 1946), at least 2: the whole variance of a good
    classifier may come from a few mistakes. They are multiplied by `freedom`.
    """
    sums = np.bincount(groups, influence) ** 2
    total = float(sums.sum())
    if total <= ROUNDING * float(np.abs(influence).sum()) ** 2:
        return 0.0, Z
    carriers = freedom * max(2.0, total**2 / float((sums**2).sum()))
    reach = np.interp(1 / carriers, [1 / k for k in reversed(STUDENT_T)], list(reversed(STUDENT_T.values())))
    return total * len(sums) / max(len(sums) - 1, 1), float(reach)


def significantly_positive(gains: Floats, groups: Ints) -> bool:
    """Whether the 95 % interval of the mean of gains (n,), clustered by groups (n,), lies above 0.

    False for photos of one group.
    """
    mean, owners = float(gains.mean()), np.unique(groups, return_inverse=True)[1]
    variance, reach = clustered_variance((gains - mean) / len(gains), owners)
    return bool(owners.any()) and mean > reach * variance**0.5


def rate(value: float, influence: Floats, groups: Ints, effective: float, freedom: float = 1.0) -> Metric:
    """A value between 0 and 1 with Wilson's interval, at the sample size that matches its variance.

    Without variance, as in a set without mistakes, the sample size is `effective`. `freedom` is that of
    `clustered_variance`.
    """
    variance, reach = clustered_variance(influence, groups, freedom)
    if variance > 0 and 0 < value < 1:
        effective = value * (1 - value) / variance
    low, high = wilson(value, effective, reach)
    return metric(value, float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979): below a level, with that chance of any false one."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [1.0] * len(p_values), 0.0
    for place, number in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * p_values[number]))
        adjusted[number] = highest
    return adjusted


def positive(value: float, influence: Floats, groups: Ints) -> Metric:
    """A value above 0 with an interval that is symmetric on the log scale."""
    variance, reach = clustered_variance(influence, groups)
    if not variance > 0 or not value > 0:
        return missing(NO_VARIANCE, value)
    factor = float(np.exp(min(reach * variance**0.5 / value, 700.0)))
    return metric(value, value / factor, value * factor)


def binomial_tails(trials: int, probability: float) -> Floats:
    """P(Binomial(trials, probability) >= k) for k = 0, 1, … until negligible; 0 < probability < 1."""
    mean = trials * probability
    top = min(trials, int(mean + 12 * math.sqrt(mean) + 20))
    k = np.arange(top)
    ratios = np.log((trials - k) / (k + 1)) + math.log(probability) - math.log1p(-probability)
    densities = np.exp(np.append(0.0, np.cumsum(ratios)) + trials * math.log1p(-probability))
    return np.asarray(np.maximum(1 - np.append(0.0, np.cumsum(densities)), 0.0))


def binomial_quantile(trials: float, probability: float, tail: float) -> float:
    """The count k with P(Binomial(trials, probability) >= k) = tail, interpolated between integers.

    It is the rank of the order statistic beyond which a share `probability` of the population lies at
    most, with probability `tail`. Below 1 where no order statistic is far enough out.
    """
    tails = binomial_tails(max(1, int(trials)), probability)
    return float(np.interp(-tail, -tails, np.arange(len(tails))))


def allowed_errors(groups: int, rate: float, confidence: float = CONFIDENCE) -> int | None:
    """How many of so many independent groups may err so that the true rate is at most `rate`.

    The threshold is an order statistic of the groups' scores, so the true error rate at it has a Beta
    distribution, whatever the scores are (Wilks 1941): the bound holds with this confidence although
    the threshold was chosen on the same groups. None when even 0 errors do not prove it.
    """
    if rate >= 1:
        return groups
    if rate <= 0 or not groups:
        return None
    proven = int((binomial_tails(groups, rate)[1:] >= confidence).sum())
    return proven - 1 if proven else None


def groups_needed(rate: float, confidence: float = CONFIDENCE) -> int | None:
    """How many independent groups without an error prove a rate of at most `rate`; None for a rate of 0."""
    if rate <= 0:
        return None
    return 1 if rate >= 1 else math.ceil(math.log(1 - confidence) / math.log1p(-rate))
