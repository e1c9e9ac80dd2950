"""Findings about a collection as a whole: what a photo by photo check cannot see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catflap.artifacts.tables import iter_table

IMBALANCE = 10  # photos of the largest label for one of the smallest
GIVEN_AWAY = 0.25  # of the errors that guessing the largest label makes
COMMON = 20  # photos; a rarer size proves nothing
NAMED = 5  # folders that a finding names
COLUMNS = ("label", "status", "reason", "format", "mode", "width", "height", "bytes", "group", "role")
CLUES = {
    "format": "The file format",
    "mode": "The colour space",
    "size": "The size in pixels",
    "weight": "The bytes per pixel",
}


@dataclass
class PhotoCounts:
    """Counts over the photos of a Manifest; `clues` count the photos that are ok by (label, value)."""

    status: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    clues: dict[str, Counter[tuple[str, Any]]] = field(default_factory=dict)
    roles_of_groups: set[tuple[int, str]] = field(default_factory=set)


def count_photos(path: Path) -> PhotoCounts:
    """Count what a Manifest's table holds, a row group at a time."""
    counts = PhotoCounts(clues={clue: Counter() for clue in CLUES})
    for rows in iter_table(path, COLUMNS):
        _count_reasons(rows, counts)
        counts.status.update(_counts(rows, ["status"]))
        fine = rows.filter(pc.equal(rows["status"], "ok"))
        counts.labels.update(_counts(fine, ["label"]))
        pixels = pc.multiply(fine["width"].cast(pa.int64()), fine["height"].cast(pa.int64()))
        weight = pc.floor(pc.multiply(4, pc.log2(pc.divide(fine["bytes"].cast(pa.float64()), pixels))))
        size = pc.binary_join_element_wise(
            fine["width"].cast(pa.string()), fine["height"].cast(pa.string()), " × "
        )
        values = {"format": fine["format"], "mode": fine["mode"], "size": size, "weight": weight}
        for clue, value in values.items():
            table = pa.table({"label": fine["label"], "value": value})
            counts.clues[clue].update(_counts(table, ["label", "value"]))
        stated = fine.filter(pc.not_equal(fine["role"], ""))
        counts.roles_of_groups |= set(
            zip(stated["group"].to_pylist(), stated["role"].to_pylist(), strict=True)
        )
    return counts


def findings(
    counts: PhotoCounts,
    empty_labels: list[str],
    two_labels: int,
    cut: int,
    merged: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """What a person should know before learning from these photos, {"check", "what", ...} each."""
    found: list[dict[str, Any]] = []
    if empty_labels:
        names = ", ".join(map(repr, empty_labels[:10]))
        found.append(_finding("empty_label", f"No photos under {names}.", labels=empty_labels))
    if merged:
        label, inner = next(iter(merged.items()))
        names = ", ".join(map(repr, inner[:NAMED])) + ", …" * (len(inner) > NAMED)
        more = f", and so do those in {len(merged) - 1} more" if len(merged) > 1 else ""
        what = f"The folders in {label!r} ({names}) count as one label{more}."
        found.append(_finding("merged_folders", what, folders=merged))
    least, most = min(counts.labels.values(), default=0), max(counts.labels.values(), default=0)
    if least and most >= IMBALANCE * least:
        name = min(counts.labels, key=lambda label: counts.labels[label])
        what = f"The largest label has {most / least:.0f} times the photos of {name!r}."
        found.append(_finding("class_imbalance", what, ratio=round(most / least, 2)))
    for clue, says in CLUES.items():
        gain, accuracy = _given_away(counts.clues[clue])
        if gain >= GIVEN_AWAY:
            what = f"{says} alone tells the label of {100 * accuracy:.0f} % of the photos."
            found.append(_finding("shortcut", what, clue=clue, accuracy=round(accuracy, 4)))
    if two_labels:
        what = f"{two_labels} photos show what a photo under another label shows."
        found.append(_finding("near_duplicate_two_labels", what, photos=two_labels))
    if cut:
        what = f"{cut} chains of near-duplicates were too long and were cut where the likeness is weakest."
        found.append(_finding("cut_chains", what, chains=cut))
    leaks = _leaks(counts.roles_of_groups)
    if leaks:
        what = f"{leaks} groups of near-duplicates lie in several of the roles that the source states."
        found.append(_finding("stated_roles_leak", what, groups=leaks))
    return found


def _finding(check: str, what: str, **numbers: Any) -> dict[str, Any]:
    return {"check": check, "what": what, **numbers}


def _count_reasons(rows: pa.Table, counts: PhotoCounts) -> None:
    some = rows.filter(pc.not_equal(rows["reason"], ""))
    for status, text in zip(some["status"].to_pylist(), some["reason"].to_pylist(), strict=True):
        words = [part.partition(":")[0] for part in text.split("; ")]
        (counts.remarks if status == "ok" else counts.reasons).update(words)


def _counts(table: pa.Table, names: list[str]) -> dict[Any, int]:
    grouped = table.group_by(names).aggregate([([], "count_all")])
    columns = [grouped[name].to_pylist() for name in names]
    keys = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    return dict(zip(keys, grouped["count_all"].to_pylist(), strict=True))


def _given_away(counts: Counter[tuple[str, Any]]) -> tuple[float, float]:
    """How well a value tells the label: the share of errors avoided, 0 to 1, and of photos that are right.

    The errors are those of guessing the largest label for every photo.
    """
    by_value: dict[Any, Counter[str]] = {}
    labels: Counter[str] = Counter()
    for (label, value), count in counts.items():
        by_value.setdefault(value, Counter())[label] += count
        labels[label] += count
    total = labels.total()
    if not total or len(labels) < 2:
        return 0.0, 0.0
    largest, base = labels.most_common(1)[0]
    right = sum(
        max(found.values()) if found.total() >= COMMON else found[largest] for found in by_value.values()
    )
    return (right - base) / (total - base), right / total


def _leaks(roles_of_groups: set[tuple[int, str]]) -> int:
    if not roles_of_groups:
        return 0
    groups = np.array([group for group, _ in roles_of_groups])
    _, roles = np.unique(groups, return_counts=True)
    return int((roles > 1).sum())
