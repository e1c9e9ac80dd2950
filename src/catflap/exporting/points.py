"""A variant's operating points: chosen on the calibration role, reported on the test role."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from catflap.artifacts.dataset import Photos
from catflap.errors import Refused
from catflap.evaluation.calibration import operating_point, rates_at, threshold_steps
from catflap.evaluation.intervals import Flags, Floats
from catflap.runtime.decisions import PointSpec, Probabilities, point_cutoff

FIGURES = ("recall", "false_positive_rate", "precision", "positives", "negatives")
PROOF = ("confidence", "groups", "proven", "missing")


def choose_point(
    wish: PointSpec,
    variant: str,
    labels: Sequence[str],
    calibration: tuple[Probabilities, Photos],
    test: tuple[Probabilities, Photos],
) -> dict[str, Any]:
    """An entry of `operating_points` in bundle.json, from the calibrated probabilities of two roles.

    Raises Refused when no threshold on the calibration photos meets the goal. Where they are too few to
    prove it with 95 % confidence, `note` says how many are missing.
    """
    position = labels.index(wish.label)
    (answered, photos), (judged, others) = calibration, test
    scores, is_it = answered[:, position], photos.labels == position
    point = operating_point(scores, is_it, groups=photos.groups, **{wish.kind: wish.value})
    threshold = point["threshold"]
    if threshold is None or not is_it.any():
        raise _unmet(wish, variant, scores, is_it)
    reached = rates_at(
        point_cutoff(threshold), judged[:, position], others.labels == position, groups=others.groups
    )
    return {
        "label": wish.label,
        "wish": point["wish"],
        "threshold": threshold,
        **{name: point[name] for name in PROOF if name in point},
        "calibration": {name: point[name] for name in FIGURES},
        "test": {name: reached[name] for name in FIGURES},
        **_note(wish, point),
    }


def _unmet(wish: PointSpec, variant: str, scores: Floats, is_it: Flags) -> Refused:
    what = f"No threshold of {variant} meets {wish.name} on the calibration photos"
    if not is_it.any():
        return Refused(f"{what}: none of them is {wish.label}.", "Prepare the dataset from more photos.")
    if wish.kind != "max_fpr":
        return Refused(f"{what}, except never to say {wish.label}.", f"State a greater {wish.kind}.")
    _, _, alarms = threshold_steps(scores, is_it)
    least = math.ceil(1e6 * alarms[1] / alarms[-1]) / 1e6
    return Refused(
        f"{what}, except never to say {wish.label}: {alarms[1]} of {alarms[-1]} others score highest.",
        f"Check their labels, or allow more: {wish.label}:max_fpr={least:.6g}.",
    )


def _note(wish: PointSpec, point: dict[str, Any]) -> dict[str, str]:
    """How many photos are missing to prove the goal with 95 % confidence."""
    if point.get("proven", True):
        return {}
    who = wish.label if wish.kind == "min_recall" else f"labels other than {wish.label}"
    if point["missing"] is None:
        return {"note": f"not proven: no number of photos proves {wish.kind}={wish.value:.12g}"}
    return {
        "note": f"not proven with 95 % confidence: {point['groups']:,} independent calibration photos of "
        f"{who}, {point['missing']:,} more are needed"
    }
