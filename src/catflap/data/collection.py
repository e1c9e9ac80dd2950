"""What only all photos together show: copies, near-duplicates, photos under two labels, findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from catflap.artifacts.dataset import ROLES, Positions
from catflap.artifacts.tables import (
    DROPPED,
    OK,
    PHOTO_ROW,
    QUARANTINED,
    STATUS,
    iter_table,
    leading_bits,
    numbered,
)
from catflap.data.duplicates import Hashes, Pairs, bounded_groups, confirmed_pairs, joined
from catflap.data.listing import SUFFIXES
from catflap.data.parts import Parts
from catflap.data.series import Series, count_series
from catflap.installing import install_extra

COPY_COLUMNS = ["id", "label", "phash", "status", "role", "user_group"]
ROLE_ORDER = tuple(reversed(ROLES))  # of copies in several roles the one in test is kept, then calibration …
IMBALANCE = 10  # photos of the largest label for one of the smallest
SHORTCUT = 0.25  # of the errors that guessing the largest label makes
COMMON = 20  # photos; a rarer value shows nothing
NAMED = 5  # folders or extensions that a finding names
COUNT_COLUMNS = (
    "uri",
    "label",
    "status",
    "reason",
    "format",
    "mode",
    "width",
    "height",
    "bytes",
    "group",
    "role",
    "phash",
    "user_group",
)
CLUES = {
    "format": "The file format",
    "mode": "The colour space",
    "size": "The size in pixels",
    "weight": "The bytes per pixel",
}


HEIC_SUFFIXES = frozenset(SUFFIXES["HEIF"])
NOT_DECODED = ("unknown_format", "unsupported_format", "not_a_photo")  # reasons


@dataclass
class PhotoColumns:
    """The columns that are held in memory for all photos, shape (n,); about 70 bytes a photo.

    `ids` are the first 128 bits of the sha256, (n, 2); `labels` and `users` are numbers of names,
    users -1 for no user group; `roles` are those that the source states, as positions in
    ROLE_ORDER or beyond it; `hashed` is true for photos that have a perceptual hash.
    """

    names: list[str]
    ids: Hashes
    labels: npt.NDArray[np.int32]
    phashes: Hashes
    hashed: npt.NDArray[np.bool_]
    status: npt.NDArray[np.int8]
    roles: npt.NDArray[np.int8]
    users: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Copies:
    """The status and group of each photo, (n,), reasons and remarks for some rows, and counts."""

    status: npt.NDArray[np.int8]
    group: Positions
    reasons: dict[int, str]
    remarks: dict[int, str]
    near_duplicate_groups: int
    near_duplicates: int
    two_labels: int
    cut_chains: int


def find_copies(parts: Parts) -> Copies:
    """Mark exact copies and photos under two labels, and give every photo that is ok its group.

    Of files with the same bytes the first of the first stated role is kept and the others are dropped, or,
    under different labels, all are quarantined. A group holds near-duplicates and the user's groups of
    them and of their dropped copies; -1 means no group.
    """
    facts = load_columns(parts)
    reasons, kept = _mark_copies(parts, facts)
    usable = np.flatnonzero((facts.status == OK) & facts.hashed)
    pairs = _near(parts, facts, usable)
    count = len(facts.status)
    near, cut = bounded_groups(count, pairs)
    copies = np.flatnonzero((near != np.arange(count)) & (facts.status == OK))
    remarks = _remarks(parts, facts, near, copies)
    group = np.where(facts.status == OK, _with_users(facts, near, kept), -1)
    return Copies(
        status=facts.status,
        group=group,
        reasons=reasons,
        remarks=remarks,
        near_duplicate_groups=len(np.unique(near[copies])),
        near_duplicates=len(copies),
        two_labels=int((facts.labels[copies] != facts.labels[near[copies]]).sum()),
        cut_chains=cut,
    )


def with_copies(parts: Parts, found: Copies) -> Iterator[pa.Table]:
    """The rows of all parts as the Manifest holds them, with status, group and reasons of copies."""
    start = 0
    for rows in parts.tables(PHOTO_ROW.names):
        stop = start + rows.num_rows
        text = rows["reason"].to_pylist()
        for position in range(start, stop):
            if position in found.reasons:
                text[position - start] = found.reasons[position]
            elif position in found.remarks:
                kept = text[position - start]
                text[position - start] = "; ".join(filter(None, [kept, found.remarks[position]]))
        columns: dict[str, Any] = {
            "group": found.group[start:stop],
            "status": np.array(STATUS)[found.status[start:stop]],
            "reason": text,
        }
        yield pa.table([columns.get(name, rows[name]) for name in PHOTO_ROW.names], PHOTO_ROW.names).cast(
            PHOTO_ROW
        )
        start = stop


def load_columns(parts: Parts) -> PhotoColumns:
    """Read the columns that are needed of all photos from the parts."""
    label_numbers: dict[str, int] = {}
    user_numbers: dict[str, int] = {}
    role_numbers = {role: number for number, role in enumerate(ROLE_ORDER)}
    total = parts.total
    facts = PhotoColumns(
        names=[],
        ids=np.zeros((total, 2), np.uint64),
        labels=np.zeros(total, np.int32),
        phashes=np.zeros(total, np.uint64),
        hashed=np.zeros(total, bool),
        status=np.zeros(total, np.int8),
        roles=np.zeros(total, np.int8),
        users=np.full(total, -1, np.int64),
    )
    start = 0
    for rows in parts.tables(COPY_COLUMNS):
        here = slice(start, start + rows.num_rows)
        facts.labels[here] = numbered(rows["label"], label_numbers)
        facts.roles[here] = numbered(rows["role"], role_numbers)
        facts.users[here] = numbered(rows["user_group"], user_numbers)
        facts.hashed[here] = rows["phash"].is_valid().to_numpy()
        facts.phashes[here] = pc.fill_null(rows["phash"], 0).to_numpy()
        facts.status[here] = np.where(pc.equal(rows["status"], "ok").to_numpy(), OK, QUARANTINED)
        facts.ids[here] = leading_bits(rows["id"])
        start += rows.num_rows
    if "" in user_numbers:
        facts.users[facts.users == user_numbers[""]] = -1
    facts.names = list(label_numbers)
    return facts


def _mark_copies(parts: Parts, facts: PhotoColumns) -> tuple[dict[int, str], Positions]:
    """Set the status of files with the same bytes; returns the reasons, by row, and the kept row of each."""
    rows = np.flatnonzero(facts.status == OK)
    rows = rows[np.lexsort((rows, facts.roles[rows], facts.ids[rows, 1], facts.ids[rows, 0]))]
    same = (facts.ids[rows[1:]] == facts.ids[rows[:-1]]).all(axis=1)
    starts = np.flatnonzero(np.concatenate([[True], ~same])) if len(rows) else rows
    first = rows[np.repeat(starts, np.diff(np.append(starts, len(rows))))] if len(rows) else rows
    apart = facts.labels[rows] != facts.labels[first]
    mixed, places = np.unique(first[apart], return_index=True)
    in_mixed = np.isin(first, mixed)
    copies = ~in_mixed & (rows != first)
    facts.status[rows[in_mixed]] = QUARANTINED
    facts.status[rows[copies]] = DROPPED
    rivals = rows[apart][places][np.searchsorted(mixed, first[in_mixed])]
    others = np.where(apart[in_mixed], first[in_mixed], rivals)
    uris = _uris(parts, np.concatenate([others, first[copies]]))
    reasons = {
        row: f"exact_duplicate: the same bytes as {uris[one]}"
        for row, one in zip(rows[copies].tolist(), first[copies].tolist(), strict=True)
    }
    for row, other in zip(rows[in_mixed].tolist(), others.tolist(), strict=True):
        label = facts.names[facts.labels[other]]
        reasons[row] = f"two_labels: the same bytes as {uris[other]}, which is under {label!r}"
    kept = np.arange(len(facts.status))
    kept[rows[copies]] = first[copies]
    return reasons, kept


def _near(parts: Parts, facts: PhotoColumns, usable: Positions) -> Pairs:
    def thumbs(positions: Positions) -> npt.NDArray[np.uint8]:
        chunks = parts.take("thumb", usable[positions]).chunks
        pictures = b"".join(picture for chunk in chunks for picture in chunk.to_pylist())
        return np.frombuffer(pictures, np.uint8).reshape(-1, 256)

    found = confirmed_pairs(facts.phashes[usable], thumbs)
    return Pairs(usable[found.first], usable[found.second], found.likeness)


def _remarks(parts: Parts, facts: PhotoColumns, near: Positions, copies: Positions) -> dict[int, str]:
    uris = _uris(parts, near[copies])
    remarks = {}
    for row, kept in zip(copies.tolist(), near[copies].tolist(), strict=True):
        if facts.labels[row] == facts.labels[kept]:
            remarks[row] = f"near_duplicate: shows what {uris[kept]} shows"
        else:
            label = facts.names[facts.labels[kept]]
            remarks[row] = f"near_duplicate_two_labels: shows what {uris[kept]} shows under {label!r}"
    return remarks


def _with_users(facts: PhotoColumns, near: Positions, kept: Positions) -> Positions:
    """Near-duplicate groups joined with the groups that the source states of photos and dropped copies."""
    stated = np.flatnonzero((facts.users >= 0) & (facts.status != QUARANTINED))
    stated = stated[np.argsort(facts.users[stated], kind="stable")]
    same = facts.users[stated[1:]] == facts.users[stated[:-1]]
    members = kept[stated]
    everyone = np.arange(len(near))
    first = np.concatenate([everyone, members[:-1][same]])
    return joined(len(near), first, np.concatenate([near, members[1:][same]]))


def _uris(parts: Parts, rows: Positions) -> dict[int, str]:
    wanted = np.unique(rows)
    if not len(wanted):
        return {}
    return dict(zip(wanted.tolist(), parts.take("uri", wanted).to_pylist(), strict=True))


@dataclass
class PhotoCounts:
    """Counts over the photos of a Manifest.

    `clues` count the photos that are ok by (label, value); `not_decoded` counts the extensions of files
    in no supported format.
    """

    status: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    clues: dict[str, Counter[tuple[str, Any]]] = field(default_factory=dict)
    roles_of_groups: set[tuple[int, str]] = field(default_factory=set)
    not_decoded: Counter[str] = field(default_factory=Counter)
    series: Series = field(default_factory=Series)


def count_photos(path: Path) -> PhotoCounts:
    """Count what a Manifest's table holds, a row group at a time."""
    counts = PhotoCounts(clues={clue: Counter() for clue in CLUES})
    for rows in iter_table(path, COUNT_COLUMNS):
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
        count_series(fine, counts.series)
        stated = fine.filter(pc.not_equal(fine["role"], ""))
        counts.roles_of_groups |= set(
            zip(stated["group"].to_pylist(), stated["role"].to_pylist(), strict=True)
        )
    return counts


def findings(
    counts: PhotoCounts,
    *,
    empty_labels: Sequence[str],
    two_labels: int,
    cut_chains: int,
    merged: Mapping[str, Sequence[str]],
    skipped: Mapping[str, int],
) -> list[dict[str, Any]]:
    """What a person should know before learning from these photos, {"check", "what", ...} each."""
    found: list[dict[str, Any]] = []
    if empty_labels:
        names = ", ".join(map(repr, empty_labels[:10]))
        found.append(_finding("empty_label", f"No photos under {names}.", labels=list(empty_labels)))
    if merged:
        label, inner = next(iter(merged.items()))
        names = ", ".join(map(repr, inner[:NAMED])) + ", …" * (len(inner) > NAMED)
        more = f", and so do those in {len(merged) - 1} more" if len(merged) > 1 else ""
        what = f"The folders in {label!r} ({names}) count as one label{more}."
        found.append(_finding("merged_folders", what, folders=merged))
    least, most = min(counts.labels.values(), default=0), max(counts.labels.values(), default=0)
    if least and most >= IMBALANCE * least:
        rarest = min(counts.labels, key=lambda label: counts.labels[label])
        what = f"The largest label has {most / least:.0f} times the photos of {rarest!r}."
        found.append(_finding("class_imbalance", what, ratio=round(most / least, 2)))
    for clue, name in CLUES.items():
        gain, accuracy = _shortcut(counts.clues[clue])
        if gain >= SHORTCUT:
            what = f"{name} alone predicts the label of {100 * accuracy:.0f} % of the photos."
            found.append(_finding("shortcut", what, clue=clue, accuracy=round(accuracy, 4)))
    if two_labels:
        what = f"{two_labels} photos show what a photo under another label shows."
        found.append(_finding("near_duplicate_two_labels", what, photos=two_labels))
    if cut_chains:
        what = (
            f"{cut_chains} chains of near-duplicates were too long and were cut where they are least alike. "
            "Of a fixed camera, state groups by time in a list with a column group."
        )
        found.append(_finding("cut_chains", what, chains=cut_chains))
    leaks = _leaks(counts.roles_of_groups)
    if leaks:
        what = f"{leaks} groups of near-duplicates lie in several of the roles that the source states."
        found.append(_finding("stated_roles_leak", what, groups=leaks))
    if (series := counts.series).suspicious:
        what = (
            f"{series.members:,} photos are named like frames of {series.series:,} series, such as "
            f"{series.example}, and those of one series look alike. If a series shows one scene, test photos "
            "repeat train photos, and the figures are too good: list the photos with a column group."
        )
        found.append(_finding("series", what, photos=series.members, series=series.series))
    if counts.not_decoded:
        files = counts.not_decoded
        what = f"{files.total()} files are in no supported format: {_by_extension(files)}."
        if set(counts.not_decoded) & HEIC_SUFFIXES and counts.reasons["unsupported_format"]:
            what += f" For HEIC run: {install_extra('heif')}"
        found.append(_finding("not_decoded", what, files=dict(counts.not_decoded)))
    if skipped:
        what = f"{sum(skipped.values())} files were not listed as photos: {_by_extension(skipped)}."
        found.append(_finding("skipped_files", what, files=dict(skipped)))
    if surplus := counts.remarks["surplus_bytes"]:
        what = f"{surplus} JPEGs have surplus bytes before their end marker; their pixels are complete."
        found.append(_finding("surplus_bytes", what, photos=surplus))
    return found


def _by_extension(counts: Mapping[str, int]) -> str:
    """Extensions with their counts, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    named = ", ".join(f"{count} {name}" for name, count in ordered[:NAMED])
    return named + ", …" * (len(ordered) > NAMED)


def _finding(check: str, what: str, **numbers: Any) -> dict[str, Any]:
    return {"check": check, "what": what, **numbers}


def _count_reasons(rows: pa.Table, counts: PhotoCounts) -> None:
    some = rows.filter(pc.not_equal(rows["reason"], ""))
    columns = (some[name].to_pylist() for name in ("status", "reason", "uri"))
    for status, text, uri in zip(*columns, strict=True):
        words = [part.partition(":")[0] for part in text.split("; ")]
        (counts.remarks if status == "ok" else counts.reasons).update(words)
        if words[0] in NOT_DECODED and status != "ok":
            suffix = PurePath(uri.partition("::")[0]).suffix.lower()
            counts.not_decoded[suffix or "no extension"] += 1


def _counts(table: pa.Table, names: list[str]) -> dict[Any, int]:
    grouped = table.group_by(names).aggregate([([], "count_all")])
    columns = [grouped[name].to_pylist() for name in names]
    keys = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    return dict(zip(keys, grouped["count_all"].to_pylist(), strict=True))


def _shortcut(counts: Counter[tuple[str, Any]]) -> tuple[float, float]:
    """How well a value predicts the label: the share of errors avoided, 0 to 1, and the accuracy.

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
