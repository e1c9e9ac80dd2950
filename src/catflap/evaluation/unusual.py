"""What out-of-distribution scores need of a label: the mean of its embeddings and how they spread."""

from __future__ import annotations

from typing import Any

import numpy as np

from catflap.evaluation.intervals import Ints, independent
from catflap.runtime.ood import Vectors, pack, residuals, unit, unpack

STRANGENESS = "strangeness"
FEWEST = 5  # independent photos of a label that can tell
AXES = 8  # that are kept; four times as many found unknown things hardly better
PHOTOS_AN_AXIS = 10  # independent ones, at least
PARTS = 10  # of the photos, each held against the others
LIMIT = 0.99  # of the photos are less strange than 1


def embedding_entry(embeddings: Vectors, groups: Ints) -> dict[str, Any] | None:
    """What a baseline keeps of a label's embeddings (n, width), with the strangeness of each photo, (n,).

    The distance of an embedding is the length of what mean and axes leave over of it, the residual of a
    principal component analysis (Jackson & Mudholkar 1979). A photo of the field had no part in those; so
    each calibration photo is held against mean and axes of nine tenths of the others, no group in two parts.
    None when there are fewer than 5 groups (n,).
    """
    names, of = np.unique(groups, return_inverse=True)
    if len(names) < FEWEST:
        return None
    away = np.empty(len(embeddings), np.float32)
    part = of % min(PARTS, len(names))
    for number in range(part.max() + 1):
        mine = part == number
        away[mine] = residuals(embeddings[mine], *unpack(_fit(embeddings[~mine], len(names))))
    limit = round(max(float(np.quantile(away, LIMIT)), 1e-6), 6)
    return {
        "groups": independent(groups),
        **_fit(embeddings, len(names)),
        "limit": limit,
        STRANGENESS: away.astype(np.float64) / limit,
    }


def _fit(embeddings: Vectors, groups: int) -> dict[str, Any]:
    """Mean and axes of embeddings (n, width) of length 1, packed."""
    directions = unit(embeddings).astype(np.float64)
    mean = directions.mean(axis=0)
    spread = directions - mean
    count = min(AXES, groups // PHOTOS_AN_AXIS, len(spread) - 1, len(mean) - 1)
    if len(spread) < len(mean):  # the smaller of two matrices with the same axes
        _, vectors = np.linalg.eigh(spread @ spread.T)
        axes = vectors[:, ::-1][:, :count].T @ spread
    else:
        _, vectors = np.linalg.eigh(spread.T @ spread)
        axes = vectors[:, ::-1][:, :count].T
    greatest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    return pack(mean.astype(np.float32), unit(axes * np.where(greatest < 0, -1, 1)))
