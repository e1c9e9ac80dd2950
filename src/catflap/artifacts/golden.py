"""Golden cases: photos, the frames they must become, and the logits each variant must answer."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.bundle import Bundle
from catflap.artifacts.schema import load_schema
from catflap.errors import BadArtifact, BadPhoto, CatflapError
from catflap.image import Frame, Pixels, read_file, read_pixels

FILE = "golden.npz"
MAX_BYTES = 256 << 20  # unpacked
HEADERS = 1 << 16  # bytes of these that those of the arrays may have


@dataclass(frozen=True)
class Golden:
    """`photos` are the bytes of image files; `frames` uint8 (n, height, width, 3) what the Frame
    makes of them; `logits` maps each variant to float32 (n, labels) as answered when exported.
    """

    photos: tuple[bytes, ...]
    frames: Pixels
    logits: Mapping[str, npt.NDArray[np.float32]]


def load_photo(path: str | os.PathLike[str], frame: Frame) -> bytes:
    """The bytes of a photo file, decoded once with this Frame; BadPhoto, with the path, if that fails."""
    try:
        data = read_file(path)
        read_pixels(data, frame)
    except BadPhoto as error:
        what = error.what if str(path) in error.what else f"{os.fspath(path)}: {error.what}"
        raise BadPhoto(error.reason, what, error.fix) from error
    return data


def check_golden(
    photos: Sequence[bytes],
    frame: Frame,
    logits: int,
    fix: str = "Name fewer or smaller photos with --golden.",
) -> None:
    """Raise CatflapError when these photos, with `logits` logits each, exceed the limits of a Bundle.

    Called before frames and logits are computed.
    """
    most = load_schema("bundle")["properties"]["golden"]["properties"]["cases"]["maximum"]
    if len(photos) > most:
        raise CatflapError(
            f"There would be {len(photos)} golden cases with the drawn ones, {most} at most.",
            "Name fewer photos with --golden.",
        )
    case = 3 * frame.width * frame.height + 4 * logits + 8  # 8: where its photo ends
    size = sum(map(len, photos)) + len(photos) * case
    if size > MAX_BYTES - HEADERS:
        raise CatflapError(
            f"Golden cases and their frames would have {size / 2**20:.1f} MiB, {MAX_BYTES >> 20} at most.",
            fix,
        )


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
    """The golden cases of a Bundle; BadArtifact when they are damaged or do not fit the bundle."""
    data = bytes(bundle.members[bundle.head["golden"]["file"]])
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise ValueError("they unpack to too many bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return _golden(arrays, bundle)
    except Exception as error:  # zip, zlib and NumPy each raise their own on damaged bytes
        what = f"The golden cases cannot be read: {str(error) or type(error).__name__}."
        raise BadArtifact(what, "Export it again.") from error


def _golden(arrays: Mapping[str, npt.NDArray[np.generic]], bundle: Bundle) -> Golden:
    """The cases from their arrays; ValueError when a shape, dtype or number does not fit the bundle."""
    count, labels = bundle.head["golden"]["cases"], len(bundle.labels)
    frames = _array(arrays, "frames", np.uint8, (count, bundle.frame.height, bundle.frame.width, 3))
    logits = {name: _array(arrays, f"logits.{name}", np.float32, (count, labels)) for name in bundle.variants}
    if not all(np.isfinite(rows).all() for rows in logits.values()):
        raise ValueError("a logit is not a number")
    flat, ends = _array(arrays, "photos", np.uint8), _array(arrays, "ends", np.int64, (count,))
    starts = np.concatenate([[0], ends[:-1]])
    if (ends < starts).any() or ends[-1] != len(flat):
        raise ValueError("the photos do not end where they should")
    photos = tuple(flat[start:end].tobytes() for start, end in zip(starts, ends, strict=True))
    return Golden(photos, frames, logits)


def _array(
    arrays: Mapping[str, npt.NDArray[np.generic]],
    name: str,
    kind: type[np.generic],
    shape: tuple[int, ...] | None = None,
) -> npt.NDArray[Any]:
    array = arrays[name]
    if array.dtype != kind or (array.ndim != 1 if shape is None else array.shape != shape):
        raise ValueError(f"{name} has the type {array.dtype} and the shape {array.shape}")
    return array
