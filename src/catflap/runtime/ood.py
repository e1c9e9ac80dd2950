"""The out-of-distribution (OOD) score: how far an embedding lies from its label's calibration photos."""

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
TINY = np.float32(1e-30)  # the length of a vector is at least this, so that zero stays zero


@dataclass(frozen=True)
class EmbeddingModel:
    """How a label's embeddings are distributed: unit vectors around `mean` (width,), spread along `axes`.

    `axes` (k, width), k ≥ 0, are unit vectors; about 1 in 100 photos has a residual above `limit`.
    """

    mean: Vectors
    axes: Vectors
    limit: float

    def scores(self, embeddings: Vectors) -> Vectors:
        """The OOD scores (n,) of embeddings (n, width): 0 is typical, above 1 farther than 99 in 100 photos.

        A score is the length, 0 to 2, of what mean and axes leave unexplained, divided by `limit`.
        """
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        away = embeddings / np.maximum(lengths, TINY) - self.mean
        scores: Vectors = np.linalg.norm(away - (away @ self.axes.T) @ self.axes, axis=1) / self.limit
        return scores


def embedding_models(
    baseline: Mapping[str, Any] | None, labels: Sequence[str]
) -> list[EmbeddingModel | None]:
    """The embedding model of each label from a variant's baseline, which load_bundle has checked."""
    known = {} if baseline is None else baseline["labels"]
    entries = [known.get(label, {}).get("embedding") for label in labels]
    return [None if entry is None else EmbeddingModel(*unpack(entry), entry["limit"]) for entry in entries]


def ood_scores(embeddings: Vectors, best: npt.ArrayLike, models: Sequence[EmbeddingModel | None]) -> Vectors:
    """The OOD scores (n,) of embeddings (n, width) for their likeliest labels (n,); NaN without a model.

    `best` are the numbers of the likeliest labels under the prior of training.
    """
    numbers, scores = np.asarray(best), np.full(len(embeddings), np.nan, np.float32)
    for number, model in enumerate(models):
        chosen = numbers == number
        if model is not None and chosen.any():
            scores[chosen] = model.scores(embeddings[chosen])
    return scores


def are_unknown(scores: npt.ArrayLike, threshold: float) -> npt.NDArray[np.bool_]:
    """Whether OOD scores (n,) are above the threshold; NaN, of a label without a model, is not."""
    return np.asarray(scores, np.float64) > threshold


def residuals(embeddings: Vectors, mean: Vectors, axes: Vectors) -> Vectors:
    """The lengths (n,), 0 to 2, of what mean and axes leave unexplained of embeddings (n, width)."""
    return EmbeddingModel(mean, axes, 1.0).scores(embeddings)


def unit(vectors: npt.NDArray[np.floating]) -> Vectors:
    """Vectors (…, width) scaled to length 1, float32; zero stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Vectors = (vectors / np.maximum(lengths, TINY)).astype(np.float32)
    return scaled


def check_width(variant: Variant, width: int | None) -> None:
    """Raise BadArtifact if a stated embedding width differs from that of the variant's baseline."""
    labels = (variant.baseline or {"labels": {}})["labels"].values()
    means = (entry["embedding"]["mean"] for entry in labels if "embedding" in entry)
    if width is not None and any(len(base64.b64decode(mean)) != width for mean in means):
        raise wrong_embedding(variant)


def wrong_embedding(variant: Variant) -> BadArtifact:
    """The error for embeddings that do not belong to a variant's baseline."""
    return BadArtifact(
        f"The embedding of the variant {variant.name} does not fit its baseline.",
        "Run catflap verify, or export it again.",
    )


def pack(mean: Vectors, axes: Vectors) -> dict[str, Any]:
    """Mean (width,) and axes (k, width) as they stand in a baseline: base64 of int8, a byte a number."""
    length = round(float(np.linalg.norm(mean)), 6)
    return {"mean": _to_base64(mean[None]), "length": length, "axes": _to_base64(axes)}


def unpack(entry: Mapping[str, Any]) -> tuple[Vectors, Vectors]:
    """Mean and axes from what `pack` wrote."""
    mean = unit(_from_base64(entry["mean"])) * np.float32(entry["length"])
    return mean, unit(_from_base64(entry["axes"]).reshape(-1, len(mean)))


def unpack_int8(entry: Mapping[str, Any]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    """The bytes of mean (width,) and axes (k, width) in what `pack` wrote, before they are scaled."""
    mean, axes = (np.frombuffer(base64.b64decode(entry[name]), np.int8) for name in ("mean", "axes"))
    return mean, axes.reshape(-1, len(mean))


def _to_base64(vectors: Vectors) -> str:
    """Each vector scaled so that its largest number is ±127."""
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=1e-12)
    return base64.b64encode(np.rint(vectors * (127 / largest)).astype(np.int8).tobytes()).decode("ascii")


def _from_base64(text: str) -> Vectors:
    return np.frombuffer(base64.b64decode(text), np.int8).astype(np.float32)
