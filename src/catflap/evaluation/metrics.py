"""How good a classifier is, on photos that it did not learn from, with an interval on every number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.errors import CatflapError, Refused
from catflap.evaluation.intervals import (
    Floats,
    Ints,
    Metric,
    Z,
    effective_photos,
    metric,
    missing,
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
    log_loss, calibration_error = _bootstrapped(answers, seed)
    return {
        "photos": count,
        "groups": independent,
        "labels": list(answers.names),
        "accuracy": share(int(answers.right.sum()), count, effective, "no photos"),
        "macro_f1": macro_f1,
        "roc_auc": areas[0] if len(answers.names) == 2 else macro_area,
        "log_loss": log_loss,
        "calibration_error": calibration_error,
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
    """Precision, recall and F1 of each label, and the mean F1 of the labels that occur.

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
    return table, _linearised(float(f1[occurs].mean()), pull, answers.groups)


def _areas(answers: _Answers) -> tuple[list[Metric], Metric]:
    """The ROC area of each label against the rest (Newcombe 2006), and their mean (DeLong et al. 1988)."""
    k, columns = len(answers.names), np.ascontiguousarray(answers.probabilities.T)
    support = np.bincount(answers.labels, minlength=k)
    squares = support**2 / np.maximum(effective_photos(answers.labels, answers.groups, k), 1e-9)
    defined = np.flatnonzero((support > 0) & (support < len(answers.labels)))
    areas, pull = np.zeros(k), np.zeros(len(answers.labels))
    for c in defined:
        is_it = answers.labels == c
        area, above, below = _area(columns[c][is_it], columns[c][~is_it])
        areas[c] = area
        pull[is_it] += (above - area) / (len(above) * len(defined))
        pull[~is_it] += (below - area) / (len(below) * len(defined))
    low, high = _newcombe(
        areas[defined],
        (support**2 / np.maximum(squares, 1e-9))[defined],
        ((len(answers.labels) - support) ** 2 / np.maximum(squares.sum() - squares, 1e-9))[defined],
    )
    found = [missing("the photos do not have this label and another one") for _ in answers.names]
    for c, one_low, one_high in zip(defined, low, high, strict=True):
        found[c] = metric(areas[c], one_low, one_high)
    if not len(defined):
        return found, missing("the photos do not have two labels")
    return found, _linearised(float(areas[defined].mean()), pull, answers.groups)


def _area(positives: Floats, negatives: Floats) -> tuple[float, Floats, Floats]:
    """The ROC area; the share of negatives under each positive; the share of positives over each negative."""
    up, down = np.sort(positives), np.sort(negatives)
    above = (np.searchsorted(down, positives) + np.searchsorted(down, positives, "right")) / (2 * len(down))
    below = 1 - (np.searchsorted(up, negatives) + np.searchsorted(up, negatives, "right")) / (2 * len(up))
    return float(above.mean()), above, below


def _newcombe(area: Floats, positives: Floats, negatives: Floats) -> tuple[Floats, Floats]:
    """The interval of ROC areas by Newcombe's method 5 (2006), solved by bisection.

    It takes the variance of Hanley and McNeil (1982) at the end of the interval, as Wilson does,
    so that an area of 1 still has a low end.
    """
    extra = (positives + negatives) / 2 - 1

    def outside(at: Floats) -> npt.NDArray[np.bool_]:
        spread = at * (1 - at) * (1 + extra * (1 - at) / (2 - at) + extra * at / (1 + at))
        return np.asarray((area - at) ** 2 > Z**2 * spread / (positives * negatives))

    ends = []
    for edge in (0.0, 1.0):
        inner, outer = area.copy(), np.full_like(area, edge)
        for _ in range(40):
            middle = (inner + outer) / 2
            far = outside(middle)
            outer, inner = np.where(far, middle, outer), np.where(far, inner, middle)
        ends.append(inner)
    return ends[0], ends[1]


def _linearised(value: float, pull: Floats, groups: Ints) -> Metric:
    """A mean of rates with Wilson's interval, at the number of photos that its variance is worth.

    `pull` (n,) is how far each photo moves the value; the variance sums it over groups.
    """
    sums = np.bincount(groups, pull)
    variance = float((sums**2).sum()) * len(sums) / max(len(sums) - 1, 1)
    effective = float(effective_photos(np.zeros_like(groups), groups, 1)[0])
    if variance > 1e-15 and 0 < value < 1:
        effective = value * (1 - value) / variance
    low, high = wilson(value, effective)
    return metric(value, float(low), float(high))


def _recall_at_fpr(answers: _Answers, label: int) -> dict[str, Any]:
    """The operating points at 1 % and 0.1 % false positives, and what they cannot show."""
    is_it = answers.labels == label
    if is_it.all() or not is_it.any():
        reason = missing("the photos do not have both labels")
        return {str(rate): reason for rate in FALSE_POSITIVE_RATES}
    points = {}
    for rate in FALSE_POSITIVE_RATES:
        point = operating_point(answers.probabilities[:, label], is_it, max_fpr=rate, groups=answers.groups)
        reached = point["false_positive_rate"]
        points[str(rate)] = {
            **point["recall"],
            "threshold": point["threshold"],
            "false_positive_rate": reached,
        }
        if point["negatives"] * rate < 1:
            points[str(rate)]["note"] = (
                f"{point['negatives']} photos of other labels cannot show {100 * rate:g} %; none is let through"
            )
    return points


def _bootstrapped(answers: _Answers, seed: int) -> tuple[Metric, Metric]:
    """Log loss and expected calibration error (Guo et al. 2017, 15 bins), bootstrapped over groups."""
    if not len(answers.labels):
        return missing("no photos"), missing("no photos")
    confidence = answers.probabilities.max(axis=1)
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    count = int(answers.groups.max()) + 1
    gaps = np.bincount(answers.groups * BINS + bins, answers.right - confidence, count * BINS)
    sums = np.column_stack(
        [np.bincount(answers.groups), np.bincount(answers.groups, answers.losses), gaps.reshape(count, BINS)]
    )
    drawn = np.concatenate([weights @ sums for weights in resamples(count, seed)])
    losses, errors = drawn[:, 1] / drawn[:, 0], np.abs(drawn[:, 2:]).sum(axis=1) / drawn[:, 0]
    loss = float(answers.losses.mean())
    error = float(np.abs(sums[:, 2:].sum(axis=0)).sum() / len(answers.labels))
    return (
        metric(loss, *np.quantile(losses, (0.025, 0.975))),
        metric(error, *np.quantile(errors, (0.025, 0.975))),
    )


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
