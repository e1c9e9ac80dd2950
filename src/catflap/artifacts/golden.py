"""Golden cases: photos, the frames they must become, and the logits each variant must answer."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catflap.artifacts.bundle import Bundle
from catflap.errors import BadArtifact
from catflap.image import Pixels

FILE = "golden.npz"
MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Golden:
    """`photos` are the bytes of image files; `frames` uint8 (n, height, width, 3) what the Frame
    makes of them; `logits` maps each variant to float32 (n, labels) as answered when exported.
    """

    photos: tuple[bytes, ...]
    frames: Pixels
    logits: Mapping[str, npt.NDArray[np.float32]]


def encode_golden(golden: Golden) -> bytes:
    """The bytes of golden.npz: `photos` (all bytes in one row), `ends`, `frames`, `logits.NAME`."""
    buffer = io.BytesIO()
    arrays = {
        "photos": np.frombuffer(b"".join(golden.photos), np.uint8),
        "ends": np.cumsum([len(photo) for photo in golden.photos], dtype=np.int64),
        "frames": golden.frames,
        **{f"logits.{name}": logits for name, logits in golden.logits.items()},
    }
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def read_golden(bundle: Bundle) -> Golden:
    """The golden cases of a Bundle; BadArtifact when they are damaged or do not fit it."""
    data = bytes(bundle.members[bundle.head["golden"]["file"]])
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise ValueError("they unpack to too many bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            golden = _golden(arrays, bundle.variants)
    except Exception as error:  # zip, zlib and NumPy each raise their own on damaged bytes
        raise BadArtifact(f"The golden cases cannot be read: {error}.", "Export it again.") from error
    count, shape = bundle.head["golden"]["cases"], (bundle.frame.height, bundle.frame.width, 3)
    fits = golden.frames.shape == (count, *shape) and golden.frames.dtype == np.uint8
    fits &= len(golden.photos) == count
    fits &= all(rows.shape == (count, len(bundle.labels)) for rows in golden.logits.values())
    if not fits:
        raise BadArtifact("The golden cases do not fit the bundle.", "Export it again.")
    return golden


def _golden(
    arrays: Mapping[str, npt.NDArray[np.generic]], variants: Sequence[str] | Mapping[str, object]
) -> Golden:
    flat, ends = arrays["photos"].tobytes(), [int(end) for end in arrays["ends"]]
    starts = [0, *ends[:-1]]
    photos = tuple(flat[start:end] for start, end in zip(starts, ends, strict=True))
    logits = {name: arrays[f"logits.{name}"].astype(np.float32) for name in variants}
    return Golden(photos, np.asarray(arrays["frames"], np.uint8), logits)
