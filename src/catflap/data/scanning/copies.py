"""What only all photos together tell: copies, near-duplicates, and a photo under two labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
    leading_bits,
    numbered,
)
from catflap.data.duplicates.groups import Pairs, bounded_groups, confirmed_pairs, joined
from catflap.data.duplicates.pairs import Hashes
from catflap.data.scanning.parts import Parts

LOADED = ["id", "label", "phash", "status", "role", "user_group"]
FIRST = tuple(reversed(ROLES))  # of copies in several roles the one in test is kept, then calibration …


@dataclass
class Facts:
    """The columns that are held for all photos at once, shape (n,); about 70 bytes a photo.

    `ids` are the first 128 bits of the sha256, (n, 2); `labels` and `users` are numbers of names,
    users -1 where there is none; `roles` are those that the source states, as places in FIRST or beyond
    it; `hashed` tells which photos have a perceptual hash.
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
    """What was found: the status and group of each photo, (n,), the texts for some rows, and counts."""

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
    them and of their dropped copies; -1 is none.
    """
    facts = load_facts(parts)
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
    """The rows of all parts as they stand in the Manifest, with what was found in them."""
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


def load_facts(parts: Parts) -> Facts:
    """Read what is held for all photos from the parts."""
    label_numbers: dict[str, int] = {}
    user_numbers: dict[str, int] = {}
    role_numbers = {role: number for number, role in enumerate(FIRST)}
    total = parts.total
    facts = Facts(
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
    for rows in parts.tables(LOADED):
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


def _mark_copies(parts: Parts, facts: Facts) -> tuple[dict[int, str], Positions]:
    """Set the status of files with the same bytes; returns why, by row, and the row that stands for each."""
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


def _near(parts: Parts, facts: Facts, usable: Positions) -> Pairs:
    def thumbs(positions: Positions) -> npt.NDArray[np.uint8]:
        chunks = parts.take("thumb", usable[positions]).chunks
        pictures = b"".join(picture for chunk in chunks for picture in chunk.to_pylist())
        return np.frombuffer(pictures, np.uint8).reshape(-1, 256)

    found = confirmed_pairs(facts.phashes[usable], thumbs)
    return Pairs(usable[found.first], usable[found.second], found.alike)


def _remarks(parts: Parts, facts: Facts, near: Positions, copies: Positions) -> dict[int, str]:
    uris = _uris(parts, near[copies])
    remarks = {}
    for row, kept in zip(copies.tolist(), near[copies].tolist(), strict=True):
        if facts.labels[row] == facts.labels[kept]:
            remarks[row] = f"near_duplicate: shows what {uris[kept]} shows"
        else:
            label = facts.names[facts.labels[kept]]
            remarks[row] = f"near_duplicate_two_labels: shows what {uris[kept]} shows under {label!r}"
    return remarks


def _with_users(facts: Facts, near: Positions, kept: Positions) -> Positions:
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
