"""The photos that a person should look at first: those that were most surely taken for another label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.runtime.scoring import PhotoBytes


@dataclass(frozen=True)
class Mistake:
    """One wrong answer: the photo's name and bytes, its label, and what it was taken for, how surely."""

    name: str
    true: str
    predicted: str
    probability: float
    photo: bytes

    def to_json(self) -> dict[str, Any]:
        """The mistake as it stands in report.json, without the photo."""
        name = self.name.encode("utf-8", "backslashreplace").decode("utf-8")
        probability = round(float(self.probability), 6)
        return {"name": name, "true": self.true, "predicted": self.predicted, "probability": probability}


def worst_mistakes(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: npt.ArrayLike,
    class_names: Sequence[str],
    names: Sequence[str],
    photos: PhotoBytes,
    count: int = 24,
) -> list[Mistake]:
    """The wrong answers with the highest probabilities, one a group, worst first.

    Probabilities (n, classes), labels and groups (n,); `names` say what to call each photo, and
    `photos[i]` gives the bytes of the i-th.
    """
    given, truth, owners = np.asarray(probabilities, np.float64), np.asarray(labels), np.asarray(groups)
    if not len(truth):
        return []
    predicted = given.argmax(axis=1)
    wrong = np.flatnonzero(predicted != truth)
    wrong = wrong[np.argsort(-given[wrong, predicted[wrong]], kind="stable")]
    _, first = np.unique(owners[wrong], return_index=True)
    return [
        Mistake(
            str(names[place]),
            class_names[int(truth[place])],
            class_names[int(predicted[place])],
            float(given[place, predicted[place]]),
            photos[int(place)],
        )
        for place in wrong[np.sort(first)[:count]]
    ]
