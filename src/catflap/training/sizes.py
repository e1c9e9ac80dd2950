"""How many pixels most photos show; what suits large photos does not suit small ones."""

from __future__ import annotations

from contextlib import suppress
from statistics import median_low

import numpy as np

from catflap.artifacts.dataset import Dataset, Photos
from catflap.errors import BadPhoto
from catflap.image import inspect

SAMPLE = 100  # photos, whose headers tell their size


def photo_side(photos: Photos) -> int:
    """The longer side in px of most photos; large where none can be read, which the loader tells."""
    sides = []
    for position in np.argsort(photos.ids)[:SAMPLE]:
        with suppress(BadPhoto):
            header = inspect(photos[int(position)])
            sides.append(max(header.width, header.height))
    return median_low(sides) if sides else 1 << 16


def side_of(dataset: Dataset) -> int:
    """The side in px of what is seen of most train photos: their own or, where it is less, the frame's."""
    return min(photo_side(dataset.photos("train")), max(dataset.frame.width, dataset.frame.height))
