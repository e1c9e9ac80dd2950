"""A variant's operating points: chosen on the calibration role, reported on the test role."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from catflap.artifacts.dataset import Photos
from catflap.errors import Refused
from catflap.evaluation.intervals import Floats, independent
from catflap.evaluation.operating import Flags, operating_point, reached_at, steps
from catflap.runtime.decisions import PointSpec, Probabilities, point_cutoff

FIGURES = ("recall", "false_positive_rate", "precision", "positives", "negatives")


def choose_point(
    wish: PointSpec,
    variant: str,
    labels: Sequence[str],
    calibration: tuple[Probabilities, Photos],
    test: tuple[Probabilities, Photos],
) -> dict[str, Any]:
    """An entry of `operating_points` in bundle.json, from the calibrated probabilities of two roles.

    Raises Refused when no threshold on the calibration photos meets the wish. A rate that so few photos
    cannot show gets a `note`.
    """
    position = labels.index(wish.label)
    (answered, photos), (judged, others) = calibration, test
    scores, is_it = answered[:, position], photos.labels == position
    point = operating_point(scores, is_it, groups=photos.groups, **{wish.kind: wish.value})
    threshold = point["threshold"]
    if threshold is None or not is_it.any():
        raise _unmet(wish, variant, scores, is_it)
    reached = reached_at(
        point_cutoff(threshold), judged[:, position], others.labels == position, groups=others.groups
    )
    return {
        "label": wish.label,
        "wish": point["wish"],
        "threshold": threshold,
        "calibration": {name: point[name] for name in FIGURES},
        "test": {name: reached[name] for name in FIGURES},
        **_note(wish, photos, position),
    }


def _unmet(wish: PointSpec, variant: str, scores: Floats, is_it: Flags) -> Refused:
    what = f"No threshold of {variant} meets {wish.name} on the calibration photos"
    if not is_it.any():
        return Refused(f"{what}: none of them is {wish.label}.", "Prepare the dataset from more photos.")
    what += f", but never to say {wish.label}"
    if wish.kind != "max_fpr":
        return Refused(f"{what}.", f"State a greater {wish.kind}.")
    _, _, alarms = steps(scores, is_it)
    least = math.ceil(1e6 * alarms[1] / alarms[-1]) / 1e6
    return Refused(
        f"{what}: the highest already lets {alarms[1]} of {alarms[-1]} others pass.",
        f"Look whether their labels are right, or allow more: {wish.label}:max_fpr={least:.6g}.",
    )


def _note(wish: PointSpec, photos: Photos, position: int) -> dict[str, str]:
    """What the photos are too few to show, groups counted once."""
    rate = {"max_fpr": wish.value, "min_recall": 1 - wish.value}.get(wish.kind)
    is_it = photos.labels == position
    count = independent(photos.groups[is_it if wish.kind == "min_recall" else ~is_it])
    if rate is None or rate * count >= 1 - 1e-9:
        return {}
    who = wish.label if wish.kind == "min_recall" else f"others than {wish.label}"
    told = f"{count} independent calibration photos of {who} cannot show a rate of {rate:.3g}"
    return {"note": f"{told}; the least that they can show is 1 in {count}"}
