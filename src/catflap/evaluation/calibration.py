"""What is fitted on the calibration role: the temperature, the field's prior, and when to be unsure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.errors import CatflapError
from catflap.evaluation.intervals import Floats, Ints, once
from catflap.runtime.decisions import correct_prior, softmax

AT_ONCE = 1 << 18  # logits that are looked at together: they stay in the processor's cache
COLDEST, HOTTEST = 0.05, 20.0
HALVINGS = 40
MOST_ROUNDS = 1000


def fit_temperature(
    logits: npt.ArrayLike, labels: npt.ArrayLike, groups: Ints | None = None, *, calibrated: bool = False
) -> float:
    """The number that logits (n, classes) are divided by so that probabilities match what is observed.

    It minimises the negative log-likelihood of the labels (n,) between 0.05 and 20 (Guo et al.
    2017). That function is convex in 1 / temperature, so its slope is bisected. Photos without a
    mistake would ask for certainty; then the mean stated error stays at 1 / (n + 2), which is all
    that n photos can show (Laplace's rule of succession). Without photos it is 1. Each of the `groups` (n,)
    weighs and counts as one photo, however many it has. `calibrated` logits are as sure as other
    photos have shown before: those without a mistake do not make them less sure.
    """
    scores, truth = np.asarray(logits), np.asarray(labels, np.int64)
    if not len(truth):
        return 1.0
    if not np.isfinite(scores).all():
        raise CatflapError("The model gave a value that is not a number.", "Train or export it again.")
    weights = np.ones(len(truth)) if groups is None else once(groups)
    photos, parts = weights.sum(), pieces(scores)
    highest = scores.max(axis=1, keepdims=True).astype(np.float64)
    of_truth = weights @ (scores[np.arange(len(truth)), truth] - highest[:, 0])

    def total(of_photos: Callable[[Floats], Floats]) -> float:
        """The weighted sum of what is told of each photo from its logits, of which the highest is 0."""
        return float(weights @ np.concatenate([of_photos(scores[at] - highest[at]) for at in parts]))

    def overconfident(temperature: float) -> bool:
        """The slope: the expected logit under the model is above the mean logit of the truth."""
        expected = total(lambda below: (softmax(below, temperature) * below).sum(axis=1))
        return bool(expected > of_truth)

    def too_sure(temperature: float) -> bool:
        stated = total(lambda below: 1 - softmax(below, temperature).max(axis=1)) / photos
        return bool(stated < 1 / (photos + 2))

    fitted = _bisect(overconfident)
    if not too_sure(fitted):
        return fitted
    cautious = _bisect(too_sure)
    return max(fitted, min(cautious, 1.0)) if calibrated else cautious


def pieces(logits: npt.NDArray[Any]) -> list[slice]:
    """Rows of logits (n, classes) that are looked at together, where all of them take time and memory."""
    rows = max(1, AT_ONCE // logits.shape[1])
    return [slice(begin, begin + rows) for begin in range(0, len(logits), rows)]


def estimate_prior(probabilities: npt.ArrayLike, trained: npt.ArrayLike) -> Floats:
    """The shares of the labels in the field, shape (classes,), from unlabelled photos of the field.

    `probabilities` (n, classes) are calibrated ones under the `trained` shares. Expectation
    maximisation of Saerens, Latinne and Decaestecker 2002, equation 2.9, until no share moves by
    1e-7. It assumes that only the shares differ between training and field.
    """
    given, before = np.asarray(probabilities, np.float64), np.asarray(trained, np.float64)
    now: Floats = before / before.sum()
    for _ in range(MOST_ROUNDS if len(given) else 0):
        after: Floats = np.maximum(correct_prior(given, before, now).mean(axis=0), 1e-12)
        after /= after.sum()
        if np.abs(after - now).max() < 1e-7:
            return after
        now = after
    return now


def conformal_threshold(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    error_rate: float,
    groups: Ints | None = None,
) -> float:
    """The threshold at which `decide` gives a wrong label for at most `error_rate` of new photos.

    Split conformal prediction with the least ambiguous sets (Sadinle, Lei and Wasserman 2019): the
    labels that reach the threshold contain the true one with probability 1 - `error_rate` or
    more, over calibration photos (n, classes) and a new photo drawn alike. It is never above 0.5:
    a lower threshold only makes sets larger, so the promise holds, and nothing that one label
    clearly wins becomes unsure. With `groups` (n,) the unit is the group and its worst photo.
    Fewer than 1 / `error_rate` - 1 units promise nothing: 0.0, which makes every photo unsure.
    """
    if not 0 < error_rate < 1:
        raise CatflapError(f"An error rate of {error_rate} is not possible.", "Use one between 0 and 1.")
    truth = np.asarray(labels, np.int64)
    scores = np.asarray(probabilities, np.float64)[np.arange(len(truth)), truth]
    if groups is not None and len(groups):
        order = np.lexsort((scores, groups))
        scores = scores[order][np.unique(np.asarray(groups)[order], return_index=True)[1]]
    rank = math.ceil((len(scores) + 1) * (1 - error_rate) - 1e-9)
    if rank > len(scores):
        return 0.0
    return min(0.5, float(np.sort(scores)[len(scores) - rank]))


def _bisect(too_cold: Callable[[float], bool]) -> float:
    """The temperature between the bounds at which `too_cold` turns false, in logarithmic halves."""
    low, high = math.log(COLDEST), math.log(HOTTEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if too_cold(math.exp(middle)) else (low, middle)
    return math.exp((low + high) / 2)
