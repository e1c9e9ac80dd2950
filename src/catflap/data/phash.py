"""The perceptual hash of a photo, and the small picture that confirms what the hash suggests.

The hash is the DCT hash of Zauner ("Implementation and Benchmarking of Perceptual Image Hash
Functions", 2010), with the sign of each coefficient in place of a median: rows and columns 1 to 8
of the two-dimensional DCT-II of the photo at 32 × 32 grey pixels. With signs, mirroring a photo
flips exactly the bits of the odd columns, so a mirrored copy is found without decoding anything twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from catflap.image import Pixels

SIDE = 32  # px of the grey picture that is hashed
THUMB = 16  # px of the picture that confirms it
FLAT = 2.0  # grey levels; a photo whose pixels spread less than this has no hash

Floats = npt.NDArray[np.float32]

_K, _X = np.arange(1, 9)[:, None], np.arange(SIDE)[None, :]
_DCT: Floats = np.cos(np.pi * _K * (2 * _X + 1) / (2 * SIDE)).astype(np.float32)
_BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)
MIRROR = int(_BITS.reshape(8, 8)[:, 0::2].sum())


@dataclass(frozen=True)
class Signature:
    """`phash` has 64 bits, or is None for a flat photo; `thumb` is 16 × 16 grey pixels stretched to 0..255.

    `spread` is the standard deviation of the grey pixels, in levels.
    """

    phash: int | None
    thumb: bytes
    spread: float


def signature(grey: Pixels, extent: tuple[float, float], orientation: int = 1) -> Signature:
    """The hash and small picture of a photo, nearly the same however it is encoded or scaled.

    Takes grey pixels, uint8 (height, width).

    `extent` is the height and width that the photo covers in these pixels, which a scaled decoder
    rounds up: a shift of half a pixel would change the hash. `orientation` is the EXIF tag, 1 to 8.
    """
    down, across = _averages(grey.shape[0], extent[0]), _averages(grey.shape[1], extent[1])
    small = _upright(down @ grey.astype(np.float32) @ across.T, orientation)
    spread = float(small.std())
    thumb = small.reshape(THUMB, SIDE // THUMB, THUMB, SIDE // THUMB).mean(axis=(1, 3))
    low, high = thumb.min(), thumb.max()
    stretched = np.rint((thumb - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
    if spread < FLAT:
        return Signature(None, stretched.tobytes(), spread)
    # In a symmetric drawing a coefficient near zero has an arbitrary sign; rounding makes it 0.
    positive = np.rint(_DCT @ small @ _DCT.T) > 0
    return Signature(int(_BITS[positive.ravel()].sum()), stretched.tobytes(), spread)


def mirror_thumbs(thumbs: Pixels) -> Pixels:
    """Small pictures, uint8 (n, 256), as the mirrored photos would have them."""
    return thumbs.reshape(-1, THUMB, THUMB)[:, :, ::-1].reshape(-1, THUMB * THUMB)


def likeness(first: Pixels, second: Pixels) -> Floats:
    """The similarity of pairs of small pictures, uint8 (n, 256) each: the correlation of gradients, -1 to 1.

    Gradients, not grey levels: two skies have the same levels, but not the same edges.
    """
    one, other = _gradients(first), _gradients(second)
    product: Floats = (one * other).sum(axis=1)
    return product


def _upright(small: Floats, orientation: int) -> Floats:
    if orientation >= 5:
        small = small.T
    if orientation in (2, 3, 6, 7):
        small = small[:, ::-1]
    return small[::-1] if orientation in (3, 4, 7, 8) else small


def _gradients(thumbs: Pixels) -> Floats:
    square = thumbs.reshape(-1, THUMB, THUMB).astype(np.float32)
    down, across = np.diff(square, axis=1), np.diff(square, axis=2)
    edges = THUMB * (THUMB - 1)
    flat = np.concatenate([down.reshape(-1, edges), across.reshape(-1, edges)], axis=1)
    gradients: Floats = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return gradients


@lru_cache(maxsize=1024)
def _averages(pixels: int, extent: float) -> Floats:
    """The matrix (SIDE, pixels) that averages the first `extent` of some pixels over SIDE equal boxes."""
    edges = np.linspace(0, extent, SIDE + 1)
    starts, ends = edges[:-1, None], edges[1:, None]
    pixel = np.arange(pixels)[None, :]
    cover = np.clip(np.minimum(ends, pixel + 1) - np.maximum(starts, pixel), 0, None)
    weights: Floats = (cover / cover.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights
