"""Temperature, field prior and operating points, from calibration photos; for `unsure` see conformal.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.errors import CatflapError
from catflap.evaluation.intervals import (
    CONFIDENCE,
    Flags,
    Floats,
    Ints,
    Metric,
    allowed_errors,
    effective_photos,
    group_weights,
    groups_needed,
    metric,
    missing,
    share,
    wilson,
)
from catflap.runtime.decisions import correct_prior, softmax

CHUNK = 1 << 18  # logits per slice: they stay in the processor cache
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
PRIOR_PHOTOS = 50  # the weight of the prior that calibrated logits have the temperature 1
BISECTIONS = 40
MAX_ROUNDS = 1000


def fit_temperature(
    logits: npt.ArrayLike, labels: npt.ArrayLike, groups: Ints | None = None, *, calibrated: bool = False
) -> float:
    """The temperature that calibrates logits (n, classes) on the labels (n,).

    It minimises the negative log-likelihood between 0.05 and 20 (Guo et al. 2017). That function is
    convex in 1 / temperature, so its slope is bisected. Without a mistake the minimum would be at full
    certainty; then the mean stated error is kept at 1 / (n + 2), Laplace's rule of succession. 1.0
    without photos. Each of the `groups` (n,) has a total weight of 1. `calibrated` logits were
    calibrated on other photos before: a set without mistakes does not raise their temperature, and the
    others count as PRIOR_PHOTOS, so that one mistake among 50 photos does not multiply it.
    """
    scores, truth = np.asarray(logits), np.asarray(labels, np.int64)
    if not len(truth):
        return 1.0
    if not np.isfinite(scores).all():
        raise CatflapError("A logit is not finite.", "Train or export the model again.")
    weights = np.ones(len(truth)) if groups is None else group_weights(groups)
    photos, parts = weights.sum(), row_slices(scores)
    highest = scores.max(axis=1, keepdims=True).astype(np.float64)
    total_true_logit = weights @ (scores[np.arange(len(truth)), truth] - highest[:, 0])

    def total(of_photos: Callable[[Floats], Floats]) -> float:
        """The weighted sum over photos of a function of their logits, shifted so that the highest is 0."""
        return float(weights @ np.concatenate([of_photos(scores[at] - highest[at]) for at in parts]))

    def slope_positive(temperature: float) -> bool:
        """Whether the slope is positive: the expected logit exceeds the mean logit of the true label."""
        expected = total(lambda below: (softmax(below, temperature) * below).sum(axis=1))
        return bool(expected > total_true_logit)

    def overconfident_on_average(temperature: float) -> bool:
        stated = total(lambda below: 1 - softmax(below, temperature).max(axis=1)) / photos
        return bool(stated < 1 / (photos + 2))

    fitted = _bisect(slope_positive)
    if overconfident_on_average(fitted):
        smoothed = _bisect(overconfident_on_average)
        fitted = max(fitted, min(smoothed, 1.0)) if calibrated else smoothed
    if not calibrated or not 1.1 * MIN_TEMPERATURE < fitted < MAX_TEMPERATURE / 1.1:
        return fitted  # at a bound the labels are wrong, which the gate has to see
    return float(fitted ** (photos / (photos + PRIOR_PHOTOS)))


def row_slices(logits: npt.NDArray[Any]) -> list[slice]:
    """Slices of rows of logits (n, classes) that fit in the processor cache."""
    rows = max(1, CHUNK // logits.shape[1])
    return [slice(begin, begin + rows) for begin in range(0, len(logits), rows)]


def estimate_prior(probabilities: npt.ArrayLike, trained: npt.ArrayLike) -> Floats:
    """The label shares in the field, shape (classes,), from unlabelled photos of the field.

    `probabilities` (n, classes) are calibrated under the `trained` shares. Expectation maximisation
    (Saerens, Latinne and Decaestecker 2002, equation 2.9) until no share moves by 1e-7. It assumes
    that only the label shares differ between training and field.
    """
    given, before = np.asarray(probabilities, np.float64), np.asarray(trained, np.float64)
    now: Floats = before / before.sum()
    for _ in range(MAX_ROUNDS if len(given) else 0):
        after: Floats = np.maximum(correct_prior(given, before, now).mean(axis=0), 1e-12)
        after /= after.sum()
        if np.abs(after - now).max() < 1e-7:
            return after
        now = after
    return now


def prior_intervals(
    probabilities: npt.ArrayLike, trained: npt.ArrayLike, estimated: npt.ArrayLike
) -> list[Metric]:
    """What `estimate_prior` gave for n photos, each share with its 95 % interval, ready for JSON.

    The sandwich variance of the estimating equations in Wilson's form; for a share of less than half a photo
    the greatest one that makes these photos not less than 0.025 times as likely. It holds for independent
    photos and calibrated probabilities: photos of a burst make it wider.
    """
    given, before = np.asarray(probabilities, np.float64), np.asarray(trained, np.float64)
    shares, count = np.asarray(estimated, np.float64), len(given)
    if not count:
        return [missing("there are no photos") for _ in shares]
    inner = np.maximum(shares, 0.5 / count)
    inner /= inner.sum()
    ratios = given / before
    ratios /= (ratios @ inner)[:, None]  # the derivative of each photo's log likelihood by each share
    information = ratios.T @ ratios / count
    # On the plane where shares sum to 1: directions that leave the sum as it is.
    plane = np.linalg.svd(np.ones((1, len(shares))))[2][1:].T
    bread = np.linalg.pinv(plane.T @ information @ plane, hermitian=True)
    scores = (ratios - ratios.mean(axis=0)) @ plane @ bread @ plane.T
    variance = np.maximum((scores**2).mean(axis=0) / count, 1e-12)
    effective = np.minimum(inner * (1 - inner) / variance, count)
    low, high = wilson(shares, effective)
    for label in np.flatnonzero(shares < 0.5 / count):
        high[label] = max(
            float(shares[label]), _greatest_share(ratios[:, label] * inner[label], inner[label])
        )
    return [metric(*row) for row in zip(shares, low, high, strict=True)]


def _greatest_share(posterior: Floats, share: float) -> float:
    """The share at which photos with these posteriors (n,) at a small share are 0.025 times as likely."""
    evidence = posterior / share - (1 - posterior) / (1 - share)  # of the label over the rest, of the mixture

    def too_likely(share_then: float) -> bool:
        return bool(np.log1p((share_then - share) * evidence).sum() > math.log((1 - CONFIDENCE) / 2))

    low, high = share, 1.0 - 1e-9
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if too_likely(middle) else (low, middle)
    return high


def _bisect(too_cold: Callable[[float], bool]) -> float:
    """The temperature between the bounds at which `too_cold` turns false, by bisection on the log scale."""
    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if too_cold(math.exp(middle)) else (low, middle)
    return math.exp((low + high) / 2)


def operating_point(
    scores: npt.ArrayLike,
    positives: npt.ArrayLike,
    *,
    max_fpr: float | None = None,
    min_recall: float | None = None,
    cost_ratio: float | None = None,
    groups: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """The threshold on one label's scores (n,) for a stated goal, and the rates it reaches on these photos.

    A photo gets the label when its score is at or above the threshold; `positives` (n,) are true for
    photos of the label. State one goal. `max_fpr` and `min_recall` hold for new photos with 95 %
    confidence, the choice of the threshold included (`allowed_errors`); the unit is the group (n,) and
    its worst photo. Where the photos are too few to prove that, `proven` is false, no group may err,
    and `missing` says how many more independent photos are needed, None where no number suffices.
    `cost_ratio` is how many false positives cost as much as one miss; it minimises the cost at the
    label shares of these photos and proves nothing. The threshold is None when only "never" meets the
    goal. Choose on calibration photos; report on others.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(positives, np.bool_)
    goals = {"max_fpr": max_fpr, "min_recall": min_recall, "cost_ratio": cost_ratio}
    stated = {name: float(goal) for name, goal in goals.items() if goal is not None}
    largest = math.inf if cost_ratio is not None else 1.0
    if len(stated) != 1 or not all(0 <= goal <= largest for goal in stated.values()):
        raise CatflapError(
            "An operating point needs exactly one goal, within its range.",
            "State max_fpr or min_recall (0 to 1), or cost_ratio (0 or more).",
        )
    owners = _owners(groups, len(truth))
    thresholds, hits, alarms = threshold_steps(values, truth)
    proof: dict[str, Any] = {}
    if cost_ratio is not None:
        threshold = float(thresholds[np.argmin(alarms + stated["cost_ratio"] * (hits[-1] - hits))])
    elif max_fpr is not None:
        worst = -_group_minima(-values[~truth], owners[~truth])  # each group's highest-scored negative
        proof, allowed = _proof(len(worst), max_fpr)
        limit = np.sort(worst)[::-1][allowed] if allowed < len(worst) else -math.inf
        threshold = float(thresholds[thresholds > limit][-1])
    else:
        worst = _group_minima(values[truth], owners[truth])  # each group's lowest-scored positive
        proof, allowed = _proof(len(worst), 1 - stated["min_recall"])
        threshold = float(np.sort(worst)[allowed]) if allowed < len(worst) else math.inf
    return {"wish": stated, **proof, **rates_at(threshold, values, truth, groups=owners)}


def rates_at(
    threshold: float, scores: npt.ArrayLike, positives: npt.ArrayLike, *, groups: npt.ArrayLike | None = None
) -> dict[str, Any]:
    """Recall, false-positive rate and precision of a threshold, each with its interval.

    For photos other than those that the threshold was chosen on; else the intervals are too narrow.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(positives, np.bool_)
    owners, taken = _owners(groups, len(truth)), values >= threshold

    def rate(hits: Flags, among: Flags, reason: str) -> dict[str, Any]:
        effective = effective_photos(np.zeros(int(among.sum()), np.int64), owners[among], 1)[0]
        return share(int((hits & among).sum()), int(among.sum()), float(effective), reason)

    return {
        "threshold": threshold if math.isfinite(threshold) else None,
        "recall": rate(taken, truth, "no photo has this label"),
        "false_positive_rate": rate(taken, ~truth, "every photo has this label"),
        "precision": rate(truth, taken, "no photo reaches the threshold"),
        "positives": int(truth.sum()),
        "negatives": int((~truth).sum()),
    }


def threshold_steps(values: Floats, truth: Flags) -> tuple[Floats, Ints, Ints]:
    """The ROC as counts: thresholds from infinity down, and the positives and negatives at or above each."""
    order = np.argsort(-values, kind="stable")
    ranked, right = values[order], truth[order]
    last = (
        np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1) if len(ranked) else np.zeros(0, np.int64)
    )
    hits, alarms = np.cumsum(right, dtype=np.int64)[last], np.cumsum(~right, dtype=np.int64)[last]
    return np.append(math.inf, ranked[last]), np.append(0, hits), np.append(0, alarms)


def _proof(groups: int, rate: float) -> tuple[dict[str, Any], int]:
    """What so many independent groups can prove of an error rate, and how many of them may err."""
    allowed, needed = allowed_errors(groups, rate), groups_needed(rate)
    missing = 0 if allowed is not None else None if needed is None else needed - groups
    proof = {"confidence": CONFIDENCE, "groups": groups, "proven": allowed is not None, "missing": missing}
    return proof, allowed or 0


def _group_minima(values: Floats, owners: Ints) -> Floats:
    """The lowest value of each group."""
    if not len(values):
        return values
    order = np.lexsort((values, owners))
    return values[order][np.unique(owners[order], return_index=True)[1]]


def _owners(groups: npt.ArrayLike | None, count: int) -> Ints:
    """Group numbers (n,) from 0; each photo its own group where none are given."""
    return np.arange(count) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
