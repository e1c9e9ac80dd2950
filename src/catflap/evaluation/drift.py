"""Does the field still look like the photos that a variant was judged on? Pure functions on arrays.

What is compared is how sure the answers are, the log-odds of the likeliest label, how strange the photos
are to the network, the distance of their embedding to the mean of that label, and how the frames look:
brightness, contrast, sharpness. Each for every predicted label on its own, so a field with another mix of
the labels raises no alarm. Things that were never learnt are strange, also where the network is sure of
them; blur and darkness that it does not mind yet change how photos look.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.evaluation.intervals import Floats, Ints, independent
from catflap.evaluation.unusual import STRANGENESS, embedding_entry
from catflap.runtime.image_statistics import STATISTICS

WINDOW = 200  # photos
ALARM = 0.002  # a p-value below it; a fifth of 1 in 100, since photos in bursts are fewer than they seem
KNOTS = 101  # quantiles that are kept of a label
DIGITS = 4  # of a quantile, and so of what is compared with it
FEWEST = 5  # photos of a predicted label that can tell how sure answers are
FARTHEST = 1e-9  # of a probability from 0 or 1
SURENESS = "sureness"
MOST = 50  # labels whose embeddings are described; more would make bundle.json large


@dataclass(frozen=True)
class Drift:
    """How far a window of the field is from the baseline.

    `distance` is that of Kolmogorov and Smirnov, 0 to 1; `p` how likely one as large is without any drift,
    given how many things were compared; `score` the distance as a share of the one that alarms, so that
    above 1 it does. They are those of what has drifted `most`; `scores` has the score of each.
    """

    photos: int
    distance: float
    p: float
    score: float
    most: str = SURENESS
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def alarm(self) -> bool:
        """True when the field has changed."""
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
    looks: npt.ArrayLike | None = None,
    embeddings: npt.NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """What a variant's entry in bundle.json keeps of its answers (n, labels) on the calibration role.

    For each predicted label its share and quantiles of the log-odds, and of the `looks` (n, 3), where rows
    that are not numbers are left out; the unit is the group (n,). `embeddings` (k, width) of the first k ≤ n
    photos give what is usual for each label and quantiles of the strangeness. A label that was the answer for
    fewer than 5 photos has no quantiles.
    """
    given = np.asarray(probabilities, np.float64)
    sure, predicted = log_odds(given), given.argmax(axis=1)
    seen = _rows(looks, len(given))
    found: dict[str, Any] = {}
    for place, label in enumerate(labels):
        mine = predicted == place
        entry: dict[str, Any] = {"share": round(float(mine.mean()), 6)}
        if mine.sum() >= FEWEST:
            entry |= {"groups": independent(groups[mine]), "quantiles": _quantiles(sure[mine])}
        if embeddings is not None and len(labels) <= MOST:
            first = np.flatnonzero(mine[: len(embeddings)])
            described = embedding_entry(embeddings[first], groups[first])
            if described is not None:
                entry["embedding"] = described | {STRANGENESS: _quantiles(described[STRANGENESS])}
        mine = mine & np.isfinite(seen).all(axis=1)
        if mine.sum() >= FEWEST:
            columns = zip(STATISTICS, seen[mine].T, strict=True)
            entry["looks"] = {"groups": independent(groups[mine])} | {
                name: _quantiles(of) for name, of in columns
            }
        found[label] = entry
    return {"photos": len(given), "labels": found}


def measure_drift(
    probabilities: npt.ArrayLike,
    labels: Sequence[str],
    baseline: Mapping[str, Any],
    looks: npt.ArrayLike | None = None,
    strangeness: npt.ArrayLike | None = None,
) -> Drift:
    """How far a window of answers (m, labels), looks (m, 3) and strangeness (m,) is from a baseline; m ≥ 1.

    The answers are those under the prior of training. For each thing that both have, the two-sample test of
    Kolmogorov and Smirnov, against the baseline's labels mixed as they are predicted in the window; its
    p-value is Stephens' (1970) approximation, times the number of tests (Bonferroni). Photos of a label
    without quantiles, and looks and strangeness that are not numbers, tell nothing and are left out.
    """
    given = np.asarray(probabilities, np.float64)
    predicted, entries = given.argmax(axis=1), [baseline["labels"].get(label, {}) for label in labels]
    things = [(SURENESS, log_odds(given), entries)]
    if strangeness is not None:
        values = np.asarray(strangeness, np.float64)
        things.append((STRANGENESS, values, [_halved(entry.get("embedding", {})) for entry in entries]))
    looked = [entry.get("looks", {}) for entry in entries]
    for name, values in zip(STATISTICS, _rows(looks, len(given)).T, strict=True):
        things.append((name, values, looked))
    tests = {
        name: _compared(
            values, predicted, [_known(entry, "quantiles" if name == SURENESS else name) for entry in of]
        )
        for name, values, of in things
    }
    photos = tests[SURENESS][0]
    tests = {name: test for name, test in tests.items() if test[0]}
    if not tests:
        return Drift(photos, 0.0, 1.0, 0.0)
    scores = {name: far / _critical(size, len(tests)) for name, (_, far, size) in tests.items()}
    most = max(scores, key=scores.__getitem__)
    _, distance, size = tests[most]
    return Drift(photos, distance, min(1.0, len(tests) * _p(distance, size)), scores[most], most, scores)


def _halved(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Mean and axes are of the very photos that they measure, so half as many count as independent."""
    return {**entry, "groups": max(1, entry["groups"] // 2)} if entry else entry


Quantiles: TypeAlias = tuple[int, Sequence[float]]  # of how many independent photos, and what they are


def _known(entry: Mapping[str, Any], name: str) -> Quantiles | None:
    return (entry["groups"], entry[name]) if {"groups", name} <= set(entry) else None


def _compared(values: Floats, predicted: Ints, known: Sequence[Quantiles | None]) -> tuple[int, float, float]:
    """How many values (m,) could be compared, the distance, and the size of a sample that it counts for."""
    able = np.array([one is not None for one in known])[predicted] & np.isfinite(values)
    values, predicted = np.sort(np.round(values[able], DIGITS)), predicted[able]
    if not len(values):
        return 0, 0.0, 1.0
    shares = np.bincount(predicted, minlength=len(known)) / len(values)
    less, at_most, spread = np.zeros(len(values)), np.zeros(len(values)), 0.0
    for one, share in zip(known, shares.tolist(), strict=True):
        if one is not None and share:
            found = _cumulative(values, one[1])
            less, at_most = less + share * found[0], at_most + share * found[1]
            spread += share**2 / one[0]
    first, last = (np.searchsorted(values, values, side) / len(values) for side in ("left", "right"))
    distance = float(max((last - at_most).max(), (less - first).max(), 0.0))
    return len(values), distance, 1 / (1 / len(values) + spread)


def log_odds(probabilities: npt.ArrayLike) -> Floats:
    """How sure each answer (n, labels) is: the log-odds of its likeliest label, (n,)."""
    given = np.asarray(probabilities, np.float64)
    best = given.argmax(axis=1)
    rest = given.copy()
    rest[np.arange(len(given)), best] = 0
    others = np.clip(rest.sum(axis=1), FARTHEST, 1 - FARTHEST)  # 1 - p would lose the digits that matter
    odds: Floats = np.log1p(-others) - np.log(others)
    return odds


def _rows(looks: npt.ArrayLike | None, count: int) -> Floats:
    return np.full((count, len(STATISTICS)), np.nan) if looks is None else np.asarray(looks, np.float64)


def _quantiles(values: Floats) -> list[float]:
    shares = np.linspace(0, 1, min(KNOTS, len(values)))
    return [round(float(value), DIGITS) for value in np.quantile(values, shares)]


def _cumulative(values: Floats, quantiles: Sequence[float]) -> tuple[Floats, Floats]:
    """The shares of the baseline that are less than each value, and at most as large; ties part them."""
    knots = np.maximum.accumulate(np.asarray(quantiles, np.float64))
    shares = np.linspace(0, 1, len(knots))
    more = np.interp(-values, -knots[::-1], shares, left=0.0, right=1.0)
    return 1 - more, np.interp(values, knots, shares, left=0.0, right=1.0)


def _p(distance: float, size: float) -> float:
    """The chance of a distance as large between two samples of the same distribution."""
    root = math.sqrt(size)
    reach = (root + 0.12 + 0.11 / root) * distance
    if reach < 0.2:
        return 1.0
    terms = ((2.0 if k % 2 else -2.0) * math.exp(-2 * (k * reach) ** 2) for k in range(1, 101))
    return min(1.0, max(0.0, sum(terms)))


def _critical(size: float, tests: int) -> float:
    """The distance that just alarms, as one of so many tests."""
    root = math.sqrt(size)
    return math.sqrt(-math.log(ALARM / tests / 2) / 2) / (root + 0.12 + 0.11 / root)
