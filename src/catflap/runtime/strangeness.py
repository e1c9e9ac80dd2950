"""The out-of-distribution score: how unlike the calibration photos of its label a photo's embedding is."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.bundle import Variant
from catflap.errors import BadArtifact

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Familiar:
    """What is usual for a label: embeddings of length 1 lie around `mean` (width,), spread along `axes`.

    `axes` (k, width), k ≥ 0, have length 1; 1 in 100 calibration photos is farther away than `limit`.
    """

    mean: Vectors
    axes: Vectors
    limit: float


def read_familiar(baseline: Mapping[str, Any] | None, labels: Sequence[str]) -> list[Familiar | None]:
    """What is usual for each label, from a variant's baseline, which was checked when the Bundle was read."""
    known = {} if baseline is None else baseline["labels"]
    return [_familiar(known.get(label, {}).get("embedding")) for label in labels]


def check_width(variant: Variant, width: int | None) -> None:
    """Raise BadArtifact when embeddings of this width are not those of a variant's baseline; None may be."""
    labels = (variant.baseline or {"labels": {}})["labels"].values()
    means = (entry["embedding"]["mean"] for entry in labels if "embedding" in entry)
    if width is not None and any(len(base64.b64decode(mean)) != width for mean in means):
        raise unfit(variant)


def unfit(variant: Variant) -> BadArtifact:
    """The error for embeddings that are not those of a variant's baseline."""
    return BadArtifact(
        f"The variant {variant.name} does not give the embedding that its baseline is of.",
        "Run catflap verify, or export it again.",
    )


def strangeness_of(embedding: Vectors, familiar: Familiar) -> float:
    """How strange an embedding (width,) is: 0 not at all, above 1 more than 99 in 100 calibration photos."""
    return float(residuals(embedding[None], familiar.mean, familiar.axes)[0] / familiar.limit)


def residuals(embeddings: Vectors, mean: Vectors, axes: Vectors) -> Vectors:
    """What mean and axes do not explain of embeddings (n, width) of any length, as lengths (n,), 0 to 2."""
    away = unit(embeddings) - mean
    found: Vectors = np.linalg.norm(away - (away @ axes.T) @ axes, axis=1)
    return found


def unit(vectors: npt.NDArray[np.floating]) -> Vectors:
    """Vectors (…, width) of length 1, float32; one that is zero stays so."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def pack(mean: Vectors, axes: Vectors) -> dict[str, Any]:
    """Mean (width,) and axes (k, width) as they stand in a baseline: base64 of int8, a byte a number."""
    length = round(float(np.linalg.norm(mean)), 6)
    return {"mean": _text(mean[None]), "length": length, "axes": _text(axes)}


def unpack(entry: Mapping[str, Any]) -> tuple[Vectors, Vectors]:
    """Mean and axes of what `pack` wrote."""
    mean = unit(_numbers(entry["mean"])) * np.float32(entry["length"])
    return mean, unit(_numbers(entry["axes"]).reshape(-1, len(mean)))


def _familiar(entry: Mapping[str, Any] | None) -> Familiar | None:
    return None if entry is None else Familiar(*unpack(entry), entry["limit"])


def _text(vectors: Vectors) -> str:
    """Each vector with its greatest number at ±127."""
    greatest = np.abs(vectors).max(axis=1, keepdims=True, initial=1e-12)
    return base64.b64encode(np.rint(vectors * (127 / greatest)).astype(np.int8).tobytes()).decode("ascii")


def _numbers(text: str) -> Vectors:
    return np.frombuffer(base64.b64decode(text), np.int8).astype(np.float32)
