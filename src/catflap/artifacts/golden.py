"""Golden cases: photos, the frames they must become, and each variant's logits, probabilities, decisions."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.bundle import Bundle
from catflap.artifacts.schema import load_schema
from catflap.errors import BadArtifact, BadPhoto, CatflapError
from catflap.image import Frame, Pixels, read_file, read_pixels

FILE = "golden.npz"
MAX_BYTES = 256 << 20  # unpacked
PROBES = 2  # rows of logits a variant, on either side of its decision threshold
HEADERS = 1 << 16  # bytes of these that those of the arrays may have


@dataclass(frozen=True)
class Golden:
    """`photos` are the bytes of image files; `frames` uint8 (n, height, width, 3) what the Frame
    makes of them; `logits` maps each variant to float32 (n, labels) as answered when exported.

    `ood` maps variants that refuse unknown photos to the OOD scores (n + 2,) of the cases and of two numbers
    on either side of the threshold, `unknown` to whether they are refused, bool (n + 2,).
    Bundles before format 1.1 lack the rest. `probes` are logits (k, labels) on either side of the decision
    threshold, which no photo needs to hit; `probabilities` (n + k, labels) and `decisions` (n + k,), the
    label's number or -1, are what cases and probes were answered with.
    """

    photos: tuple[bytes, ...]
    frames: Pixels
    logits: Mapping[str, npt.NDArray[np.float32]]
    probes: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    probabilities: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    decisions: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)
    ood: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    unknown: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)


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
    labels: int,
    variants: int,
    fix: str = "Name fewer or smaller photos with --golden.",
) -> None:
    """Raise CatflapError when the golden cases of these photos would exceed the limits of a Bundle.

    `variants` counts those whose answers are recorded. Called before frames and logits are computed.
    """
    most = load_schema("bundle")["properties"]["golden"]["properties"]["cases"]["maximum"]
    if len(photos) > most:
        raise CatflapError(
            f"There would be {len(photos)} golden cases with the drawn ones, {most} at most.",
            "Name fewer photos with --golden.",
        )
    case = 3 * frame.width * frame.height + 8  # 8: where its photo ends
    answer = 8 * labels + 9  # logits, probabilities, the decision, OOD score and whether it is unknown
    size = sum(map(len, photos)) + len(photos) * case + variants * (len(photos) + PROBES) * answer
    if size > MAX_BYTES - HEADERS:
        raise CatflapError(
            f"Golden cases and their frames would have {size / 2**20:.1f} MiB, {MAX_BYTES >> 20} at most.",
            fix,
        )


def encode_golden(golden: Golden) -> bytes:
    """The bytes of golden.npz: `photos` (all bytes in one row), `ends`, `frames`, `logits.NAME`, …"""
    buffer = io.BytesIO()
    arrays = {
        "photos": np.frombuffer(b"".join(golden.photos), np.uint8),
        "ends": np.cumsum([len(photo) for photo in golden.photos], dtype=np.int64),
        "frames": golden.frames,
        **{f"logits.{name}": logits for name, logits in golden.logits.items()},
        **{f"probes.{name}": rows for name, rows in golden.probes.items()},
        **{f"probabilities.{name}": rows for name, rows in golden.probabilities.items()},
        **{f"decisions.{name}": numbers for name, numbers in golden.decisions.items()},
        **{f"ood.{name}": scores for name, scores in golden.ood.items()},
        **{f"unknown.{name}": flags for name, flags in golden.unknown.items()},
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
    answered = [name for name in bundle.variants if f"decisions.{name}" in arrays]  # none in older bundles
    probes = {name: _array(arrays, f"probes.{name}", np.float32, (PROBES, labels)) for name in answered}
    if not all(np.isfinite(rows).all() for rows in probes.values()):
        raise ValueError("a logit of a probe is not a number")
    rows = count + PROBES
    refusing = [name for name in bundle.variants if f"unknown.{name}" in arrays]
    return Golden(
        photos,
        frames,
        logits,
        probes,
        {name: _array(arrays, f"probabilities.{name}", np.float32, (rows, labels)) for name in answered},
        {name: _array(arrays, f"decisions.{name}", np.int32, (rows,)) for name in answered},
        {name: _array(arrays, f"ood.{name}", np.float32, (rows,)) for name in refusing},
        {name: _array(arrays, f"unknown.{name}", np.bool_, (rows,)) for name in refusing},
    )


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
