"""Does the field still look like the photos that a variant was judged on? Pure functions on arrays.

What is compared is how sure the answers are: the log-odds of the likeliest label, for each predicted
label on its own. So a field with another mix of the labels raises no alarm; blur, darkness and things
that were never learnt do, for they change how sure a network is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.evaluation.intervals import Floats, Ints

WINDOW = 200  # photos
ALARM = (
    0.005  # a p-value below it; half of 1 in 100, since photos that come in bursts are fewer than they seem
)
KNOTS = 101  # quantiles that are kept of a label
FEWEST = 5  # photos of a predicted label that can tell how sure answers are
FARTHEST = 1e-9  # of a probability from 0 or 1


@dataclass(frozen=True)
class Drift:
    """How far a window of the field is from the baseline.

    `distance` is that of Kolmogorov and Smirnov, 0 to 1; `p` how likely one as large is without any drift;
    `score` the distance as a share of the one that alarms, so that above 1 it does.
    """

    photos: int
    distance: float
    p: float
    score: float

    @property
    def alarm(self) -> bool:
        """True when the field has changed."""
        return self.p < ALARM

    def to_json(self) -> dict[str, Any]:
        """The fields as `catflap drift` prints them."""
        numbers = {"distance": round(self.distance, 4), "p": self.p, "score": round(self.score, 4)}
        return {"photos": self.photos, **numbers, "alarm": self.alarm}


def make_baseline(probabilities: npt.ArrayLike, labels: Sequence[str], groups: Ints) -> dict[str, Any]:
    """What a variant's entry in bundle.json keeps of its answers (n, labels) on the calibration role.

    For each predicted label its share and quantiles of the log-odds; the unit is the group (n,).
    A label that was the answer for fewer than 5 photos has no quantiles.
    """
    given = np.asarray(probabilities, np.float64)
    sure, predicted = log_odds(given), given.argmax(axis=1)
    found: dict[str, Any] = {}
    for place, label in enumerate(labels):
        mine = predicted == place
        entry: dict[str, Any] = {"share": round(float(mine.mean()), 6)}
        if mine.sum() >= FEWEST:
            entry |= _quantiles(sure[mine], groups[mine])
        found[label] = entry
    return {"photos": len(given), "labels": found}


def measure_drift(probabilities: npt.ArrayLike, labels: Sequence[str], baseline: Mapping[str, Any]) -> Drift:
    """How far a window of answers (m, labels) is from a baseline; m ≥ 1.

    The answers are those under the prior of training. The two-sample test of Kolmogorov and Smirnov,
    against the baseline's labels mixed as they are predicted in the window; its p-value is Stephens' (1970)
    approximation. Photos of a label without quantiles tell nothing and are left out.
    """
    given = np.asarray(probabilities, np.float64)
    known = [baseline["labels"].get(label, {}) for label in labels]
    able = np.array([{"groups", "quantiles"} <= set(entry) for entry in known])
    given = given[able[given.argmax(axis=1)]]
    if not len(given):
        return Drift(0, 0.0, 1.0, 0.0)
    sure, predicted = np.sort(log_odds(given)), given.argmax(axis=1)
    shares = np.bincount(predicted, minlength=len(labels)) / len(given)
    below, spread = np.zeros(len(given)), 0.0
    for entry, share in zip(known, shares.tolist(), strict=True):
        if share:
            below += share * _cumulative(sure, entry["quantiles"])
            spread += share**2 / entry["groups"]
    steps = np.arange(len(given) + 1) / len(given)
    distance = float(max((steps[1:] - below).max(), (below - steps[:-1]).max(), 0.0))
    size = 1 / (1 / len(given) + spread)
    return Drift(len(given), distance, _p(distance, size), distance / _critical(size))


def log_odds(probabilities: npt.ArrayLike) -> Floats:
    """How sure each answer (n, labels) is: the log-odds of its likeliest label, (n,)."""
    given = np.asarray(probabilities, np.float64)
    best = given.argmax(axis=1)
    rest = given.copy()
    rest[np.arange(len(given)), best] = 0
    others = np.clip(rest.sum(axis=1), FARTHEST, 1 - FARTHEST)  # 1 - p would lose the digits that matter
    odds: Floats = np.log1p(-others) - np.log(others)
    return odds


def _quantiles(sure: Floats, groups: Ints) -> dict[str, Any]:
    shares = np.linspace(0, 1, min(KNOTS, len(sure)))
    return {
        "groups": len(np.unique(groups)),
        "quantiles": [round(float(value), 4) for value in np.quantile(sure, shares)],
    }


def _cumulative(sure: Floats, quantiles: Sequence[float]) -> Floats:
    """The share of the baseline that is at most so sure."""
    knots = np.maximum.accumulate(np.asarray(quantiles, np.float64))
    shares = np.linspace(0, 1, len(knots))
    found: Floats = np.interp(sure, knots, shares, left=0.0, right=1.0)
    return found


def _p(distance: float, size: float) -> float:
    """The chance of a distance as large between two samples of the same distribution."""
    root = math.sqrt(size)
    reach = (root + 0.12 + 0.11 / root) * distance
    if reach < 0.2:
        return 1.0
    terms = ((2.0 if k % 2 else -2.0) * math.exp(-2 * (k * reach) ** 2) for k in range(1, 101))
    return min(1.0, max(0.0, sum(terms)))


def _critical(size: float) -> float:
    """The distance that just alarms."""
    root = math.sqrt(size)
    return math.sqrt(-math.log(ALARM / 2) / 2) / (root + 0.12 + 0.11 / root)
