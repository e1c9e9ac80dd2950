"""How good a classifier is, on photos that it did not learn from, with an interval on every number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.errors import CatflapError, Refused
from catflap.evaluation.intervals import (
    NO_TWO_DIFFER,
    Floats,
    Ints,
    Metric,
    effective_photos,
    metric,
    missing,
    positive,
    rate,
    resamples,
    share,
    wilson,
)
from catflap.evaluation.operating import operating_point

BINS = 15
LARGEST_MATRIX = 32
CONFUSIONS = 100
FALSE_POSITIVE_RATES = (0.01, 0.001)


@dataclass(frozen=True)
class _Answers:
    """What was predicted: probabilities (n, classes), the loss of each photo (n,), and the truth."""

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
    """Every number that a Report shows, each as value, low and high of its 95 % interval, for JSON.

    Takes logits or probabilities (n, classes); they are probabilities when every row lies in 0
    to 1 and sums to 1. `labels` (n,) are class numbers, `groups` (n,) name what is not
    independent. A number that the photos cannot give is null and has a `reason`. Where each
    interval comes from stands in docs/concepts/metrics.md. Raises CatflapError when the arrays
    do not fit together and Refused when the model gave values that are not numbers.
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
        "calibration_error": _calibration_error(answers, seed),
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
        raise CatflapError("A label's number is not among the labels.", "Number labels from 0.")
    if not np.isfinite(given).all():
        raise Refused("The model gave values that are not numbers.", "Train or export it again.")
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
    """Precision, recall and F1 of each label, and the mean F1 of the labels that occur or were answered.

    F1 is 2J / (1 + J) of the share J of right photos among those that are or are taken for
    the label, so its interval is that of J. The mean's variance is linearised over groups.
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
            "precision": share(hits[c], taken[c], n_taken[c], "no photo is taken for this label"),
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
    pull = 2 * right * scale[answers.labels] - (f1 * scale)[answers.labels] - (f1 * scale)[answers.predicted]
    effective = effective_photos(np.zeros_like(answers.labels), answers.groups, 1)[0]
    return table, rate(float(f1[occurs].mean()), pull, answers.groups, effective)


def _areas(answers: _Answers) -> tuple[list[Metric], Metric]:
    """The ROC area of each label against the rest, and their mean.

    The variance is that of DeLong, DeLong and Clarke-Pearson (1988), summed over groups as
    Obuchowski (1997) does. An area without a misordered pair gets the photos that Hanley and
    McNeil's variance (1982) has near 1: 4 / (1 / positives + 1 / negatives).
    """
    k, count, columns = len(answers.names), len(answers.labels), np.ascontiguousarray(answers.probabilities.T)
    support = np.bincount(answers.labels, minlength=k)
    per_photo = 1 / np.maximum(effective_photos(answers.labels, answers.groups, k), 1e-9)
    squares = support**2 * per_photo
    defined = np.flatnonzero((support > 0) & (support < count))
    found = [missing("the photos do not have this label and another one") for _ in answers.names]
    values, all_pull, unknown = 0.0, np.zeros(count), 0.0
    for c in defined:
        is_it = answers.labels == c
        area, pull = _area(columns[c], is_it)
        rest = (squares.sum() - squares[c]) / (count - support[c]) ** 2
        found[c] = rate(area, pull, answers.groups, 4 / (per_photo[c] + rest))
        values, all_pull, unknown = values + area, all_pull + pull, unknown + (per_photo[c] + rest) / 4
    if not len(defined):
        return found, missing("the photos do not have two labels")
    labels = len(defined)
    return found, rate(values / labels, all_pull / labels, answers.groups, labels**2 / unknown)


def _area(scores: Floats, is_it: npt.NDArray[np.bool_]) -> tuple[float, Floats]:
    """The share of pairs that the scores order rightly, a tie counting half, and each photo's pull on it."""
    up, down = np.sort(scores[is_it]), np.sort(scores[~is_it])
    above = np.searchsorted(down, scores[is_it]) + np.searchsorted(down, scores[is_it], "right")
    below = np.searchsorted(up, scores[~is_it]) + np.searchsorted(up, scores[~is_it], "right")
    area = float((above / (2 * len(down))).mean())
    pull = np.empty(len(scores))
    pull[is_it] = (above / (2 * len(down)) - area) / len(up)
    pull[~is_it] = (1 - below / (2 * len(up)) - area) / len(down)
    return area, pull


def _recall_at_fpr(answers: _Answers, label: int) -> dict[str, Any]:
    """The operating points at 1 % and 0.1 % false positives, and what they cannot show."""
    is_it = answers.labels == label
    if is_it.all() or not is_it.any():
        reason = missing("the photos do not have both labels")
        return {str(limit): reason for limit in FALSE_POSITIVE_RATES}
    points = {}
    for limit in FALSE_POSITIVE_RATES:
        point = operating_point(answers.probabilities[:, label], is_it, max_fpr=limit, groups=answers.groups)
        reached = point["false_positive_rate"]
        points[str(limit)] = {
            **point["recall"],
            "threshold": point["threshold"],
            "false_positive_rate": reached,
        }
        if point["negatives"] * limit < 1:
            points[str(limit)]["note"] = (
                f"{point['negatives']} photos of the other label cannot show {100 * limit:g} %; none passes"
            )
    return points


def _log_loss(answers: _Answers) -> Metric:
    if not len(answers.labels):
        return missing("no photos")
    loss = float(answers.losses.mean())
    return positive(loss, (answers.losses - loss) / len(answers.losses), answers.groups)


def _calibration_error(answers: _Answers, seed: int) -> Metric:
    """The expected calibration error (Guo et al. 2017): 15 bins of equal width.

    It is a norm of the bins' gaps, so noise alone makes it larger and the plain bootstrap misses
    the truth. The low end takes off the 97.5 % point of the norm of the bootstrap's noise, which
    bounds the error by the triangle inequality; the high end is the bootstrap's 97.5 % point.
    """
    if not len(answers.labels):
        return missing("no photos")
    confidence = answers.probabilities.max(axis=1)
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    count = int(answers.groups.max()) + 1
    cells = np.bincount(answers.groups * BINS + bins, answers.right - confidence, count * BINS)
    gaps, photos = cells.reshape(count, BINS), np.bincount(answers.groups)
    seen = gaps.sum(axis=0) / photos.sum()
    error = float(np.abs(seen).sum())
    drawn = np.concatenate(
        [weights @ gaps / (weights @ photos)[:, None] for weights in resamples(count, seed)]
    )
    noise = np.quantile(np.abs(drawn - seen).sum(axis=1), 0.975)
    if noise < 1e-12:
        return missing(NO_TWO_DIFFER, error)
    high = np.quantile(np.abs(drawn).sum(axis=1), 0.975)
    return metric(error, max(0.0, error - noise), min(1.0, max(error, high)))


def _counts(answers: _Answers) -> Ints:
    k = len(answers.names)
    return np.bincount(answers.labels * k + answers.predicted, minlength=k * k).reshape(k, k)


def _confusion_matrix(answers: _Answers) -> dict[str, Any] | None:
    """Rows are the true labels: photos, and the share of the row with its interval; None when too large."""
    if len(answers.names) > LARGEST_MATRIX:
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
    """The most frequent mistakes, as the share of the true label's photos that are taken for another."""
    k, wrong = len(answers.names), ~answers.right
    cells, photos = np.unique(answers.labels[wrong] * k + answers.predicted[wrong], return_counts=True)
    support = np.bincount(answers.labels, minlength=k)
    effective = effective_photos(answers.labels, answers.groups, k)
    found = []
    for place in np.argsort(-photos, kind="stable")[:CONFUSIONS]:
        true, taken = divmod(int(cells[place]), k)
        rate = share(int(photos[place]), int(support[true]), effective[true], "")
        names = {"true": answers.names[true], "predicted": answers.names[taken]}
        found.append({**names, "photos": int(photos[place]), **rate})
    return found
