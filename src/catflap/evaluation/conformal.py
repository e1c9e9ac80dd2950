"""Conformal thresholds of `unsure`, `unknown` and prediction sets, fitted on the calibration role.

Each holds for any model, on average over calibration sets and new photos that are exchangeable with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from catflap.runtime.decisions import TIE, check_error_rate

# Error rates that export tries, of which it takes the smallest that leaves at most MAX_UNSURE unsure.
ERROR_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
MAX_UNSURE = 0.1
SEPARATION = 1e-3  # in log odds, between a threshold and the highest probability below it


def conformal_bound(losses: npt.ArrayLike, rate: float, groups: npt.ArrayLike | None = None) -> float | None:
    """The bound that the loss of a new photo exceeds with a probability of at most `rate`, at 0 ≤ rate < 1.

    Split conformal prediction (Vovk et al. 2005) from the losses (n,) of calibration photos: (losses above
    + 1) / (n + 1) ≤ `rate`. With `groups` (n,) the unit is the group, by its worst photo. None for fewer than
    1 / `rate` - 1 units.
    """
    worst = np.asarray(losses, np.float64)
    if groups is not None:
        _, unit = np.unique(np.asarray(groups), return_inverse=True)
        photos, worst = worst, np.full(unit.max(initial=-1) + 1, -np.inf)
        np.maximum.at(worst, unit, photos)
    allowed = math.floor((len(worst) + 1) * rate + 1e-9) - 1
    return None if allowed < 0 else float(np.sort(worst)[-1 - min(allowed, len(worst) - 1)])


def risk_threshold(
    probabilities: npt.ArrayLike,
    truth: npt.ArrayLike,
    error_rate: float,
    groups: npt.ArrayLike | None = None,
) -> float | None:
    """The threshold at which `decide` gives a wrong label to at most `error_rate` of new photos.

    Conformal risk control (Angelopoulos et al. 2022) with the loss "a wrong label is decided": the smallest
    threshold t for which (wrong above t + 1) / (n + 1) ≤ `error_rate` on n calibration photos, whose
    probabilities are (n, labels) and labels `truth` (n,). The promise holds for any model, on average over
    calibration sets and new photos that are exchangeable with them. With `groups` (n,) the unit is the group,
    and its loss the share of its photos: each group weighs as one photo. None when no threshold keeps it, as
    with fewer than 1 / `error_rate` - 1 units.
    """
    check_error_rate(error_rate)
    rows = np.asarray(probabilities, np.float64)
    top = rows.max(axis=1)
    weights, units = _weights(len(rows), groups)
    allowed = (units + 1) * error_rate - 1 + 1e-9
    if allowed < 0:
        return None
    wrong = np.flatnonzero(rows.argmax(axis=1) != np.asarray(truth))
    wrong = wrong[np.argsort(-top[wrong], kind="stable")]
    unsure = top[wrong][np.cumsum(weights[wrong]) > allowed]
    highest = float(unsure[0]) if len(unsure) else 0.0
    highest = max(highest, 1 / rows.shape[1])  # the likeliest label's probability is never below that
    if highest >= 1 - 1e-9:
        return None
    # Just above the highest probability that must stay unsure; int8 steps and float32 do not reach across.
    return 1 / (1 + math.exp(-math.log(highest / (1 - highest)) - SEPARATION))


def risk_curve(
    probabilities: npt.ArrayLike,
    truth: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    rates: Iterable[float] = ERROR_RATES,
) -> list[dict[str, float]]:
    """The thresholds for several error rates, ascending, with the share of calibration photos left unsure.

    Rates that these photos cannot promise are left out. Each group weighs as one photo. Entries have
    `error_rate`, `threshold` and `unsure`.
    """
    top = np.asarray(probabilities, np.float64).max(axis=1)
    weights, units = _weights(len(top), groups)
    curve = []
    for rate in sorted(set(rates)):
        threshold = risk_threshold(probabilities, truth, rate, groups)
        if threshold is not None:
            unsure = float(weights[top < threshold].sum() / units)
            curve.append({"error_rate": rate, "threshold": threshold, "unsure": round(unsure, 6)})
    return curve


def _weights(photos: int, groups: npt.ArrayLike | None) -> tuple[npt.NDArray[np.float64], int]:
    """The weight of each photo, (n,), those of a group adding up to 1, and how many groups there are."""
    if groups is None:
        return np.ones(photos), photos
    _, unit, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    return 1 / sizes[unit], len(sizes)


def choose_error_rate(curve: Sequence[Mapping[str, float]]) -> float | None:
    """The smallest error rate of a risk curve at which at most a tenth is unsure, else the greatest.

    None when the curve is empty: so few photos promise nothing.
    """
    if not curve:
        return None
    return next(
        (each["error_rate"] for each in curve if each["unsure"] <= MAX_UNSURE), curve[-1]["error_rate"]
    )


def set_threshold(
    probabilities: npt.ArrayLike,
    truth: npt.ArrayLike,
    error_rate: float,
    groups: npt.ArrayLike | None = None,
) -> float | None:
    """The probability from which a label is in the prediction set, which misses at most `error_rate`.

    Split conformal prediction with the score 1 - p of the true label (Sadinle et al. 2019: the smallest sets
    on average): the set of a new photo holds its label with a probability of at least 1 - `error_rate`, for
    any model, on average over calibration sets and photos exchangeable with them. Arguments are those of
    `risk_threshold`; the unit is the group, by its worst photo. None for fewer than 1 / `error_rate` - 1.
    """
    check_error_rate(error_rate)
    rows, labels = np.asarray(probabilities, np.float64), np.asarray(truth)
    own = rows[np.arange(len(rows)), labels]
    bound = conformal_bound(-own, error_rate, groups)
    return None if bound is None else -bound * (1 - TIE)


def unknown_threshold(scores: npt.ArrayLike, groups: npt.ArrayLike, rate: float) -> float | None:
    """The OOD score above which a photo is unknown, so that at most `rate` of photos like these are.

    A conformal p-value (Vovk et al. 2005; Bates et al. 2023): a new group of photos is above the threshold
    with a probability of at most `rate`, on average over calibration sets; `scores` (n,) took no part in
    fitting what they measure. The unit is the group (n,), by its worst photo. None for fewer than
    1 / `rate` - 1 groups. NaN counts as typical.
    """
    values = np.nan_to_num(np.asarray(scores, np.float64), nan=0.0)
    bound = conformal_bound(values, rate, groups)
    return None if bound is None else bound + 1e-6
