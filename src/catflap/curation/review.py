"""review apply: a Manifest and a person's decisions to a new Manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from catflap.artifacts.tables import PHOTO_ROW, iter_table, write_tables
from catflap.curation.carrying import Outcome, carry_out
from catflap.curation.decisions import Decisions, read_decisions
from catflap.curation.rows import join_restored, load_rows, rows_under_two_labels, written
from catflap.data.profile import profile_manifest
from catflap.data.scanning.checks import count_photos, findings
from catflap.errors import CatflapError
from catflap.progress import Progress, silent

REVISION = 2  # raised when the same decisions give another Manifest than before


@dataclass(frozen=True)
class Review:
    """The Manifest that came of decisions, and what became of each of them.

    `other` tells that they were made on a Manifest with other content than the one they were applied to.
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
    """Write the Manifest folder `out`: the same photos, with the decisions of a person carried out.

    A photo is found by its bytes, so the Manifest may be newer than the review. A decision on a photo
    that is not there, or whose label has changed since, is reported and not carried out. Dropped
    photos stay as rows, with the reason. Raises CatflapError when no decision can be carried out.
    """
    out = Path(out)
    refuse_foreign(out, MARKER)
    if out.resolve() == manifest.path.resolve():
        raise CatflapError(f"{out} is the manifest to review.", "Choose another output name.")
    path = manifest.path / TABLE
    said = read_decisions(Path(decisions), _labels(path))
    progress("review", 0, manifest.photos)
    rows = load_rows(path, manifest.photos, said.by_id.keys())
    outcome = carry_out(rows, said)
    if not outcome.carried_out:
        raise CatflapError(
            f"None of the {len(said.by_id)} decisions in {decisions} fits {manifest.path}.",
            "Name the manifest that was reviewed, or review again.",
        )
    join_restored(rows)
    under_two_labels = rows_under_two_labels(rows)
    with atomic_folder(out, MARKER) as folder:
        write_tables(folder / TABLE, PHOTO_ROW, written(path, rows, under_two_labels, progress))
        save_manifest(folder, _fields(manifest, said, folder / TABLE, len(under_two_labels)))
        profile_manifest(folder, load_manifest(folder))
    return Review(load_manifest(out), outcome, said.manifest != manifest.sha256)


def _labels(path: Path) -> set[str]:
    """Every label of a Manifest, also of photos that are not ok."""
    return {label for table in iter_table(path, ["label"]) for label in table["label"].unique().to_pylist()}


def _fields(manifest: Manifest, said: Decisions, path: Path, under_two_labels: int) -> dict[str, Any]:
    """manifest.json: what a scan counts, counted anew."""
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
        "checks": findings(counts, sorted({*empty, *gone}), under_two_labels, cut, merged),
        "sha256": manifest_digest(iter_table(path, DIGESTED)),
        "made_from": digest([REVISION, manifest.sha256, manifest.made_from, said.sha256]),
        "ancestors": {"manifest": manifest.sha256, "decisions": said.sha256},
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
