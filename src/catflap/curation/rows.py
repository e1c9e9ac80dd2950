"""The rows of a Manifest while decisions change them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.dataset import Positions
from catflap.artifacts.tables import (
    OK,
    PHOTO_ROW,
    QUARANTINED,
    STATUS,
    iter_table,
    leading_bits,
    numbered,
    with_columns,
)
from catflap.curation.lookup import SETTLED
from catflap.curation.same_picture import mixed, two_labels
from catflap.data.duplicates.groups import NEAR, joined
from catflap.data.duplicates.pairs import Hashes
from catflap.data.duplicates.phash import MIRROR
from catflap.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("id", "uri", "label", "status", "reason", "phash", "group", "role", "user_group")
SOLVED = re.compile(
    rf"near_duplicate_two_labels: (shows what .*) shows under .*?(?=; {SETTLED}|\Z)", re.DOTALL
)


@dataclass
class Rows:
    """Columns of all photos, (n,) each, and for the decided ones their rows by id, URIs, reasons and roles.

    `labels` are numbers of `names`, `status` is numbered as in artifacts.tables; `ids` are the first 64 bits
    of the sha256, `users` numbers of the groups that the source states, -1 where it states none; `restored`
    are rows that were quarantined for two labels and are ok now.
    """

    names: dict[str, int]
    labels: npt.NDArray[np.int64]
    status: npt.NDArray[np.int8]
    groups: Positions
    hashes: Hashes
    hashed: npt.NDArray[np.bool_]
    ids: Hashes
    users: npt.NDArray[np.int64]
    of: dict[str, list[int]] = field(default_factory=dict)
    uris: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    roles: dict[int, str] = field(default_factory=dict)
    restored: list[int] = field(default_factory=list)

    def label(self, row: int) -> str:
        """The name of the label that a row has now."""
        return list(self.names)[int(self.labels[row])]


def load_rows(path: Path, total: int, wanted: Set[str]) -> Rows:
    """Read what decisions about the wanted ids may need from a Manifest's table of `total` rows."""
    rows = Rows(
        names={},
        labels=np.zeros(total, np.int64),
        status=np.zeros(total, np.int8),
        groups=np.zeros(total, np.int64),
        hashes=np.zeros(total, np.uint64),
        hashed=np.zeros(total, bool),
        ids=np.zeros(total, np.uint64),
        users=np.zeros(total, np.int64),
    )
    codes = {name: code for code, name in enumerate(STATUS)}
    users = {"": -1}
    start = 0
    for table in iter_table(path, COLUMNS):
        here = slice(start, start + table.num_rows)
        rows.labels[here] = numbered(table["label"], rows.names)
        rows.status[here] = numbered(table["status"], codes)
        rows.groups[here] = table["group"].to_numpy()
        rows.hashes[here] = table["phash"].fill_null(0).to_numpy()
        rows.hashed[here] = table["phash"].is_valid().to_numpy()
        rows.ids[here] = leading_bits(table["id"])[:, 0]
        rows.users[here] = numbered(table["user_group"], users)
        for place, id in enumerate(table["id"].to_pylist()):
            if id in wanted:
                rows.of.setdefault(id, []).append(start + place)
                rows.uris[start + place] = table["uri"][place].as_py()
                rows.reasons[start + place] = table["reason"][place].as_py()
                rows.roles[start + place] = table["role"][place].as_py()
        start += table.num_rows
    return rows


def join_restored(rows: Rows) -> None:
    """Give photos that are ok again the groups of what they show, and those that the source states of them
    and of their copies; scan did not group them.
    """
    if not rows.restored:
        return
    rows.groups[rows.restored] = rows.restored
    ok = rows.status == OK
    able = np.flatnonzero(ok & rows.hashed)
    first, second = [], []
    for row in rows.restored:
        joins = _of_same_users(rows, row)
        if rows.hashed[row]:
            joins = np.append(joins, able[_near(rows.hashes[able], rows.hashes[row])])
        first += [row] * len(joins)
        second += rows.groups[joins].tolist()
    root = joined(len(ok), np.array(first, np.int64), np.array(second, np.int64))
    rows.groups[ok] = root[rows.groups[ok]]


def _of_same_users(rows: Rows, row: int) -> Positions:
    """The photos that are ok, themselves or as the copy that was kept, in a stated group of this one's."""
    users = rows.users[rows.ids == rows.ids[row]]
    stated = np.isin(rows.users, users[users >= 0]) & (rows.status != QUARANTINED)
    return np.flatnonzero((rows.status == OK) & np.isin(rows.ids, rows.ids[stated]))


def rows_under_two_labels(rows: Rows) -> set[int]:
    """The rows of photos that are ok and show the same as one under another label."""
    able = np.flatnonzero((rows.status == OK) & rows.hashed)
    able = able[mixed(rows.labels[able], rows.groups[able])]
    first, second = two_labels(rows.labels[able], rows.groups[able], rows.hashes[able])
    return {*able[first].tolist(), *able[second].tolist()}


def written(path: Path, rows: Rows, under_two_labels: Set[int], progress: Progress) -> Iterator[pa.Table]:
    """The table of the new Manifest, a part at a time."""
    names, status = np.array(list(rows.names), dtype=object), np.array(STATUS, dtype=object)
    start, total = 0, len(rows.labels)
    for table in iter_table(path, PHOTO_ROW.names):
        here = slice(start, start + table.num_rows)
        reasons = [
            _solved(rows.reasons.get(row, reason), row, under_two_labels)
            for row, reason in enumerate(table["reason"].to_pylist(), start)
        ]
        columns: dict[str, Any] = {
            "label": names[rows.labels[here]],
            "status": status[rows.status[here]],
            "group": rows.groups[here],
            "reason": reasons,
        }
        yield with_columns(table, columns)
        start += table.num_rows
        progress("review", start, total)


def _solved(reason: str, row: int, under_two_labels: Set[int]) -> str:
    """A remark that a near-duplicate has another label, put right when it has no longer."""
    return reason if row in under_two_labels else SOLVED.sub(r"near_duplicate: \1", reason)


def _near(hashes: Hashes, one: np.uint64) -> npt.NDArray[np.bool_]:
    apart = hashes ^ one
    turned = apart ^ np.uint64(MIRROR)
    near: npt.NDArray[np.bool_] = np.minimum(np.bitwise_count(apart), np.bitwise_count(turned)) <= NEAR
    return near
