"""Scoring: the logits of many photos from their raw bytes, in batches, with resume."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from catflap.artifacts.folder import write_atomically
from catflap.errors import BadPhoto, CatflapError
from catflap.image import Frame, Pixels, decode, read_pixels
from catflap.progress import Progress, prefetch, silent
from catflap.runtime.engine import Logits, Model

BATCH = 16
PART = 2048  # photos whose logits are written together: what a stopped run loses


class PhotoBytes(Protocol):
    """Photos by position: a role of a Dataset, or a list of bytes."""

    def __len__(self) -> int:
        """The number of photos."""

    def __getitem__(self, position: int, /) -> bytes:
        """The bytes of one photo."""


def frames_of(
    photos: PhotoBytes,
    frame: Frame,
    workers: int = 2,
    batch: int = BATCH,
    *,
    whole: bool = False,
    begin: int = 0,
) -> Iterator[Pixels]:
    """Batches of frames, uint8 (≤ batch, height, width, 3), in the order of the photos from `begin` on.

    `whole` gives each photo alone, decoded but not resized, (1, H, W, 3), for graphs that contain the Frame.
    Raises BadPhoto, naming the photo, when one cannot be decoded.
    """
    batch, read = (1, decode) if whole else (batch, read_pixels)

    def load(start: int) -> Pixels:
        frames = []
        for position in range(start, min(start + batch, len(photos))):
            data = photos[position]
            try:
                frames.append(read(data, frame))
            except BadPhoto as error:
                name = f"Photo {position + 1} of {len(photos)}, sha256 {hashlib.sha256(data).hexdigest()}"
                raise BadPhoto(
                    error.reason, f"{name}: {error.what}", "Scan and prepare the photos again."
                ) from error
        return np.stack(frames)

    return prefetch(load, range(begin, len(photos), batch), workers)


def score(
    model: Model,
    photos: PhotoBytes,
    frame: Frame,
    step: str = "score",
    progress: Progress = silent,
    *,
    whole: bool = False,
    kept: Path | None = None,
    workers: int = 2,
    part: int = PART,
) -> Logits:
    """The logits, float32 (n, labels), of photos read from their bytes through the frame; n ≥ 1.

    `whole` leaves crop and resize to the model, whose graph contains the Frame. `kept` is a folder for these
    photos and this model alone: logits are written there `part` photos at a time, a multiple of 16, and a
    later run continues from those that it finds. `workers` threads read the photos.
    """
    if not len(photos):
        raise CatflapError("There are no photos to score.", "Name photos that can be read.")
    batch = 1 if whole else BATCH
    parts = _read_parts(kept, len(photos), part) if kept else []
    done, total, recent = part * len(parts), -(-len(photos) // batch), list[Logits]()
    progress(step, done // batch, total)
    for frames in frames_of(photos, frame, workers, whole=whole, begin=done):
        recent.append(model(frames))
        done += len(frames)
        if done % part == 0 or done == len(photos):
            parts.append(np.concatenate(recent))
            recent.clear()
            if kept and done % part == 0:
                buffer = io.BytesIO()
                np.save(buffer, parts[-1])
                write_atomically(kept / f"{len(parts):06}.npy", buffer.getvalue())
        progress(step, -(-done // batch), total)
    return np.concatenate(parts)


def _read_parts(folder: Path, photos: int, part: int) -> list[Logits]:
    """The logits that a stopped run has written, `part` photos a file, from the first photo on."""
    parts = list[Logits]()
    while part * (len(parts) + 1) <= photos:
        try:
            rows = np.load(folder / f"{len(parts) + 1:06}.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError):  # absent or damaged: recompute from here on
            break
        if rows.ndim != 2 or len(rows) != part:
            break
        parts.append(rows)
    return parts
