"""Image statistics of a frame: brightness, contrast and sharpness, which show dusk, fog or blur as drift."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from catflap.image import Pixels

STATISTICS = ("brightness", "contrast", "sharpness")
NO_STATISTICS = (math.nan,) * len(STATISTICS)
ROW_STEP = 4  # every fourth row is measured, so that it takes a hundredth of an answer's time
ImageStatistics: TypeAlias = tuple[float, ...]


def image_statistics(frame: Pixels) -> ImageStatistics:
    """Brightness, contrast and sharpness of a frame, uint8 (H ≥ 3, W ≥ 3, 3), in the order of STATISTICS.

    They are measured on the green channel, which carries most of the luminance, in every fourth row: mean and
    standard deviation as shares of 255, and ln(1 + v) for the variance v of the 4-neighbour Laplacian.
    """
    green = frame[:, :, 1]
    rows = green[1:-1:ROW_STEP].astype(np.float32)
    laplacian = green[:-2:ROW_STEP, 1:-1].astype(np.float32)
    laplacian += green[2::ROW_STEP, 1:-1]
    laplacian += rows[:, :-2]
    laplacian += rows[:, 2:]
    laplacian -= 4 * rows[:, 1:-1]
    moments = []
    for values in (rows.ravel(), laplacian.ravel()):
        mean = float(values.mean())  # the variance so takes a third of NumPy's time, exact enough for bytes
        moments.append((mean, max(0.0, float(values.dot(values)) / values.size - mean * mean)))
    (mean, variance), (_, roughness) = moments
    return mean / 255, math.sqrt(variance) / 255, math.log1p(roughness)
