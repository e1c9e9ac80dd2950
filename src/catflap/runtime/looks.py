"""Image statistics of a frame, whatever it shows: what dusk, a lamp, fog and a lens out of focus change."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.image import Pixels

LOOKS = ("brightness", "contrast", "sharpness")
NO_LOOK = (math.nan,) * len(LOOKS)
EVERY = 4  # rows of which one is looked at, so that it takes a hundredth of an answer's time
Look: TypeAlias = tuple[float, ...]


def look_of(frame: Pixels) -> Look:
    """The brightness, contrast and sharpness of a frame, uint8 (H ≥ 3, W ≥ 3, 3).

    Of its green, which is most of what the eye calls light: mean and standard deviation as shares of 255,
    and ln(1 + v) of the variance v of its Laplacian, 4 neighbours against the pixel. Every fourth row.
    """
    green = frame[:, :, 1]
    rows = green[1:-1:EVERY].astype(np.float32)
    edges = green[:-2:EVERY, 1:-1].astype(np.float32)
    edges += green[2::EVERY, 1:-1]
    edges += rows[:, :-2]
    edges += rows[:, 2:]
    edges -= 4 * rows[:, 1:-1]
    mean, variance = _moments(rows)
    return mean / 255, math.sqrt(variance) / 255, math.log1p(_moments(edges)[1])


def _moments(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Mean and variance; a third of the time that NumPy takes, and exact enough for 8-bit pixels."""
    flat = values.ravel()
    mean = float(flat.mean())
    return mean, max(0.0, float(flat.dot(flat)) / flat.size - mean * mean)
