"""Many photos in, logits out: how a variant is scored from raw photo bytes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from catflap.artifacts.folder import write_atomically
from catflap.errors import BadPhoto, CatflapError
from catflap.image import Frame, Pixels, decode, read_pixels
from catflap.prefetch import prefetch
from catflap.progress import Progress, silent
from catflap.runtime.engines.model import Logits, Model

BATCH = 16
KEPT = 2048  # photos, in whole batches, whose logits are written together: what a stopped run loses
Reader: TypeAlias = Callable[[bytes, Frame], Pixels]


class PhotoBytes(Protocol):
    """Photos by position: a role of a Dataset, or a list of bytes."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, position: int, /) -> bytes:
        """The bytes of one."""


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

    `whole` gives each photo alone and decoded only, (1, H, W, 3), for graphs with the Frame inside.
    Raises BadPhoto that tells which photo cannot be decoded.
    """
    batch, read = (1, decode) if whole else (batch, read_pixels)
    starts = range(begin, len(photos), batch)
    return prefetch(lambda start: _batch(photos, frame, start, batch, read), starts, workers)


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
) -> Logits:
    """The logits, float32 (n, labels), of photos read from their bytes through the frame; n ≥ 1.

    `whole` leaves crop and resize to the model, which has the Frame inside. `kept` is a folder for these
    photos and this model alone: logits are written there 2,048 photos at a time, and a stopped run goes on
    from those that it finds. `workers` threads read the photos.
    """
    if not len(photos):
        raise CatflapError("There are no photos to judge.", "Name photos that can be read.")
    batch = 1 if whole else BATCH
    parts = _written(kept, len(photos)) if kept else []
    done, total, fresh = KEPT * len(parts), -(-len(photos) // batch), list[Logits]()
    progress(step, done // batch, total)
    for frames in frames_of(photos, frame, workers, whole=whole, begin=done):
        fresh.append(model(frames))
        done += len(frames)
        if done % KEPT == 0 or done == len(photos):
            parts.append(np.concatenate(fresh))
            fresh.clear()
            if kept and done % KEPT == 0:
                _write(kept / f"{len(parts):06}.npy", parts[-1])
        progress(step, -(-done // batch), total)
    return np.concatenate(parts)


def _written(folder: Path, photos: int) -> list[Logits]:
    """What a stopped run has left of the logits of so many photos: of the first ones, KEPT a part."""
    parts = list[Logits]()
    while KEPT * (len(parts) + 1) <= photos:
        try:
            rows = np.load(folder / f"{len(parts) + 1:06}.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError):  # absent or damaged: from here on they are worked out again
            break
        if rows.ndim != 2 or len(rows) != KEPT:
            break
        parts.append(rows)
    return parts


def _write(path: Path, rows: Logits) -> None:
    buffer = io.BytesIO()
    np.save(buffer, rows)
    write_atomically(path, buffer.getvalue())


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
