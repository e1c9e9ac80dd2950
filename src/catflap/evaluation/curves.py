"""What the pictures of a Report are drawn from: reliability, ROC and histogram, ready for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.evaluation.intervals import Floats, Ints, effective_photos, share
from catflap.evaluation.metrics import BINS
from catflap.evaluation.operating import steps

ROC_LINES = 5
ROC_POINTS = 300
BARS = 25


def curves(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike, class_names: Sequence[str]
) -> dict[str, Any]:
    """The curves of one variant, from probabilities (n, classes), labels (n,) and groups (n,).

    `reliability` has a point for each of 15 bins of the stated probability; `roc` a line for the
    first of two labels, or for the five labels that are hardest to tell; `histogram` counts the
    probability of the first of two labels by true label, or the highest one, right and wrong.
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
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    effective = effective_photos(bins, owners, BINS)
    points = []
    for place in np.unique(bins):
        inside = bins == place
        rate = share(int(right[inside].sum()), int(inside.sum()), effective[place], "")
        stated = round(float(confidence[inside].mean()), 6)
        points.append({"stated": stated, "photos": int(inside.sum()), **rate})
    return points


def _roc(given: Floats, truth: Ints, names: Sequence[str]) -> list[dict[str, Any]]:
    """Lines as points (false-positive rate, recall), thinned where they are dense.

    Of each label only the area above its line is kept; those that are shown are then drawn once more.
    """
    missed = []
    for label in range(1 if len(names) == 2 else len(names)):
        if 0 < (truth == label).sum() < len(truth):
            recall, alarm_rate = _rates(given, truth, label)
            missed.append((-float((np.diff(alarm_rate) * (2 - recall[1:] - recall[:-1])).sum()) / 2, label))
    shown = sorted(missed)[:ROC_LINES]
    return [_line(names[label], *_rates(given, truth, label)) for _, label in shown]


def _rates(given: Floats, truth: Ints, label: int) -> tuple[Floats, Floats]:
    """Recall and false-positive rate of a label at each of its thresholds, from the highest down."""
    _, hits, alarms = steps(given[:, label], truth == label)
    return hits / hits[-1], alarms / alarms[-1]


def _line(name: str, recall: Floats, alarm_rate: Floats) -> dict[str, Any]:
    """Corners only; of many corners, evenly many on the logarithm of the false-positive rate."""
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
    bars = np.clip((values * BARS).astype(np.int64), 0, BARS - 1)
    up, down = np.bincount(bars[first], minlength=BARS), np.bincount(bars[~first], minlength=BARS)
    return {**words, "up_photos": up.tolist(), "down_photos": down.tolist()}
