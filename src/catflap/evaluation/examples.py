"""Which photos a Report shows: the worst mistakes, the least sure answers, some of each matrix cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.runtime.scoring import PhotoBytes

MISTAKES = 24
LEAST_SURE = 12
OF_CELL = 8
OF_CELLS = 120


@dataclass(frozen=True)
class Answered:
    """A photo with its answer: name, label, predicted label and its probability, and the photo's bytes.

    `where` is a JPEG that shows where the network found the predicted label, if that is known.
    """

    name: str
    true: str
    predicted: str
    probability: float
    photo: bytes
    where: bytes = b""

    def to_json(self) -> dict[str, Any]:
        """The answer as in report.json, without the photo."""
        name = self.name.encode("utf-8", "backslashreplace").decode("utf-8")
        probability = round(float(self.probability), 6)
        return {"name": name, "true": self.true, "predicted": self.predicted, "probability": probability}


@dataclass(frozen=True)
class Examples:
    """The photos that a Report shows.

    `mistakes` are the wrong predictions with the highest probabilities, `least_sure` the right ones with the
    lowest, and `cells` maps true and predicted class numbers to some photos of that cell of the confusion
    matrix: the most confident mistakes, the least confident right answers.
    """

    mistakes: tuple[Answered, ...] = ()
    least_sure: tuple[Answered, ...] = ()
    cells: dict[tuple[int, int], tuple[Answered, ...]] | None = None


def choose_examples(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: npt.ArrayLike,
    class_names: Sequence[str],
    names: Sequence[str],
    photos: PhotoBytes,
) -> Examples:
    """The examples among photos: at most one of each group in a list.

    Probabilities (n, classes), labels and groups (n,), `names` of the photos; `photos[i]` gives the bytes of
    photo i. Cells with mistakes come first, the largest first.
    """
    truth, owners = np.asarray(labels, np.int64), np.asarray(groups)
    if not len(truth):
        return Examples()
    given = np.asarray(probabilities, np.float64)
    predicted, top = given.argmax(axis=1), given.max(axis=1)

    def shown(among: npt.NDArray[np.bool_], count: int, *, confident: bool) -> tuple[Answered, ...]:
        chosen = np.flatnonzero(among)
        chosen = chosen[np.argsort(-top[chosen] if confident else top[chosen], kind="stable")]
        _, first = np.unique(owners[chosen], return_index=True)
        return tuple(
            Answered(
                str(names[place]),
                class_names[int(truth[place])],
                class_names[int(predicted[place])],
                float(top[place]),
                photos[int(place)],
            )
            for place in chosen[np.sort(first)[:count]]
        )

    pairs, counts = np.unique(np.stack([truth, predicted], 1), axis=0, return_counts=True)
    cells: dict[tuple[int, int], tuple[Answered, ...]] = {}
    left = OF_CELLS
    for true, other in pairs[np.lexsort((-counts, pairs[:, 0] == pairs[:, 1]))].tolist():
        inside = (truth == true) & (predicted == other)
        cells[true, other] = shown(inside, min(OF_CELL, left), confident=true != other)
        left -= len(cells[true, other])
    return Examples(
        shown(predicted != truth, MISTAKES, confident=True),
        shown(predicted == truth, LEAST_SURE, confident=False),
        {cell: some for cell, some in cells.items() if some},
    )
