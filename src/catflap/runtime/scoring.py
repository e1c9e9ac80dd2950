"""Many photos in, logits out: how a variant is scored from raw photo bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias

import numpy as np

from catflap.ahead import ahead
from catflap.errors import BadPhoto, CatflapError
from catflap.image import Frame, Pixels, decode, read_pixels
from catflap.progress import Progress, silent, told
from catflap.runtime.engines.model import Logits, Model

BATCH = 16
Reader: TypeAlias = Callable[[bytes, Frame], Pixels]


class PhotoBytes(Protocol):
    """Photos by position: a role of a Dataset, or a list of bytes."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, position: int, /) -> bytes:
        """The bytes of one."""


def frames_of(
    photos: PhotoBytes, frame: Frame, workers: int = 2, batch: int = BATCH, *, whole: bool = False
) -> Iterator[Pixels]:
    """Batches of frames, uint8 (≤ batch, height, width, 3), in the order of the photos.

    `whole` gives each photo alone and decoded only, (1, H, W, 3), for graphs with the Frame inside.
    Raises BadPhoto that tells which photo cannot be decoded.
    """
    batch, read = (1, decode) if whole else (batch, read_pixels)
    starts = range(0, len(photos), batch)
    return ahead(lambda start: _batch(photos, frame, start, batch, read), starts, workers)


def score(
    model: Model,
    photos: PhotoBytes,
    frame: Frame,
    step: str = "score",
    progress: Progress = silent,
    *,
    whole: bool = False,
) -> Logits:
    """The logits, float32 (n, labels), of photos read from their bytes through the frame; n ≥ 1.

    `whole` leaves crop and resize to the model, which has the Frame inside.
    """
    if not len(photos):
        raise CatflapError("There are no photos to judge.", "Name photos that can be read.")
    parts: Sequence[Logits] = [
        model(frames)
        for frames in told(
            frames_of(photos, frame, whole=whole), step, -(-len(photos) // (1 if whole else BATCH)), progress
        )
    ]
    return np.concatenate(parts)


def _batch(photos: PhotoBytes, frame: Frame, start: int, batch: int, read: Reader) -> Pixels:
    stop = min(start + batch, len(photos))
    return np.stack([_pixels(photos, position, frame, read) for position in range(start, stop)])


def _pixels(photos: PhotoBytes, position: int, frame: Frame, read: Reader) -> Pixels:
    data = photos[position]
    try:
        return read(data, frame)
    except BadPhoto as error:
        which = f"Photo {position + 1} of {len(photos)}, sha256 {hashlib.sha256(data).hexdigest()}"
        raise BadPhoto(
            error.reason, f"{which}: {error.what}", "Scan and prepare the photos again."
        ) from error
