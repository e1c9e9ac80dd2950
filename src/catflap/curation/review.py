"""review apply: a Manifest and a person's decisions to a new Manifest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.dataset import Positions
from catflap.artifacts.folder import atomic_folder, refuse_foreign
from catflap.artifacts.manifest import (
    DIGESTED,
    MARKER,
    TABLE,
    Manifest,
    load_manifest,
    manifest_digest,
    save_manifest,
)
from catflap.artifacts.schema import digest
from catflap.artifacts.tables import (
    DROPPED,
    OK,
    PHOTO_ROW,
    QUARANTINED,
    STATUS,
    iter_table,
    leading_bits,
    numbered,
    with_columns,
    write_tables,
)
from catflap.curation.review_page import Decision, Decisions, read_decisions
from catflap.curation.suspects import REVIEWED, TWO_LABELS, mixed, two_labels
from catflap.data.collection import ROLE_ORDER, count_photos, findings
from catflap.data.duplicates import NEAR, Hashes, joined
from catflap.data.phash import MIRROR
from catflap.data.profile import profile_manifest
from catflap.errors import CatflapError
from catflap.progress import Progress, silent

if TYPE_CHECKING:
    import pyarrow as pa


REVISION = 2  # raised when the same decisions give another Manifest than before
REVIEW_COLUMNS = ("id", "uri", "label", "status", "reason", "phash", "group", "role", "user_group")
TWO_LABELS_REMARK = re.compile(
    rf"near_duplicate_two_labels: (shows what .*) shows under .*?(?=; {REVIEWED}|\Z)", re.DOTALL
)


@dataclass(frozen=True)
class Review:
    """The new Manifest, and the outcome of each decision.

    `other`: the decisions were made on a Manifest with other content than the one they were applied to.
    """

    manifest: Manifest
    outcome: Outcome
    other: bool

    def to_json(self) -> dict[str, Any]:
        """The machine answer of `catflap review apply`."""
        manifest = {"photos": self.manifest.photos, "ok": self.manifest.ok, "labels": self.manifest.labels}
        return {
            **self.outcome.to_json(),
            **manifest,
            "other_manifest": self.other,
            "sha256": self.manifest.sha256,
        }


def apply_review(manifest: Manifest, decisions: Path, out: Path, *, progress: Progress = silent) -> Review:
    """Write the Manifest folder `out`: the same photos, with a person's decisions applied.

    A photo is found by its bytes, so the Manifest may be newer than the review. A decision on a photo
    that is not there, or whose label has changed since, is reported and not applied. Dropped
    photos stay as rows, with the reason. Raises CatflapError when no decision can be applied.
    """
    out = Path(out)
    refuse_foreign(out, MARKER)
    if out.resolve() == manifest.path.resolve():
        raise CatflapError(f"{out} is the manifest to review.", "Choose another output name.")
    path = manifest.path / TABLE
    decided = read_decisions(Path(decisions), every_label(path))
    progress("review", 0, manifest.photos)
    rows = load_rows(path, manifest.photos, decided.by_id.keys())
    outcome = apply_decisions(rows, decided)
    if not outcome.applied:
        raise CatflapError(
            f"None of the {len(decided.by_id)} decisions in {decisions} fits {manifest.path}.",
            "Name the manifest that was reviewed, or review again.",
        )
    join_restored(rows)
    under_two_labels = rows_under_two_labels(rows)
    with atomic_folder(out, MARKER) as folder:
        write_tables(folder / TABLE, PHOTO_ROW, new_table(path, rows, under_two_labels, progress))
        save_manifest(folder, _fields(manifest, decided, folder / TABLE, len(under_two_labels)))
        profile_manifest(folder, load_manifest(folder))
    return Review(load_manifest(out), outcome, decided.manifest != manifest.sha256)


def every_label(path: Path) -> set[str]:
    """Every label of a Manifest, also of photos that are not ok."""
    return {label for table in iter_table(path, ["label"]) for label in table["label"].unique().to_pylist()}


def review_fingerprint(manifest: Manifest, decided: Decisions) -> str:
    """A hash of what a reviewed Manifest is made from."""
    return digest([REVISION, manifest.sha256, manifest.made_from, decided.sha256])


def _fields(manifest: Manifest, decided: Decisions, path: Path, under_two_labels: int) -> dict[str, Any]:
    """The fields of manifest.json, counted again."""
    counts = count_photos(path)
    earlier = {check["check"]: check for check in manifest.checks}
    cut = earlier.get("cut_chains", {}).get("chains", 0)
    empty = earlier.get("empty_label", {}).get("labels", [])
    merged = earlier.get("merged_folders", {}).get("folders", {})
    gone = [label for label in manifest.labels if not counts.labels[label]]
    copies = [counts.remarks[name] for name in ("near_duplicate", "near_duplicate_two_labels")]
    return {
        **manifest.to_json(),
        "ok": counts.status["ok"],
        "quarantined": counts.status["quarantined"],
        "dropped": counts.status["dropped"],
        "near_duplicates": sum(copies),
        "near_duplicate_groups": _groups_of_copies(path),
        "labels": dict(sorted(counts.labels.items())),
        "reasons": dict(sorted(counts.reasons.items())),
        "remarks": dict(sorted(counts.remarks.items())),
        "checks": findings(
            counts,
            empty_labels=sorted({*empty, *gone}),
            two_labels=under_two_labels,
            cut_chains=cut,
            merged=merged,
            skipped=manifest.skipped,
        ),
        "sha256": manifest_digest(iter_table(path, DIGESTED)),
        "made_from": review_fingerprint(manifest, decided),
        "ancestors": {"manifest": manifest.sha256, "decisions": decided.sha256},
    }


def _groups_of_copies(path: Path) -> int:
    """How many groups hold a photo that is remarked as a near-duplicate."""
    groups: set[int] = set()
    for table in iter_table(path, ["status", "reason", "group"]):
        columns = (table[name].to_pylist() for name in ("status", "reason", "group"))
        groups |= {
            group
            for status, reason, group in zip(*columns, strict=True)
            if status == "ok" and "near_duplicate" in reason
        }
    return len(groups)


@dataclass
class Outcome:
    """How many decisions were applied, and which were not.

    `unknown` ids are not in the Manifest; `unusable` ones are quarantined or dropped for another
    reason; `stale` ones have another label than the person saw, {"id", "was", "label"} each.
    """

    kept: int = 0
    relabelled: int = 0
    dropped: int = 0
    restored: int = 0
    unknown: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    stale: list[dict[str, str]] = field(default_factory=list)

    @property
    def applied(self) -> int:
        """How many decisions were applied."""
        return self.kept + self.relabelled + self.dropped + self.restored

    @property
    def left(self) -> int:
        """How many were not."""
        return len(self.unknown) + len(self.unusable) + len(self.stale)

    def to_json(self) -> dict[str, Any]:
        """The counts, then the ids."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def apply_decisions(rows: Rows, decisions: Decisions) -> Outcome:
    """Change the rows as a person decided; returns the outcome of each decision."""
    outcome = Outcome()
    for id, decision in decisions.by_id.items():
        mine = rows.of.get(id, [])
        ok = [row for row in mine if rows.status[row] == OK]
        under_two_labels = [row for row in mine if _is_under_two_labels(rows, row)]
        if not mine:
            outcome.unknown.append(id)
        elif ok:
            _apply(rows, ok[0], mine, decision, outcome)
        elif under_two_labels:
            _restore(rows, under_two_labels, decision, outcome)
        elif decision.label is None and any(rows.reasons[row].startswith(REVIEWED) for row in mine):
            outcome.dropped += 1  # by the same decision, before
        else:
            outcome.unusable.append(id)
    return outcome


def _is_under_two_labels(rows: Rows, row: int) -> bool:
    return bool(rows.status[row] == QUARANTINED) and rows.reasons[row].startswith(TWO_LABELS)


def _apply(rows: Rows, row: int, copies: list[int], decision: Decision, outcome: Outcome) -> None:
    """A photo that is ok: keep it, relabel it and its dropped copies, or drop it."""
    label = rows.label(row)
    if label not in (decision.was, decision.label):
        outcome.stale.append({"id": decision.id, "was": decision.was, "label": label})
    elif decision.label is None:
        _drop(rows, row, decision.reason)
        outcome.dropped += 1
    elif decision.label == label:
        _remark(rows, row, "kept")
        outcome.kept += 1
    else:
        rows.labels[copies] = rows.names[decision.label]
        _remark(rows, row, f"relabelled, was {label!r}")
        outcome.relabelled += 1


def _restore(rows: Rows, under_two_labels: list[int], decision: Decision, outcome: Outcome) -> None:
    """A photo whose bytes are under several labels: one row becomes ok, the others its copies.

    It is the first of the first stated role, as for copies in a scan, and of those with the chosen label.
    """
    labels = [rows.label(row) for row in under_two_labels]
    if decision.was not in labels:
        outcome.stale.append({"id": decision.id, "was": decision.was, "label": labels[0]})
        return
    if decision.label is None:
        for row in under_two_labels:
            _drop(rows, row, decision.reason)
        outcome.dropped += 1
        return
    ranks = {role: rank for rank, role in enumerate(ROLE_ORDER)}
    roles = [ranks.get(rows.roles[row], len(ranks)) for row in under_two_labels]
    chosen = min(zip(roles, (label != decision.label for label in labels), under_two_labels, strict=True))[2]
    others = [row for row in under_two_labels if row != chosen]
    rows.status[chosen] = OK
    rows.status[others] = DROPPED
    rows.labels[under_two_labels] = rows.names[decision.label]
    rows.reasons[chosen] = f"{REVIEWED} one of two labels"
    for row in others:
        rows.reasons[row] = f"exact_duplicate: the same bytes as {rows.uris[chosen]}"
    rows.restored.append(chosen)
    outcome.restored += 1


def _drop(rows: Rows, row: int, reason: str) -> None:
    rows.status[row] = DROPPED
    rows.groups[row] = -1
    rows.reasons[row] = f"{REVIEWED} {reason}"


def _remark(rows: Rows, row: int, what: str) -> None:
    """Add a person's decision to the remarks of a photo; it replaces an earlier one."""
    kept = [one for one in rows.reasons[row].split("; ") if one and not one.startswith(REVIEWED)]
    rows.reasons[row] = "; ".join([*kept, f"{REVIEWED} {what.replace(';', ',')}"])


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
    """Read a Manifest's table of `total` rows, with the details of the wanted ids."""
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
    for table in iter_table(path, REVIEW_COLUMNS):
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
    """Give restored photos their groups, which scan did not: near-duplicates, and the groups that the source
    states for them and for their copies.
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
    """The rows of photos that are ok and show the same as one with another label."""
    able = np.flatnonzero((rows.status == OK) & rows.hashed)
    able = able[mixed(rows.labels[able], rows.groups[able])]
    first, second = two_labels(rows.labels[able], rows.groups[able], rows.hashes[able])
    return {*able[first].tolist(), *able[second].tolist()}


def new_table(path: Path, rows: Rows, under_two_labels: Set[int], progress: Progress) -> Iterator[pa.Table]:
    """The table of the new Manifest, in parts."""
    names, status = np.array(list(rows.names), dtype=object), np.array(STATUS, dtype=object)
    start, total = 0, len(rows.labels)
    for table in iter_table(path, PHOTO_ROW.names):
        here = slice(start, start + table.num_rows)
        reasons = [
            _corrected(rows.reasons.get(row, reason), row, under_two_labels)
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


def _corrected(reason: str, row: int, under_two_labels: Set[int]) -> str:
    """Correct the remark that a near-duplicate has another label when it no longer has."""
    return reason if row in under_two_labels else TWO_LABELS_REMARK.sub(r"near_duplicate: \1", reason)


def _near(hashes: Hashes, one: np.uint64) -> npt.NDArray[np.bool_]:
    apart = hashes ^ one
    turned = apart ^ np.uint64(MIRROR)
    near: npt.NDArray[np.bool_] = np.minimum(np.bitwise_count(apart), np.bitwise_count(turned)) <= NEAR
    return near
