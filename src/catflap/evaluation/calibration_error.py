"""The expected calibration error (ECE, Guo et al. 2017), and its 95 % interval by inverting a test.

The estimand is the ECE of the population in 15 fixed bins of the highest probability: the sum over bins of
|P(right, bin) - E(probability, bin)|. That of a sample is larger: noise in a bin adds to its absolute gap,
whatever its sign. So bootstraps of it miss the true value (Kumar, Liang and Ma 2019). A value is in the
interval here if samples of a population with that ECE would often be as far from it as this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from catflap.evaluation.intervals import (
    NO_VARIANCE,
    Flags,
    Floats,
    Ints,
    Metric,
    Z,
    metric,
    missing,
    wilson,
)

CALIBRATION_BINS = 15
DRAWS = 1000  # samples of each population
HALVINGS = 26  # of the search for an end at most
PRECISION = 0.002  # of an end at which its search ends
FARTHEST = 1000.0  # z at which Wilson's interval is 0 to 1
TAIL = 0.025
MAX_SKEW = 3.0  # of a sum of mistakes in a bin; the transformation below is worse beyond
NOISY = 2.0  # standard errors below which a gap may be noise


def calibration_bins(confidence: Floats) -> Ints:
    """The bin (n,) of each highest probability (n,): 15 of equal width, open below and closed above."""
    bins = np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1
    return np.asarray(np.clip(bins, 0, CALIBRATION_BINS - 1))


def expected_calibration_error(probabilities: Floats, labels: Ints) -> float:
    """The expected calibration error of probabilities (n, classes) for labels (n,), without an interval."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    gaps = np.bincount(calibration_bins(confidence), right - confidence, CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / max(len(labels), 1))


def calibration_error(confidence: Floats, right: Flags, groups: Ints, seed: int = 0) -> Metric:
    """The ECE with its 95 % interval, from the highest probabilities (n,), which were right, and groups (n,).

    Each end is the farthest ECE that a one-sided test accepts. Where a sample's ECE cannot lie below that
    of the population, the whole 5 % is on the other side. The interval always holds the sample's own ECE.
    """
    if not len(confidence):
        return missing("no photos")
    bins = _count_bins(confidence, right, groups)
    value = float(np.abs(bins.gaps).sum())
    if len(np.unique(groups)) < 2:
        return missing(NO_VARIANCE, value)
    random = np.random.default_rng(seed)
    factor = _factor(bins.overlap)
    noise, mass = (random.standard_normal((DRAWS, len(factor))) @ factor.T for _ in range(2))

    def accepts(upper: bool) -> Callable[[float], bool]:
        def accepted(shift: float) -> bool:
            gaps, accuracy = bins.population(shift, upper)
            error, drawn = float(np.abs(gaps).sum()), bins.sample(accuracy, noise, mass)
            if upper:
                return float((drawn <= value + 1e-12).mean()) >= TAIL
            below = min(TAIL, float((drawn < error).mean()))
            return float((drawn >= value - 1e-12).mean()) >= 2 * TAIL - below

        return accepted

    low, high = (
        float(np.abs(bins.population(_last(accepts(upper)), upper)[0]).sum()) for upper in (False, True)
    )
    return metric(value, min(low, value), min(1.0, max(high, value)))


def _last(accepted: Callable[[float], bool]) -> float:
    """The largest shift from 0 to FARTHEST that is accepted, by halving."""
    low, high = 0.0, FARTHEST
    if accepted(high):
        return high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if accepted(middle) else (low, middle)
        if high - low < PRECISION * high:
            break
    return low


@dataclass(frozen=True)
class _Bins:
    """The bins with photos, (b,) each: share of the photos, their accuracy and mean probability.

    `photos` is Kish's effective sample size, `overlap` (b, b) the correlation of two bins' noise, as groups
    have photos in both, and `size_skew` the skewness of a bin's noise that is due to unequal group sizes.
    """

    shares: Floats
    accuracy: Floats
    confidence: Floats
    photos: Floats
    overlap: Floats
    size_skew: Floats

    @property
    def gaps(self) -> Floats:
        """The signed contributions to the ECE."""
        return self.shares * (self.accuracy - self.confidence)

    @property
    def errors(self) -> Floats:
        """Standard errors of the gaps, of bins that are calibrated or as measured: the larger one."""
        worst = np.maximum(self.accuracy * (1 - self.accuracy), self.confidence * (1 - self.confidence))
        return np.asarray(self.shares * np.sqrt(np.maximum(worst, 1e-12) / self.photos))

    def population(self, shift: float, upper: bool) -> tuple[Floats, Floats]:
        """Gaps and accuracies of a population with a smaller (or larger, `upper`) ECE than the sample.

        `shift` says how much. Each bin moves within its Wilson interval, those with more noise farther, as
        the likeliest population of a given ECE has it. Gaps that may be noise are drawn together, since of
        measured ones some are too large by chance and some too small.
        """
        errors = self.errors
        z = shift * errors / errors.max()
        low, high = wilson(self.accuracy, self.photos, np.minimum(z, Z) if upper else z)
        if upper:
            is_high = np.abs(high - self.confidence) >= np.abs(low - self.confidence)
            accuracy = np.where(is_high, high, low)
        else:
            accuracy = np.clip(self.confidence, low, high)
        gaps = self.shares * (accuracy - self.confidence)
        near = 1 / (1 + (np.abs(gaps) / errors / NOISY) ** 4)
        mean = (np.abs(gaps) * near).sum() / (errors * near).sum()
        signs = np.where(gaps == 0, np.sign(self.gaps), np.sign(gaps))
        gaps = gaps + (1.0 if upper else 0.5) * near * (errors * mean * signs - gaps)
        accuracy = np.clip(self.confidence + gaps / self.shares, 0, 1)
        return self.shares * (accuracy - self.confidence), accuracy

    def sample(self, accuracy: Floats, noise: Floats, mass: Floats) -> Floats:
        """The ECE of samples (draws,) of a population, from normal numbers (draws, b).

        `noise` moves the accuracy of the bins and `mass` how many photos they have. Numbers of mistakes are
        skewed: noise has their skewness by the transformation of Wilson and Hilferty (1931).
        """
        variance = accuracy * (1 - accuracy)
        skew = np.clip(
            (1 - 2 * accuracy) / np.sqrt(np.maximum(variance, 1e-6)) * self.size_skew, -MAX_SKEW, MAX_SKEW
        )
        skew = np.where(np.abs(skew) < 1e-3, 1e-3, skew)
        root = np.maximum(1 - skew**2 / 36 + skew / 6 * noise, 0)
        skewed = (2 / skew) * (root * root * root - 1)  # a power of 3 takes four times as long
        more = mass / np.sqrt(self.photos)
        right = np.clip(accuracy + skewed * np.sqrt(variance / self.photos), 0, 1)
        seen = np.abs(right - self.confidence) * np.maximum(1 + more, 0)
        return np.asarray((seen @ self.shares) / np.maximum(1 + more @ self.shares, 0.1))


def _count_bins(confidence: Floats, right: Flags, groups: Ints) -> _Bins:
    every, owners = calibration_bins(confidence), np.unique(groups, return_inverse=True)[1]
    filled, bins = np.unique(every, return_inverse=True)
    k = len(filled)
    sizes = np.bincount(owners * k + bins, minlength=(int(owners.max()) + 1) * k).reshape(-1, k)
    sizes = sizes.astype(np.float64)
    together, total = sizes.T @ sizes, sizes.sum(axis=0)
    squares = np.diag(together)
    return _Bins(
        shares=total / len(confidence),
        accuracy=np.bincount(bins, right, k) / total,
        confidence=np.bincount(bins, confidence, k) / total,
        photos=total**2 / squares,
        overlap=together / np.sqrt(np.outer(squares, squares)),
        size_skew=(sizes**3).sum(axis=0) / squares**1.5,
    )


def _factor(correlation: Floats) -> Floats:
    """A matrix F with F Fᵀ = the correlation, which may be singular."""
    values, vectors = np.linalg.eigh(correlation)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))
