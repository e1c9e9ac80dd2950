"""The threshold for what a user states: a limit on false alarms, a recall to reach, or a cost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.errors import CatflapError
from catflap.evaluation.intervals import Floats, Ints, effective_photos, share

Flags = npt.NDArray[np.bool_]


def operating_point(
    scores: npt.ArrayLike,
    positives: npt.ArrayLike,
    *,
    max_fpr: float | None = None,
    min_recall: float | None = None,
    cost_ratio: float | None = None,
    groups: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """The threshold on one label's score that a stated wish asks for, and what it reaches here.

    A photo is taken for the label when its score (n,) is at or above the threshold; `positives`
    (n,) are true where it is one. State one wish: `max_fpr`, the largest share of false
    positives (gives the most recall within it); `min_recall` (gives the fewest false positives);
    or `cost_ratio`, how many false positives cost as much as one miss (gives the least cost at
    the shares of these photos). The threshold is None where only "never" meets the wish.
    Intervals are Wilson's at this threshold and count `groups` (n,). Choose on calibration
    photos, report on others.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(positives, np.bool_)
    wishes = {"max_fpr": max_fpr, "min_recall": min_recall, "cost_ratio": cost_ratio}
    stated = {name: float(wish) for name, wish in wishes.items() if wish is not None}
    most = math.inf if cost_ratio is not None else 1.0
    if len(stated) != 1 or not all(0 <= wish <= most for wish in stated.values()):
        raise CatflapError(
            "An operating point needs exactly one wish, within its range.",
            "State max_fpr or min_recall (0 to 1), or cost_ratio (0 or more).",
        )
    thresholds, hits, alarms = steps(values, truth)
    if max_fpr is not None:
        chosen = int(np.searchsorted(alarms, max_fpr * alarms[-1] + 1e-9, "right")) - 1
    elif min_recall is not None:
        chosen = int(np.searchsorted(hits, min_recall * hits[-1] - 1e-9, "left"))
    else:
        chosen = int(np.argmin(alarms + stated["cost_ratio"] * (hits[-1] - hits)))
    return {"wish": stated, **reached_at(float(thresholds[chosen]), values, truth, groups=groups)}


def reached_at(
    threshold: float, scores: npt.ArrayLike, positives: npt.ArrayLike, *, groups: npt.ArrayLike | None = None
) -> dict[str, Any]:
    """What a threshold reaches on other photos than those it was chosen on, as `operating_point` has it."""
    values, truth = np.asarray(scores, np.float64), np.asarray(positives, np.bool_)
    owners = (
        np.arange(len(truth)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    )
    return _reached(threshold, values, truth, owners)


def steps(values: Floats, truth: Flags) -> tuple[Floats, Ints, Ints]:
    """The ROC in counts: thresholds from infinity down, and the positives and negatives at or above each."""
    order = np.argsort(-values, kind="stable")
    ranked, right = values[order], truth[order]
    last = (
        np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1) if len(ranked) else np.zeros(0, np.int64)
    )
    hits, alarms = np.cumsum(right, dtype=np.int64)[last], np.cumsum(~right, dtype=np.int64)[last]
    return np.append(math.inf, ranked[last]), np.append(0, hits), np.append(0, alarms)


def _reached(threshold: float, values: Floats, truth: Flags, owners: Ints) -> dict[str, Any]:
    """Recall, false-positive rate and precision of a threshold, each with its interval."""
    taken = values >= threshold

    def rate(hits: Flags, among: Flags, reason: str) -> dict[str, Any]:
        effective = effective_photos(np.zeros(int(among.sum()), np.int64), owners[among], 1)[0]
        return share(int((hits & among).sum()), int(among.sum()), float(effective), reason)

    return {
        "threshold": threshold if math.isfinite(threshold) else None,
        "recall": rate(taken, truth, "no photo has this label"),
        "false_positive_rate": rate(taken, ~truth, "every photo has this label"),
        "precision": rate(truth, taken, "no photo reaches the threshold"),
        "positives": int(truth.sum()),
        "negatives": int((~truth).sum()),
    }
