"""Semantic near-duplicates: photos whose embeddings nearly coincide; the one file that owns usearch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from catflap.artifacts.dataset import Positions
from catflap.errors import CatflapError, missing_extra

LOOKALIKE = 0.96  # cosine
NEIGHBOURS = 8
EXACT = 20_000  # rows; up to here all pairs are compared, above it a graph index is asked
BLOCK = 1024

Vectors = npt.NDArray[np.floating]


def load_embeddings(path: Path) -> Vectors:
    """Embeddings from a .npy file of floats, (n, d); no objects are loaded."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CatflapError(f"{path} cannot be read: {error}.", "Save it with numpy.save.") from error
    if not isinstance(found, np.ndarray) or not np.issubdtype(found.dtype, np.floating):
        raise CatflapError(f"{path} holds no floats.", "Save one row of floats a photo with numpy.save.")
    return found


def alike_pairs(embeddings: Vectors) -> tuple[Positions, Positions]:
    """Pairs of rows (first < second) whose cosine is at least ALIKE; takes (n, d) of any float type.

    Up to 20,000 rows all pairs are compared; above, each row's 8 nearest by usearch's HNSW index
    (Malkov and Yashunin, 2016), which misses a few. Raises CatflapError for rows without length.
    """
    if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
        raise CatflapError(
            f"Embeddings of the shape {embeddings.shape} cannot be compared.",
            "Give finite numbers, one row a photo.",
        )
    lengths = np.linalg.norm(embeddings.astype(np.float32), axis=1, keepdims=True)
    if (lengths == 0).any():
        raise CatflapError("Some embeddings are all zero.", "Compute the embeddings again.")
    unit = embeddings.astype(np.float32) / lengths
    return _all_pairs(unit) if len(unit) <= EXACT else _nearest_pairs(unit)


def _all_pairs(unit: npt.NDArray[np.float32]) -> tuple[Positions, Positions]:
    found = []
    for start in range(0, len(unit), BLOCK):
        one, other = np.nonzero(unit[start : start + BLOCK] @ unit[start:].T >= LOOKALIKE)
        ahead = one < other
        found.append(np.stack([one[ahead], other[ahead]]) + start)
    pairs = np.concatenate([np.empty((2, 0), np.int64), *found], axis=1)
    return pairs[0], pairs[1]


def _nearest_pairs(unit: npt.NDArray[np.float32]) -> tuple[Positions, Positions]:
    try:
        from usearch.index import Index
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from error
    index = Index(ndim=unit.shape[1], metric="cos", dtype="f16")
    index.add(np.arange(len(unit)), unit)
    matches = index.search(unit, NEIGHBOURS + 1)
    first = np.repeat(np.arange(len(unit)), matches.keys.shape[1])
    second = matches.keys.ravel().astype(np.int64)
    near = (matches.distances.ravel() <= 1 - LOOKALIKE) & (first != second)
    low, high = np.minimum(first, second)[near], np.maximum(first, second)[near]
    pairs = np.unique(np.stack([low, high]), axis=1)
    return pairs[0], pairs[1]
