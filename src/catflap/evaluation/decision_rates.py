"""How often a user gets a right decision, a wrong one, or "unsure": the decision judged, not the scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.results import UNKNOWN
from catflap.evaluation.intervals import (
    Flags,
    Ints,
    Metric,
    Z,
    clustered_variance,
    effective_photos,
    metric,
    share,
)
from catflap.runtime.decisions import (
    Probabilities,
    decide,
    decision_rule,
    point_cutoff,
    prediction_sets,
)

UNSURE_NUMBER, UNKNOWN_NUMBER = -1, -2  # of photos without a decision
MANY_UNSURE = 1 / 3  # above this share of unsure photos export and evaluate warn


def decision_rates(
    decisions: Sequence[str], labels: npt.ArrayLike, groups: npt.ArrayLike, class_names: Sequence[str]
) -> dict[str, Any]:
    """The rates of decided, right, wrong, unsure and unknown photos, overall and per true label, for JSON.

    `decisions` (n,) are what users get: a name in `class_names`, "unknown", or another word such as "unsure"
    for no decision. `labels` (n,) are true class numbers, `groups` (n,) name photos that are not independent.
    Rates are shares of all photos, so decided = right + wrong and decided + unsure + unknown = 1;
    `wrong_when_decided` is a share of the decided ones. Each has its 95 % interval (Wilson, groups counted).
    """
    truth = np.asarray(labels, np.int64)
    owners = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    numbers = {name: number for number, name in enumerate(class_names)}
    numbers = {UNKNOWN: UNKNOWN_NUMBER, **numbers}
    predicted = np.array([numbers.get(decision, UNSURE_NUMBER) for decision in decisions], np.int64)
    whole = _rates(predicted, truth, owners, np.ones(len(truth), np.bool_))
    per_label = {
        name: {
            **_rates(predicted, truth, owners, truth == number),
            "predicted": int((predicted == number).sum()),
        }
        for number, name in enumerate(class_names)
    }
    return {**whole, "per_label": per_label}


def set_rates(
    threshold: float, probabilities: Probabilities, labels: npt.ArrayLike, groups: npt.ArrayLike
) -> dict[str, Any]:
    """What prediction sets do on photos with true labels (n,), ready for JSON.

    `covered` is the share of sets that hold the true label, with its interval; `mean_size` the mean number of
    labels in a set with its interval, and `sizes` counts the sets by that number.
    """
    inside = prediction_sets(probabilities, threshold)
    held = inside[np.arange(len(inside)), np.asarray(labels, np.int64)]
    counts = inside.sum(axis=1)
    owners = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    sizes = np.unique(counts, return_counts=True)
    return {
        "covered": flagged_share(held, groups),
        "mean_size": mean_size(counts, owners, inside.shape[1]),
        "sizes": {
            str(size): int(count) for size, count in zip(*(one.tolist() for one in sizes), strict=True)
        },
    }


def mean_size(counts: npt.ArrayLike, owners: Ints, labels: int) -> Metric:
    """The mean of the sizes (n,) of prediction sets, 1 to `labels`, with its 95 % interval by `owners` (n,).

    Agresti and Coull (1998), of which two sizes are the case: two sets of one label are added and two of five
    labels or the largest size seen, at the sample size that matches the cluster-robust variance.
    """
    values = np.asarray(counts, np.float64)
    mean, simple = float(values.mean()), float(values.var())
    size = float(effective_photos(np.zeros_like(owners), owners, 1)[0])
    variance, _ = clustered_variance((values - mean) / len(values), owners)
    if variance > 0 and simple > 0:
        size = min(max(simple / variance, size), float(len(values)))
    most = max(min(5.0, float(labels)), float(values.max()))
    middle = (size * mean + 2 * (1 + most)) / (size + 4)
    square = (size * (simple + mean**2) + 2 * (1 + most**2)) / (size + 4)
    half = Z * math.sqrt((square - middle**2) / (size + 4))
    low, high = max(1.0, middle - half), min(float(labels), middle + half)
    return metric(mean, min(mean, low), max(mean, high))


def sets_in_words(sets: Mapping[str, Any]) -> str:
    """What prediction sets promise and reached, in a sentence."""
    covered, size = sets["covered"], sets["mean_size"]
    low, high = (f"{100 * covered[end]:.1f}" for end in ("low", "high"))
    photos = sum(sets["sizes"].values())
    return (
        f"A set of labels, those with a probability of {sets['threshold']:.4g} or more and the likeliest, "
        f"holds the right one for at least {100 * (1 - sets['error_rate']):.4g} % of photos like the "
        f"calibration photos; of {photos:,} test photos {100 * covered['value']:.1f} % ({low} to {high} %), "
        f"with {size['value']:.2f} labels on average, and {sets['sizes'].get('1', 0):,} sets of one label."
    )


def flagged_share(flags: npt.ArrayLike, groups: npt.ArrayLike) -> Metric:
    """The share of photos with a flag (n,) and its 95 % interval (Wilson, groups (n,) counted)."""
    hits = np.asarray(flags, np.bool_)
    owners = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    effective = effective_photos(np.zeros(len(hits), np.int64), owners, 1)[0]
    return share(int(hits.sum()), len(hits), float(effective), "there are no such photos")


def point_decisions(
    point: Mapping[str, Any], probabilities: Probabilities, class_names: Sequence[str]
) -> list[str]:
    """What `Classifier(operating_point=…)` decides from probabilities (n, classes), prior of training.

    The point's label where its probability reaches the threshold, else the most probable other label.
    """
    number = class_names.index(point["label"])
    others = np.array(probabilities, np.float64)
    reached = others[:, number] >= point_cutoff(point["threshold"])
    others[:, number] = -1
    return [class_names[number if hit else best] for hit, best in zip(reached, others.argmax(1), strict=True)]


def shipped_decisions(
    decision: Mapping[str, Any],
    points: Sequence[Mapping[str, Any]],
    probabilities: Probabilities,
    labels: npt.ArrayLike,
    groups: npt.ArrayLike,
    class_names: Sequence[str],
    unknown: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """A variant's `decisions` in bundle.json and report.json, judged on photos with true labels (n,).

    `decision` and `points` are the entries of the variant in bundle.json: the rates of its own decision,
    in `error_rates` those of each rate of its curve, and in `operating_points` those of each point. `unknown`
    (n,) is true where the variant's OOD score refuses a photo, None if it never does; points do not refuse.
    """
    predicted = decide(probabilities, class_names, decision_rule(decision), unknown)
    has_curve = "curve" in decision
    return {
        **decision_rates(predicted, labels, groups, class_names),
        **(
            {"error_rates": _curve_rates(decision, probabilities, labels, groups, unknown)}
            if has_curve
            else {}
        ),
        "operating_points": [
            {
                "label": point["label"],
                "wish": point["wish"],
                **decision_rates(
                    point_decisions(point, probabilities, class_names), labels, groups, class_names
                ),
            }
            for point in points
        ],
    }


def _curve_rates(
    decision: Mapping[str, Any],
    probabilities: Probabilities,
    labels: npt.ArrayLike,
    groups: npt.ArrayLike,
    unknown: npt.ArrayLike | None,
) -> list[dict[str, Any]]:
    """The shares of wrong and unsure photos at each error rate of the curve."""
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == np.asarray(labels)
    owners = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    all_photos = np.ones(len(top), np.bool_)
    rows = []
    for point in decision["curve"]:
        predicted = np.where(top >= point["threshold"], np.where(right, 0, 1), UNSURE_NUMBER)
        if unknown is not None:
            predicted = np.where(np.asarray(unknown), UNKNOWN_NUMBER, predicted)
        found = _rates(predicted, np.zeros(len(top), np.int64), owners, all_photos)
        is_default = point["error_rate"] == decision["error_rate"]
        chosen = {"error_rate": point["error_rate"], "default": is_default}
        rows.append({**chosen, "wrong": found["wrong"], "unsure": found["unsure"]})
    return rows


def shown_rates(decision: Mapping[str, Any]) -> list[Mapping[str, float]]:
    """The points of a decision's curve of error rates for people: without those that leave no less unsure."""
    curve = decision.get("curve", [])
    return [
        point
        for number, point in enumerate(curve)
        if not number
        or point["unsure"] < curve[number - 1]["unsure"]
        or point["error_rate"] == decision["error_rate"]
    ]


def in_words(rates: Mapping[str, Any]) -> str:
    """Rates in one sentence: Of 100 photos: 97 decided, 1 of them wrong, 3 unsure."""
    photos = rates["photos"]
    if not photos:
        return "There are no photos."
    counts = rates["counts"]
    decided, wrong, unsure = counts["right"] + counts["wrong"], counts["wrong"], counts["unsure"]
    number = "photo" if photos == 1 else "photos"
    unknown = f", {counts['unknown']:,} unknown" if counts.get("unknown") else ""
    return (
        f"Of {photos:,} {number}: {decided:,} decided, {wrong:,} of them wrong, {unsure:,} unsure{unknown}."
    )


def many_unsure(rates: Mapping[str, Any]) -> str:
    """A warning where more than a third of the photos are unsure, else nothing."""
    share = rates["unsure"]["value"]
    if share is None or share <= MANY_UNSURE:
        return ""
    return f" Warning: {100 * share:.0f} % are unsure: allow a higher error rate, or train on more photos."


def _rates(predicted: Ints, truth: Ints, owners: Ints, among: Flags) -> dict[str, Any]:
    decided, right = predicted >= 0, predicted == truth
    unsure, unknown = predicted == UNSURE_NUMBER, predicted == UNKNOWN_NUMBER

    def of(hits: Flags, photos: Flags, reason: str) -> Metric:
        effective = effective_photos(np.zeros(int(photos.sum()), np.int64), owners[photos], 1)[0]
        return share(int((hits & photos).sum()), int(photos.sum()), float(effective), reason)

    none = "there are no such photos"
    return {
        "photos": int(among.sum()),
        "groups": len(np.unique(owners[among])),
        "counts": {
            "right": int((right & among).sum()),
            "wrong": int((decided & ~right & among).sum()),
            "unsure": int((unsure & among).sum()),
            "unknown": int((unknown & among).sum()),
        },
        "decided": of(decided, among, none),
        "right": of(right, among, none),
        "wrong": of(decided & ~right, among, none),
        "unsure": of(unsure, among, none),
        "unknown": of(unknown, among, none),
        "wrong_when_decided": of(~right, among & decided, "no photo was decided"),
    }
