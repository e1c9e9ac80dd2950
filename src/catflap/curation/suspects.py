"""The list of suspects, photos that a person should check: the order, and what the Manifest knows of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.dataset import Dataset, Positions
from catflap.artifacts.manifest import TABLE, Manifest, load_manifest
from catflap.data.duplicates import NEAR, Hashes, near_pairs
from catflap.data.phash import MIRROR
from catflap.errors import BadArtifact, CatflapError

SUSPECTS = "suspects.jsonl"
LOOKUP_COLUMNS = ("id", "uri", "label", "bytes", "status", "reason", "phash", "offset")
REVIEWED = "review:"  # start of the remark of a photo that a person has decided about
TWO_LABELS = "two_labels"


@dataclass(frozen=True)
class Suspect:
    """A photo and what may be wrong with it; `score` is 0 to 1, comparable except for outliers.

    `kind` is "label_error" (its label is probably wrong), "two_labels" (the same picture is also under
    `suggested`), "look_alike" (it looks more like `suggested`, with less confidence) or "outlier" (it
    is unlike all others, and nothing is suggested: perhaps it shows none of the labels).
    """

    id: str
    uri: str
    label: str
    suggested: str | None
    score: float
    kind: str

    def to_json(self) -> dict[str, Any]:
        """One line of the machine answer of `catflap audit`."""
        names = ("id", "uri", "label", "suggested", "score", "kind")
        return {name: getattr(self, name) for name in names}


def ranked(suspects: Iterable[Suspect]) -> tuple[Suspect, ...]:
    """Suspects by descending score, outliers last, each photo once, for its strongest reason."""
    first: dict[str, Suspect] = {}
    for one in sorted(suspects, key=_rank):
        first.setdefault(one.id, one)
    return tuple(first.values())


def write_suspects(folder: Path, suspects: Iterable[Suspect]) -> None:
    """Write suspects.jsonl into a Manifest folder, a suspect a line."""
    with open(folder / SUSPECTS, "w", encoding="ascii", newline="\n") as file:
        file.writelines(json.dumps(suspect.to_json()) + "\n" for suspect in suspects)


def _rank(one: Suspect) -> tuple[bool, float, bool, str]:
    return one.kind == "outlier", -one.score, one.kind != "two_labels", one.id


@dataclass(frozen=True)
class KnownPhoto:
    """A photo of the Dataset: its URI, its hash (None for a flat one) and whether a person reviewed it."""

    uri: str
    phash: int | None
    reviewed: bool


@dataclass(frozen=True)
class TwoLabels:
    """A photo whose exact bytes are under several labels; `offset` and `bytes` locate it."""

    id: str
    uri: str
    labels: tuple[str, ...]
    bytes: int
    offset: int


def source_manifest(dataset: Dataset, manifest: Manifest | None) -> Manifest:
    """The Manifest that a Dataset was prepared from; CatflapError when it is missing or another one."""
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
    from catflap.artifacts.tables import iter_table  # pyarrow, which the base installation does not have

    known: dict[str, KnownPhoto] = {}
    twice: dict[str, TwoLabels] = {}
    for table in iter_table(manifest.path / TABLE, LOOKUP_COLUMNS):
        columns = [table[name].to_pylist() for name in LOOKUP_COLUMNS]
        for id, uri, label, length, status, reason, phash, offset in zip(*columns, strict=True):
            if status == "ok" and id in wanted:
                reviewed = any(remark.startswith(REVIEWED) for remark in reason.split("; "))
                known[id] = KnownPhoto(uri, phash, reviewed)
            elif status == "quarantined" and reason.startswith(TWO_LABELS):
                earlier = twice.get(id)
                if earlier is None:
                    twice[id] = TwoLabels(id, uri, (label,), length, offset)
                elif label not in earlier.labels:
                    twice[id] = TwoLabels(
                        id, earlier.uri, (*earlier.labels, label), earlier.bytes, earlier.offset
                    )
    return known, [twice[id] for id in sorted(twice)]


def mixed(labels: npt.NDArray[np.int64], groups: npt.NDArray[np.int64]) -> Positions:
    """The positions of all photos whose group has more than one label; -1 means no group."""
    member = np.flatnonzero(groups >= 0)
    _, group = np.unique(groups[member], return_inverse=True)
    count = int(group.max(initial=-1)) + 1
    least, most = np.full(count, np.iinfo(np.int64).max), np.full(count, -1, np.int64)
    np.minimum.at(least, group, labels[member])
    np.maximum.at(most, group, labels[member])
    found: Positions = member[(least != most)[group]]
    return found


def same_picture(groups: npt.NDArray[np.int64], hashes: Hashes) -> tuple[Positions, Positions]:
    """Pairs of positions, the smaller first, of photos that show the same; takes (n,) each.

    A group may also be one that the user stated, such as the frames of a video, so only photos of a
    group whose perceptual hashes are near count.
    """
    if len(hashes) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    first, second, _ = near_pairs(hashes, NEAR, mirror=MIRROR)
    together = groups[first] == groups[second]
    return first[together], second[together]


def two_labels(
    labels: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], hashes: Hashes
) -> tuple[Positions, Positions]:
    """Pairs of positions of photos that show the same under different labels; takes (n,) each."""
    first, second = same_picture(groups, hashes)
    apart = labels[first] != labels[second]
    return first[apart], second[apart]
