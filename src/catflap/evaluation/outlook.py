"""The outlook: what the measured accuracy promises at least, and what it would promise with more photos.

The error rate of a classifier falls about as a power of the number of photos that it learns from (Hestness
et al. 2017, arXiv:1712.00409). The power is fitted to a measured learning curve. More photos also mean more
test photos, which narrow the interval; with few photos that is most of the gain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from catflap.evaluation.intervals import Metric, wilson

MORE = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # photos of each label
MOST = 20  # times the photos there are: beyond that a fitted power law is not reliable
GOALS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999)
STEP = 0.2  # of the possible errors above the lower bound that a goal must remove
POWER = 0.5  # of the error rate where the learning curve shows none, as in most published curves
MAX_POWER = 1.0
FEW = 30  # independent test photos below which the interval is too wide to be of use


def promised(accuracy: Metric) -> float | None:
    """The share of new photos that get the right answer at least: the lower end of the 95 % interval."""
    return None if accuracy["low"] is None else math.floor(100 * float(accuracy["low"])) / 100


def curve_points(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The learning curve in a Checkpoint's history: `photos`, `accuracy`, `low` and `high` of each point."""
    points = []
    for entry in history:
        if entry.get("step") == "curve" and entry.get("judged_by"):
            share = entry["right"] / entry["judged_by"]
            low, high = wilson(share, entry["judged_by"])
            named = {"accuracy": share, "low": float(low), "high": float(high)}
            points.append({"photos": entry["photos"], **named})
    return points


def outlook(
    points: Sequence[Mapping[str, Any]], accuracy: Metric, *, photos: int, groups: int, labels: int
) -> list[dict[str, Any]]:
    """What more photos of each label would promise: a row for each number in MORE that is not too far away.

    `points` is the learning curve, `accuracy` was measured on test photos in so many independent `groups`,
    and `photos` are used in all. A row has `each_label`, the expected `accuracy`, and the share that would be
    `promised` if test photos grow as the others do. Empty where nothing was measured.
    """
    if accuracy["value"] is None or not groups:
        return []
    error = ((1 - accuracy["value"]) * groups + 0.5) / (groups + 1)  # not 0 where no photo was wrong
    power, rows = error_power(points), []
    for each in MORE:
        growth = 1 + each * labels / photos
        if growth > MOST:
            break
        expected = 1 - error * growth**-power
        low = float(wilson(expected, groups * growth)[0])
        rows.append(
            {"each_label": each, "accuracy": round(expected, 4), "promised": math.floor(100 * low) / 100}
        )
    return rows


def error_power(points: Sequence[Mapping[str, Any]]) -> float:
    """By which power of the photos the error rate falls along a learning curve, 0 to MAX_POWER."""
    wrong = [1 - point["accuracy"] for point in points]
    if len(points) < 2 or max(wrong) <= 0:
        return POWER
    floor = 0.25 * min(share for share in wrong if share > 0)  # the logarithm of no error at all
    x = np.log([point["photos"] for point in points])
    y = np.log(np.maximum(wrong, floor))
    weights = np.sqrt(np.maximum(wrong, floor))  # few errors: an uncertain logarithm
    slope = float(np.polyfit(x, y, 1, w=weights)[0])
    return min(MAX_POWER, max(0.0, -slope))


def next_goal(rows: Sequence[Mapping[str, Any]], now: float) -> Mapping[str, Any] | None:
    """The row with the fewest photos that promise a goal clearly above `now`, the share promised now."""
    goal = next((goal for goal in GOALS if goal >= now + STEP * (1 - now)), None)
    return next((row for row in rows if goal is not None and row["promised"] >= goal), None)
