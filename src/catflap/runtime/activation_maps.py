"""Where the network found its label: class activation maps (Zhou et al. 2016) of a photo; drawn by image.py.

With a linear head on the mean of a feature map they are exact: the mean of a label's map is its logit.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from catflap.errors import BadArtifact, CatflapError, system_reason
from catflap.image import Frame, encode, highlight, read_file, read_pixels
from catflap.runtime.engine import Model

if TYPE_CHECKING:
    from catflap.runtime.classifier import Classifier

Heat = npt.NDArray[np.float32]
LONGEST = 80  # characters of a photo's name in that of its picture


def activation_map(model: Model, data: bytes, frame: Frame, label: int) -> Heat | None:
    """The class activation map of a photo's frame for a label, (h, w), 0 to 1; None if the model has none.

    At each place it is how much more that place adds to the label's logit than to the others' on average;
    what is below 0 becomes 0, and the strongest place 1.
    """
    if not getattr(model, "has_cam", False):
        return None
    _, maps = model.with_cam(read_pixels(data, frame)[None])  # type: ignore[attr-defined]
    ours, others = maps[0, label], np.delete(maps[0], label, axis=0)
    positive = np.maximum(ours - (others.mean(axis=0) if len(others) else 0), 0)
    return np.asarray(positive / max(float(positive.max()), 1e-9), np.float32)


class Explainer:
    """Writes a picture of each photo into a new folder, with the Classifier that answered."""

    def __init__(self, classifier: Classifier, folder: Path) -> None:
        """Raises CatflapError when the variant has no maps, or the folder is not new or empty."""
        if not getattr(classifier.model, "has_cam", False):
            raise CatflapError(
                f"The variant {classifier.variant.name} cannot show where it looked.",
                "Use an ONNX or LiteRT variant of a bundle that this version of Catflap exported.",
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if next(folder.iterdir(), None) is not None:
                raise CatflapError(f"{folder} is not empty.", "Name a new folder.")
        except OSError as error:
            raise CatflapError(
                f"{folder} cannot be written: {system_reason(error)}.", "Choose another folder."
            ) from error
        self._classifier, self._folder, self._written = classifier, folder, 0

    def write(self, path: str, label: str) -> Path:
        """The PNG of a photo that shows where the network found this label."""
        data = read_file(path, self._classifier.frame.max_bytes)
        place = self._classifier.labels.index(label)
        heat = activation_map(self._classifier.model, data, self._classifier.frame, place)
        if heat is None:
            raise BadArtifact("The model has lost its maps.", "Open it again.")
        self._written += 1
        out = self._folder / f"{self._written:05}-{Path(path).stem[:LONGEST]}.png"
        out.write_bytes(encode(highlight(data, heat, self._classifier.frame), "PNG"))
        return out
