"""Drift statistics: the baseline of a variant, and how far a window of field answers is from it.

Compared are, for each predicted label: the confidence (log-odds of the most probable label), the OOD score
(distance of the embedding from the label's mean and principal axes), and image statistics of the frame
(brightness, contrast, sharpness). These do not alarm when only the label mix changes; that is compared with
the earlier photos of the same log, because a field's mix differs from that of the calibration photos. Objects
that were never trained on raise the OOD score even where the network is confident; blur and darkness change
the image statistics before they change the answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.evaluation.intervals import Floats, Ints, independent_photos
from catflap.image import STATISTICS
from catflap.runtime.ood import Vectors, pack, residuals, unit, unpack

WINDOW = 200  # photos
ALARM = 0.002  # p-value; a fifth of 1 in 100, because photos of a burst are not independent
KNOTS = 101  # quantiles per label
DIGITS = 4  # of a quantile, and of the values compared with it
MIN_PHOTOS = 5  # of a predicted label; below, it has no quantiles, and below so many groups no OOD score
EPSILON = 1e-9  # probabilities are kept this far from 0 and 1
CONFIDENCE, OOD, MIX = "confidence", "ood_score", "mix"  # as JSON calls the scores
IMAGES = "image_statistics"
FORMER = {"strangeness": OOD, "looks": IMAGES}  # names in bundles that were made before these
MAX_EMBEDDED_LABELS = 50  # labels with an OOD baseline; more would make bundle.json large
AXES = 8  # principal axes per label; 32 detected unknown objects hardly better
GROUPS_PER_AXIS = 10
FOLDS = 10  # for the OOD scores of the calibration photos themselves
OOD_QUANTILE = 0.99  # of the calibration distances; the OOD score is a distance divided by it


@dataclass(frozen=True)
class LabelMix:
    """How often each label was predicted in a run of photos, (labels,), and how often twice in a row."""

    counts: Ints
    repeats: int

    @property
    def independent(self) -> float:
        """The effective number of photos: n (1 - r) / (1 + r) for the autocorrelation r of neighbours.

        Photos of a burst show the same, so that many of them add little to what is known of the mix.
        """
        count = int(self.counts.sum())
        if count < 2:
            return float(count)
        same = float(((self.counts / count) ** 2).sum())
        if same >= 1:
            return float(count)
        correlation = min(max((self.repeats / (count - 1) - same) / (1 - same), 0.0), 0.99)
        return count * (1 - correlation) / (1 + correlation)

    def without(self, last: LabelMix) -> LabelMix:
        """The mix of the photos before the last ones."""
        counts = self.counts - last.counts
        return LabelMix(counts, max(0, self.repeats - last.repeats))


def label_mix(predicted: Ints, labels: int) -> LabelMix:
    """The LabelMix of predicted class numbers (n,) in the order in which they were predicted."""
    repeats = int((predicted[1:] == predicted[:-1]).sum())
    return LabelMix(np.bincount(predicted, minlength=labels).astype(np.int64), repeats)


def _mix_distance(mix: LabelMix, before: LabelMix) -> tuple[float, float, float]:
    """The largest change of a label's share, its z, and the number of labels tested.

    Shares are compared as two binomial proportions with one more photo of each kind (Agresti and Caffo 2000).
    """
    sizes = [part.independent for part in (mix, before)]
    shares = [part.counts / part.counts.sum() for part in (mix, before)]
    tried = [(share * size + 1) / (size + 2) for share, size in zip(shares, sizes, strict=True)]
    variance = sum(share * (1 - share) / (size + 2) for share, size in zip(tried, sizes, strict=True))
    z = np.abs(tried[0] - tried[1]) / np.sqrt(variance)
    most = int(z.argmax())
    tests = max(1, int(((mix.counts + before.counts) > 0).sum()) - 1)
    return float(np.abs(shares[0] - shares[1])[most]), float(z[most]), float(tests)


@dataclass(frozen=True)
class Drift:
    """The drift of a window of field answers against the baseline.

    `distance` is the Kolmogorov-Smirnov distance, 0 to 1; `p` its p-value, corrected for the number of
    tests; `score` the distance divided by the one that alarms: above 1 it alarms. All three are those of
    the statistic that drifted `most`; `scores` has every statistic's score.
    """

    photos: int
    distance: float
    p: float
    score: float
    most: str = CONFIDENCE
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def alarm(self) -> bool:
        """True when the p-value is below the alarm level."""
        return self.p < ALARM

    def to_json(self) -> dict[str, Any]:
        """The fields as `catflap drift` prints them."""
        numbers = {"distance": round(self.distance, 4), "p": self.p, "score": round(self.score, 4)}
        scores = {name: round(score, 4) for name, score in self.scores.items()}
        return {"photos": self.photos, **numbers, "alarm": self.alarm, "most": self.most, "scores": scores}


def make_baseline(
    probabilities: npt.ArrayLike,
    labels: Sequence[str],
    groups: Ints,
    statistics: npt.ArrayLike | None = None,
    embeddings: npt.NDArray[np.float32] | None = None,
    fitted: Mapping[int, Vectors] | None = None,
) -> dict[str, Any]:
    """The `baseline` of a variant in bundle.json, from its probabilities (n, labels) on calibration photos.

    For each predicted label: its share, and quantiles of the log-odds and of the image `statistics` (n, 3),
    without rows that are not finite. `groups` (n,) count independent photos. `embeddings` (k, width)
    of the first k ≤ n photos give the label's OOD baseline (`ood_baseline`), fitted on those of train photos
    where `fitted` has them by label number. A label predicted for fewer
    than 5 photos has no quantiles.
    """
    given = np.asarray(probabilities, np.float64)
    confidence, predicted = log_odds(given), given.argmax(axis=1)
    images = _rows(statistics, len(given))
    entries_by_label: dict[str, Any] = {}
    for place, label in enumerate(labels):
        chosen = predicted == place
        entry: dict[str, Any] = {"share": round(float(chosen.mean()), 6)}
        if chosen.sum() >= MIN_PHOTOS:
            entry |= {
                "groups": independent_photos(groups[chosen]),
                "quantiles": _quantiles(confidence[chosen]),
            }
        if embeddings is not None and len(labels) <= MAX_EMBEDDED_LABELS:
            first = np.flatnonzero(chosen[: len(embeddings)])
            described = ood_baseline(embeddings[first], groups[first], (fitted or {}).get(place))
            if described is not None:
                entry["embedding"] = described
        chosen = chosen & np.isfinite(images).all(axis=1)
        if chosen.sum() >= MIN_PHOTOS:
            columns = zip(STATISTICS, images[chosen].T, strict=True)
            entry[IMAGES] = {"groups": independent_photos(groups[chosen])} | {
                name: _quantiles(of) for name, of in columns
            }
        entries_by_label[label] = entry
    _draw_limits_together([entry["embedding"] for entry in entries_by_label.values() if "embedding" in entry])
    return {"photos": len(given), "labels": entries_by_label}


def _draw_limits_together(described: Sequence[dict[str, Any]]) -> None:
    """Move each label's limit half-way to the median one, as a ratio; OOD scores become quantiles.

    A label's own limit is a high quantile of few distances. Where it is wide, photos of other things that
    look most like this label have low scores; one limit for all labels would refuse most photos of a label
    that varies much. Half-way refuses more of other things than either at the same acceptance.
    """
    middle = float(np.median([one["limit"] for one in described])) if described else 0.0
    for one in described:
        own, one["limit"] = one["limit"], round(math.sqrt(one["limit"] * middle), 6)
        one[OOD] = _quantiles(one[OOD] * (own / one["limit"]))


def measure_drift(
    probabilities: npt.ArrayLike,
    labels: Sequence[str],
    baseline: Mapping[str, Any],
    statistics: npt.ArrayLike | None = None,
    ood_scores: npt.ArrayLike | None = None,
    before: LabelMix | None = None,
) -> Drift:
    """The Drift of a window: probabilities (m, labels), image statistics (m, 3), OOD scores (m,), m ≥ 1.

    `before` is the mix of the log's earlier photos, if there are at least 200.

    Probabilities are those under the prior of training. Each statistic is compared by a two-sample
    Kolmogorov-Smirnov test with the baseline's labels, mixed as they are predicted in the window. The
    p-value is Stephens' (1970) approximation, Bonferroni-corrected. Photos of a label without quantiles
    and values that are not finite are left out.
    """
    given = np.asarray(probabilities, np.float64)
    predicted = given.argmax(axis=1)
    entries = [_renamed(baseline["labels"].get(label, {})) for label in labels]
    compared = [(CONFIDENCE, log_odds(given), entries)]
    if ood_scores is not None:
        values = np.asarray(ood_scores, np.float64)
        embeddings = [_half_groups(_renamed(entry.get("embedding", {}))) for entry in entries]
        compared.append((OOD, values, embeddings))
    image_entries = [entry.get(IMAGES, {}) for entry in entries]
    for name, values in zip(STATISTICS, _rows(statistics, len(given)).T, strict=True):
        compared.append((name, values, image_entries))
    tests = {
        name: _ks_distance(
            values, predicted, [_known(entry, "quantiles" if name == CONFIDENCE else name) for entry in of]
        )
        for name, values, of in compared
    }
    photos = tests[CONFIDENCE][0]
    tests = {name: test for name, test in tests.items() if test[0]}
    if not tests:
        return Drift(photos, 0.0, 1.0, 0.0)
    has_mix = before is not None and bool(before.counts.sum() >= WINDOW)
    count = len(tests) + has_mix
    scores = {name: far / _critical(size, count) for name, (_, far, size) in tests.items()}
    if before is not None and has_mix:
        change, z, labels_tested = _mix_distance(label_mix(predicted, len(labels)), before)
        normal = NormalDist()
        scores[MIX] = z / -normal.inv_cdf(ALARM / count / labels_tested / 2)
        p = 2 * normal.cdf(-z) * labels_tested
        if scores[MIX] == max(scores.values()):
            return Drift(photos, change, min(1.0, count * p), scores[MIX], MIX, scores)
    most = max(scores, key=scores.__getitem__)
    _, distance, size = tests[most]
    return Drift(photos, distance, min(1.0, count * _p(distance, size)), scores[most], most, scores)


def _renamed(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """An entry of a baseline by the present names."""
    return {FORMER.get(name, name): value for name, value in entry.items()}


def _half_groups(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Half as many groups: mean and axes were fitted on the photos that they score."""
    return {**entry, "groups": max(1, entry["groups"] // 2)} if entry else entry


Quantiles: TypeAlias = tuple[int, Sequence[float]]  # independent photos, and their quantiles


def _known(entry: Mapping[str, Any], name: str) -> Quantiles | None:
    return (entry["groups"], entry[name]) if {"groups", name} <= set(entry) else None


def _ks_distance(
    values: Floats, predicted: Ints, quantiles: Sequence[Quantiles | None]
) -> tuple[int, float, float]:
    """The number of values (m,) compared, the KS distance, and the effective sample size of the test."""
    able = np.array([one is not None for one in quantiles])[predicted] & np.isfinite(values)
    values, predicted = np.sort(np.round(values[able], DIGITS)), predicted[able]
    if not len(values):
        return 0, 0.0, 1.0
    shares = np.bincount(predicted, minlength=len(quantiles)) / len(values)
    less, at_most, variance = np.zeros(len(values)), np.zeros(len(values)), 0.0
    for one, share in zip(quantiles, shares.tolist(), strict=True):
        if one is not None and share:
            exclusive, inclusive = _cumulative(values, one[1])
            less, at_most = less + share * exclusive, at_most + share * inclusive
            variance += share**2 / one[0]
    first, last = (np.searchsorted(values, values, side) / len(values) for side in ("left", "right"))
    distance = float(max((last - at_most).max(), (less - first).max(), 0.0))
    return len(values), distance, 1 / (1 / len(values) + variance)


def log_odds(probabilities: npt.ArrayLike) -> Floats:
    """The log-odds (n,) of the most probable label, from probabilities (n, labels)."""
    given = np.asarray(probabilities, np.float64)
    best = given.argmax(axis=1)
    rest = given.copy()
    rest[np.arange(len(given)), best] = 0
    others = np.clip(rest.sum(axis=1), EPSILON, 1 - EPSILON)  # 1 - p would cancel
    odds: Floats = np.log1p(-others) - np.log(others)
    return odds


def _rows(statistics: npt.ArrayLike | None, count: int) -> Floats:
    if statistics is None:
        return np.full((count, len(STATISTICS)), np.nan)
    return np.asarray(statistics, np.float64)


def _quantiles(values: Floats) -> list[float]:
    shares = np.linspace(0, 1, min(KNOTS, len(values)))
    return [round(float(value), DIGITS) for value in np.quantile(values, shares)]


def _cumulative(values: Floats, quantiles: Sequence[float]) -> tuple[Floats, Floats]:
    """The baseline's cumulative distribution at each value, exclusive and inclusive; they differ at ties."""
    knots = np.maximum.accumulate(np.asarray(quantiles, np.float64))
    shares = np.linspace(0, 1, len(knots))
    more = np.interp(-values, -knots[::-1], shares, left=0.0, right=1.0)
    return 1 - more, np.interp(values, knots, shares, left=0.0, right=1.0)


def _p(distance: float, size: float) -> float:
    """The p-value of a distance between two samples of this effective size."""
    root = math.sqrt(size)
    reach = (root + 0.12 + 0.11 / root) * distance
    if reach < 0.2:
        return 1.0
    terms = ((2.0 if k % 2 else -2.0) * math.exp(-2 * (k * reach) ** 2) for k in range(1, 101))
    return min(1.0, max(0.0, sum(terms)))


def _critical(size: float, tests: int) -> float:
    """The distance that alarms in one of so many tests."""
    root = math.sqrt(size)
    return math.sqrt(-math.log(ALARM / tests / 2) / 2) / (root + 0.12 + 0.11 / root)


def ood_baseline(embeddings: Vectors, groups: Ints, fitted: Vectors | None = None) -> dict[str, Any] | None:
    """A label's OOD baseline from its embeddings (n, width) alone, with the OOD score of each photo, (n,).

    The distance of an embedding is the norm of its residual after projection on the label's mean and
    principal axes (Jackson & Mudholkar 1979); a score is a distance divided by the one that 1 in 100 photos
    exceeds when they are measured out of fold, ten folds, no group (n,) in two of them. Fit and folds are
    those of the embeddings, or of train photos, `fitted` (m, width), m ≥ 5: then nothing that makes a score
    has seen the photos scored, and new photos score alike. Of fewer than 5 groups the scores are those of the
    train photos; without these it is None.
    """
    few = len(np.unique(groups)) < MIN_PHOTOS
    if fitted is not None and len(fitted) >= MIN_PHOTOS:
        packed = _fit(fitted, len(fitted))
        learnt = _out_of_fold(fitted, np.arange(len(fitted)))
        limit = _limit(learnt)
        distances = learnt if few else residuals(embeddings, *unpack(packed))
        groups = np.arange(len(fitted)) if few else groups
    elif few:
        return None
    else:
        packed = _fit(embeddings, len(np.unique(groups)))
        distances = _out_of_fold(embeddings, groups)
        limit = _limit(distances)
    scores = distances.astype(np.float64) / limit
    return {"groups": independent_photos(groups), **packed, "limit": limit, OOD: scores}


def _out_of_fold(embeddings: Vectors, groups: Ints) -> Vectors:
    """The distance (n,) of each embedding (n, width) from a fit on the folds that lack its group (n,)."""
    names, of = np.unique(groups, return_inverse=True)
    part, distances = of % min(FOLDS, len(names)), np.empty(len(embeddings), np.float32)
    for number in range(part.max() + 1):
        chosen = part == number
        fit = unpack(_fit(embeddings[~chosen], len(names)))
        distances[chosen] = residuals(embeddings[chosen], *fit)
    return distances


def _limit(distances: Vectors) -> float:
    """The distance that 1 in 100 photos exceeds, above 0."""
    return round(max(float(np.quantile(distances, OOD_QUANTILE)), 1e-6), 6)


def _fit(embeddings: Vectors, groups: int) -> dict[str, Any]:
    """Mean and principal axes of the unit embeddings (n, width), packed."""
    directions = unit(embeddings).astype(np.float64)
    mean = directions.mean(axis=0)
    spread = directions - mean
    count = min(AXES, groups // GROUPS_PER_AXIS, len(spread) - 1, len(mean) - 1)
    if len(spread) < len(mean):  # the smaller of two Gram matrices with the same axes
        _, vectors = np.linalg.eigh(spread @ spread.T)
        axes = vectors[:, ::-1][:, :count].T @ spread
    else:
        _, vectors = np.linalg.eigh(spread.T @ spread)
        axes = vectors[:, ::-1][:, :count].T
    greatest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    return pack(mean.astype(np.float32), unit(axes * np.where(greatest < 0, -1, 1)))
