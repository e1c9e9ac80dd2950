"""What the Manifest knows of the photos of a Dataset: where they lie, and what a person decided before."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from catflap.artifacts.dataset import Dataset
from catflap.artifacts.manifest import TABLE, Manifest, load_manifest
from catflap.artifacts.tables import iter_table
from catflap.errors import BadArtifact, CatflapError

COLUMNS = ("id", "uri", "label", "bytes", "status", "reason", "phash", "offset")
SETTLED = "review:"  # how the remark of a photo begins on which a person has decided
TWO_LABELS = "two_labels"


@dataclass(frozen=True)
class KnownPhoto:
    """A photo of the Dataset: its URI, perceptual hash (None for a flat one) and whether it is settled."""

    uri: str
    phash: int | None
    settled: bool


@dataclass(frozen=True)
class TwoLabels:
    """A photo whose exact bytes stand under several labels; `offset` and `bytes` say where to read it."""

    id: str
    uri: str
    labels: tuple[str, ...]
    bytes: int
    offset: int


def source_manifest(dataset: Dataset, manifest: Manifest | None) -> Manifest:
    """The Manifest that a Dataset was prepared from; CatflapError when it is not there or another one."""
    if manifest is None:
        try:
            manifest = load_manifest(dataset.path / dataset.manifest)
        except BadArtifact as error:
            raise CatflapError(
                f"The manifest of {dataset.path} is not where it was: {error.what}",
                "Name it with --manifest.",
            ) from error
    if manifest.sha256 != dataset.ancestors.get("manifest"):
        raise CatflapError(
            f"{dataset.path} was not prepared from {manifest.path} as it is now.",
            "Name the manifest that it was prepared from, or run catflap prepare again.",
        )
    return manifest


def look_up(manifest: Manifest, wanted: Set[str]) -> tuple[dict[str, KnownPhoto], list[TwoLabels]]:
    """The wanted photos that are ok, by id, and every photo that is quarantined for its two labels."""
    known: dict[str, KnownPhoto] = {}
    twice: dict[str, TwoLabels] = {}
    for table in iter_table(manifest.path / TABLE, COLUMNS):
        columns = [table[name].to_pylist() for name in COLUMNS]
        for id, uri, label, length, status, reason, phash, offset in zip(*columns, strict=True):
            if status == "ok" and id in wanted:
                settled = any(remark.startswith(SETTLED) for remark in reason.split("; "))
                known[id] = KnownPhoto(uri, phash, settled)
            elif status == "quarantined" and reason.startswith(TWO_LABELS):
                earlier = twice.get(id)
                if earlier is None:
                    twice[id] = TwoLabels(id, uri, (label,), length, offset)
                elif label not in earlier.labels:
                    twice[id] = TwoLabels(
                        id, earlier.uri, (*earlier.labels, label), earlier.bytes, earlier.offset
                    )
    return known, [twice[id] for id in sorted(twice)]
