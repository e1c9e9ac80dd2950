"""Metrics of a classifier on photos it did not learn from, each with a 95 % interval; and curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.errors import CatflapError, Refused
from catflap.evaluation.calibration import threshold_steps
from catflap.evaluation.calibration_error import CALIBRATION_BINS, calibration_bins, calibration_error
from catflap.evaluation.intervals import (
    Floats,
    Ints,
    Metric,
    binomial_quantile,
    effective_photos,
    groups_needed,
    metric,
    missing,
    positive,
    rate,
    share,
    wilson,
)

MAX_MATRIX_LABELS = 32
MAX_CONFUSIONS = 100
FALSE_POSITIVE_RATES = (0.01, 0.001)
RECALL_LEVEL = 0.972  # of each one-sided bound of recall at a false-positive rate; see _recall_at
# With 5 mistakes 97.1 % of intervals of macro F1 hold the truth; at 1 98.7 %, without Student's t 91.6 %.
F1_FREEDOM = 3.0
ROC_LINES = 5
ROC_POINTS = 300
HISTOGRAM_BINS = 25


@dataclass(frozen=True)
class _Answers:
    """Probabilities (n, classes), log losses (n,), true labels, groups and predicted labels of the photos."""

    names: tuple[str, ...]
    probabilities: Floats
    losses: Floats
    labels: Ints
    groups: Ints
    predicted: Ints

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.predicted == self.labels)


def measure(
    logits_or_probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: npt.ArrayLike,
    class_names: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """All metrics of a Report, each with value, low and high of its 95 % interval, ready for JSON.

    Takes logits or probabilities (n, classes): probabilities when every row lies in 0 to 1 and sums
    to 1. `labels` (n,) are class numbers; photos of one of the `groups` (n,) are not independent. A
    metric that these photos cannot give is null with a `reason`. docs/concepts/metrics.md has the
    method of each interval. Raises CatflapError when the shapes do not match, Refused when a value
    is not finite.
    """
    answers = _answers(logits_or_probabilities, labels, groups, class_names)
    count = len(answers.labels)
    independent = int(answers.groups.max()) + 1 if count else 0
    effective = effective_photos(np.zeros_like(answers.labels), answers.groups, 1)[0]
    areas, macro_area = _areas(answers)
    per_class, macro_f1 = _per_class(answers)
    for name, area in zip(answers.names, areas, strict=True):
        per_class[name]["roc_auc"] = area
    if len(answers.names) == 2:
        for label, name in enumerate(answers.names):
            per_class[name]["recall_at_fpr"] = _recall_at_fpr(answers, label)
    return {
        "photos": count,
        "groups": independent,
        "labels": list(answers.names),
        "accuracy": share(int(answers.right.sum()), count, effective, "no photos"),
        "macro_f1": macro_f1,
        "roc_auc": areas[0] if len(answers.names) == 2 else macro_area,
        "log_loss": _log_loss(answers),
        "calibration_error": calibration_error(
            answers.probabilities.max(axis=1), answers.right, answers.groups, seed
        ),
        "per_class": per_class,
        "confusion_matrix": _confusion_matrix(answers),
        "confusions": _confusions(answers),
    }


def _answers(
    scores: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike, names: Sequence[str]
) -> _Answers:
    given, truth = np.asarray(scores), np.asarray(labels, np.int64)
    tiny = float(np.finfo(given.dtype).eps) if np.issubdtype(given.dtype, np.floating) else 1e-15
    given = given.astype(np.float64)
    if (
        given.shape != (len(truth), len(names))
        or np.shape(groups) != truth.shape
        or len(set(names)) < len(names)
    ):
        raise CatflapError(
            f"Answers of the shape {given.shape} do not fit {len(truth)} photos and {len(names)} labels.",
            "Give one row a photo and one column a label, each label once.",
        )
    if len(truth) and not (truth.min() >= 0 and truth.max() < len(names)):
        raise CatflapError(f"A class number is not below {len(names)}.", "Number the labels from 0.")
    if not np.isfinite(given).all():
        raise Refused("A logit of the model is not finite.", "Train or export the model again.")
    if (given >= 0).all() and (np.abs(given.sum(axis=1) - 1) < 1e-3).all():
        logs = np.log(np.clip(given, tiny, 1.0))
    else:
        shifted = given - given.max(axis=1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        given = np.exp(logs)
    losses = -logs[np.arange(len(truth)), truth]
    owners = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    predicted = given.argmax(axis=1).astype(np.int64)
    return _Answers(tuple(names), given, losses, truth, owners, predicted)


def _per_class(answers: _Answers) -> tuple[dict[str, dict[str, Any]], Metric]:
    """Precision, recall and F1 of each label, and the macro F1 over labels that occur or were predicted.

    F1 = 2J / (1 + J), where J is the Jaccard index, a proportion: F1's interval is that of J,
    transformed. The variance of the macro F1 is linearised over groups.
    """
    right, k = answers.right, len(answers.names)
    hits = np.bincount(answers.labels[right], minlength=k)
    support, taken = np.bincount(answers.labels, minlength=k), np.bincount(answers.predicted, minlength=k)
    either = support + taken - hits
    n_true = effective_photos(answers.labels, answers.groups, k)
    n_taken = effective_photos(answers.predicted, answers.groups, k)
    n_either = effective_photos(
        np.concatenate([answers.labels, answers.predicted[~right]]),
        np.concatenate([answers.groups, answers.groups[~right]]),
        k,
    )
    table = {}
    for c, name in enumerate(answers.names):
        shared = share(hits[c], either[c], n_either[c], "the label does not occur")
        table[name] = {
            "support": int(support[c]),
            "precision": share(hits[c], taken[c], n_taken[c], "this label was never predicted"),
            "recall": share(hits[c], support[c], n_true[c], "no photo has this label"),
            "f1": shared
            if shared["value"] is None
            else metric(*(2 * shared[end] / (1 + shared[end]) for end in ("value", "low", "high"))),
        }
    occurs = either > 0
    if not occurs.any():
        return table, missing("no photos")
    scale = np.where(occurs, 1 / np.maximum(support + taken, 1), 0.0) / occurs.sum()
    f1 = 2 * hits / np.maximum(support + taken, 1)
    influence = (
        2 * right * scale[answers.labels] - (f1 * scale)[answers.labels] - (f1 * scale)[answers.predicted]
    )
    effective = effective_photos(np.zeros_like(answers.labels), answers.groups, 1)[0]
    return table, rate(float(f1[occurs].mean()), influence, answers.groups, effective, F1_FREEDOM)


def _areas(answers: _Answers) -> tuple[list[Metric], Metric]:
    """The area under the ROC curve of each label against the rest, and their mean.

    Variance of DeLong, DeLong and Clarke-Pearson (1988), clustered as in Obuchowski (1997). An area
    of 1 gets the sample size of Hanley and McNeil's variance (1982) near 1:
    4 / (1 / positives + 1 / negatives).
    """
    k, count, columns = len(answers.names), len(answers.labels), np.ascontiguousarray(answers.probabilities.T)
    support = np.bincount(answers.labels, minlength=k)
    per_photo = 1 / np.maximum(effective_photos(answers.labels, answers.groups, k), 1e-9)
    squares = support**2 * per_photo
    defined = np.flatnonzero((support > 0) & (support < count))
    found = [missing("the photos do not have this label and another one") for _ in answers.names]
    values, all_influence, unknown = 0.0, np.zeros(count), 0.0
    for c in defined:
        is_it = answers.labels == c
        area, influence = _area(columns[c], is_it)
        rest = (squares.sum() - squares[c]) / (count - support[c]) ** 2
        found[c] = rate(area, influence, answers.groups, 4 / (per_photo[c] + rest))
        values, all_influence, unknown = (
            values + area,
            all_influence + influence,
            unknown + (per_photo[c] + rest) / 4,
        )
    if not len(defined):
        return found, missing("the photos do not have two labels")
    labels = len(defined)
    return found, rate(values / labels, all_influence / labels, answers.groups, labels**2 / unknown)


def _area(scores: Floats, is_it: npt.NDArray[np.bool_]) -> tuple[float, Floats]:
    """The share of pairs in the right order, ties count half; and each photo's influence on it."""
    up, down = np.sort(scores[is_it]), np.sort(scores[~is_it])
    above = np.searchsorted(down, scores[is_it]) + np.searchsorted(down, scores[is_it], "right")
    below = np.searchsorted(up, scores[~is_it]) + np.searchsorted(up, scores[~is_it], "right")
    area = float((above / (2 * len(down))).mean())
    influence = np.empty(len(scores))
    influence[is_it] = (above / (2 * len(down)) - area) / len(up)
    influence[~is_it] = (1 - below / (2 * len(up)) - area) / len(down)
    return area, influence


def _recall_at_fpr(answers: _Answers, label: int) -> dict[str, Any]:
    """The recall of a label at 1 % and 0.1 % false positives, keyed by the rate."""
    is_it = answers.labels == label
    if is_it.all() or not is_it.any():
        reason = missing("the photos do not have both labels")
        return {str(limit): reason for limit in FALSE_POSITIVE_RATES}
    scores, zeros = answers.probabilities[:, label], np.zeros(len(is_it), np.int64)
    n_up, n_down = (float(effective_photos(zeros[of], answers.groups[of], 1)[0]) for of in (is_it, ~is_it))
    return {str(limit): _recall_at(limit, scores, is_it, n_up, n_down) for limit in FALSE_POSITIVE_RATES}


def _recall_at(
    limit: float, scores: Floats, is_it: npt.NDArray[np.bool_], n_up: float, n_down: float
) -> dict[str, Any]:
    """The recall at the threshold where a share `limit` of all negatives passes, with its interval.

    The threshold is chosen on the same photos. So the interval joins two sources of error: that of the
    recall at a fixed threshold (Wilson), and that of the threshold, whose bounds are the order statistics
    of the negatives between which it lies. They are joined by square-and-add (Newcombe 1998, Zou and
    Donner 2008). With bounds of 97.2 % each, 96 to 98 % of simulated intervals hold the true recall
    (1,000, 500 and 200 sets of 2,000, 4,000 and 12,000 groups; all 200 at 1 % of 12,000 very good ones): the
    quantiles of few negatives are discrete and too wide.
    """
    thresholds, hits, alarms = threshold_steps(scores, is_it)
    positives, negatives = int(hits[-1]), int(alarms[-1])
    chosen = int(np.searchsorted(alarms, limit * negatives + 1e-9, "right")) - 1
    value, threshold = hits[chosen] / positives, float(thresholds[chosen])
    found: dict[str, Any] = {
        "threshold": threshold if math.isfinite(threshold) else None,
        "false_positive_rate": share(int(alarms[chosen]), negatives, n_down, ""),
    }
    low_rank, high_rank = (
        binomial_quantile(n_down, limit, tail) for tail in (RECALL_LEVEL, 1 - RECALL_LEVEL)
    )
    if low_rank < 1:
        needed = groups_needed(limit, RECALL_LEVEL)
        reason = (
            f"an interval at {100 * limit:g} % needs {needed:,} independent photos of other labels; "
            f"there are {int(n_down):,}"
        )
        return {**missing(reason, value), **found}
    down = np.sort(scores[~is_it])[::-1]
    up = np.sort(scores[is_it])

    def recall(rank: float) -> float:
        """The share of positives above the negative of this rank, 1 the highest, interpolated."""
        place = min(max(rank * negatives / n_down, 1.0), float(negatives)) - 1
        first = int(place)
        two = [
            1 - np.searchsorted(up, down[min(at, negatives - 1)], "right") / positives
            for at in (first, first + 1)
        ]
        return float(two[0] + (place - first) * (two[1] - two[0]))

    middle = recall(limit * n_down + 0.5)
    low, high = wilson(middle, n_up, NormalDist().inv_cdf(RECALL_LEVEL))
    return {
        **metric(
            value,
            max(0.0, min(value, middle - math.hypot(middle - low, middle - recall(low_rank)))),
            min(1.0, max(value, middle + math.hypot(high - middle, recall(high_rank) - middle))),
        ),
        **found,
    }


def _log_loss(answers: _Answers) -> Metric:
    if not len(answers.labels):
        return missing("no photos")
    loss = float(answers.losses.mean())
    return positive(loss, (answers.losses - loss) / len(answers.losses), answers.groups)


def _counts(answers: _Answers) -> Ints:
    k = len(answers.names)
    return np.bincount(answers.labels * k + answers.predicted, minlength=k * k).reshape(k, k)


def _confusion_matrix(answers: _Answers) -> dict[str, Any] | None:
    """Counts and row shares with intervals; rows are the true labels. None above 32 labels."""
    if len(answers.names) > MAX_MATRIX_LABELS:
        return None
    counts = _counts(answers)
    support = counts.sum(axis=1, keepdims=True)
    effective = effective_photos(answers.labels, answers.groups, len(answers.names))[:, None]
    shares = counts / np.maximum(support, 1)
    low, high = wilson(shares, np.broadcast_to(effective, shares.shape))

    def rows(values: Floats) -> list[list[float] | None]:
        return [values[c].round(6).tolist() if support[c] else None for c in range(len(counts))]

    return {"photos": counts.tolist(), "value": rows(shares), "low": rows(low), "high": rows(high)}


def _confusions(answers: _Answers) -> list[dict[str, Any]]:
    """The most frequent confusions, as a share of the true label's photos."""
    k, wrong = len(answers.names), ~answers.right
    cells, photos = np.unique(answers.labels[wrong] * k + answers.predicted[wrong], return_counts=True)
    support = np.bincount(answers.labels, minlength=k)
    effective = effective_photos(answers.labels, answers.groups, k)
    found = []
    for place in np.argsort(-photos, kind="stable")[:MAX_CONFUSIONS]:
        true, taken = divmod(int(cells[place]), k)
        rate = share(int(photos[place]), int(support[true]), effective[true], "")
        names = {"true": answers.names[true], "predicted": answers.names[taken]}
        found.append({**names, "photos": int(photos[place]), **rate})
    return found


def curves(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike, class_names: Sequence[str]
) -> dict[str, Any]:
    """The data of a Report's charts, from probabilities (n, classes), labels (n,) and groups (n,).

    `reliability` has a point for each of 15 bins of the highest probability. `roc` has a line for the
    first of two labels, or for the five labels with the smallest area. `histogram` counts the
    probability of the first of two labels by true label, or else the highest probability, right and
    wrong.
    """
    given, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    owners = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    if not len(truth):
        return {"reliability": [], "roc": [], "histogram": None}
    return {
        "reliability": _reliability(given.max(axis=1), given.argmax(axis=1) == truth, owners),
        "roc": _roc(given, truth, class_names),
        "histogram": _histogram(given, truth, class_names),
    }


def _reliability(confidence: Floats, right: npt.NDArray[np.bool_], owners: Ints) -> list[dict[str, Any]]:
    bins = calibration_bins(confidence)
    effective = effective_photos(bins, owners, CALIBRATION_BINS)
    points = []
    for place in np.unique(bins):
        inside = bins == place
        rate = share(int(right[inside].sum()), int(inside.sum()), effective[place], "")
        stated = round(float(confidence[inside].mean()), 6)
        points.append({"stated": stated, "photos": int(inside.sum()), **rate})
    return points


def _roc(given: Floats, truth: Ints, names: Sequence[str]) -> list[dict[str, Any]]:
    """ROC curves as points (false-positive rate, recall), thinned; those of the smallest areas.

    The areas are computed first, so that only five curves are in memory.
    """
    missed = []
    for label in range(1 if len(names) == 2 else len(names)):
        if 0 < (truth == label).sum() < len(truth):
            recall, alarm_rate = _rates(given, truth, label)
            missed.append((-float((np.diff(alarm_rate) * (2 - recall[1:] - recall[:-1])).sum()) / 2, label))
    shown = sorted(missed)[:ROC_LINES]
    return [_line(names[label], *_rates(given, truth, label)) for _, label in shown]


def _rates(given: Floats, truth: Ints, label: int) -> tuple[Floats, Floats]:
    """Recall and false-positive rate of a label at each threshold, from the highest down."""
    _, hits, alarms = threshold_steps(given[:, label], truth == label)
    return hits / hits[-1], alarms / alarms[-1]


def _line(name: str, recall: Floats, alarm_rate: Floats) -> dict[str, Any]:
    """A curve's corners; many corners are thinned evenly on the log false-positive rate."""
    corner = np.flatnonzero(
        np.append(True, (np.diff(alarm_rate) > 0)) | np.append(np.diff(alarm_rate) > 0, True)
    )
    if len(corner) > ROC_POINTS:
        place = np.log10(np.maximum(alarm_rate[corner], 1e-6)) + recall[corner]
        _, kept = np.unique(np.round(place * ROC_POINTS / 8), return_index=True)
        corner = np.union1d(corner[kept], corner[[0, -1]])
    first = alarm_rate[alarm_rate > 0].min()
    return {
        "label": name,
        "finest": round(float(first), 9),
        "false_positive_rate": alarm_rate[corner].round(6).tolist(),
        "recall": recall[corner].round(6).tolist(),
    }


def _histogram(given: Floats, truth: Ints, names: Sequence[str]) -> dict[str, Any]:
    if len(names) == 2:
        values, first = given[:, 0], truth == 0
        words = {"of": f"probability of {names[0]}", "up": names[0], "down": names[1]}
    else:
        values, first = given.max(axis=1), given.argmax(axis=1) == truth
        words = {"of": "highest probability", "up": "right", "down": "wrong"}
    bars = np.clip((values * HISTOGRAM_BINS).astype(np.int64), 0, HISTOGRAM_BINS - 1)
    up, down = (
        np.bincount(bars[first], minlength=HISTOGRAM_BINS),
        np.bincount(bars[~first], minlength=HISTOGRAM_BINS),
    )
    return {**words, "up_photos": up.tolist(), "down_photos": down.tolist()}


def separation(typical: npt.ArrayLike, strange: npt.ArrayLike) -> float:
    """The area under the ROC curve of OOD scores: how often a strange photo's is above a typical one's.

    Ties count half; NaN counts as typical. 0.5 where there are no photos of a kind.
    """
    low, high = (np.nan_to_num(np.asarray(scores, np.float64), nan=0.0) for scores in (typical, strange))
    if not len(low) or not len(high):
        return 0.5
    ranked = np.sort(low)
    below = (np.searchsorted(ranked, high) + np.searchsorted(ranked, high, "right")) / 2
    return float(below.mean() / len(low))
