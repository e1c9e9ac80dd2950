"""A person's decisions about the photos of a build: kept in its folder, and applied by the next build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from catflap.artifacts.build_folder import DECISIONS, REVIEWED
from catflap.artifacts.manifest import TABLE, Manifest, load_manifest
from catflap.artifacts.schema import write_json
from catflap.curation.review import Review, apply_review, every_label, review_fingerprint
from catflap.curation.review_page import Decision, Decisions, read_decisions
from catflap.errors import BadArtifact, CatflapError
from catflap.progress import Progress, silent


def review_build(folder: Path, decisions: Path, *, progress: Progress = silent) -> Review:
    """Add decisions to those that a build's folder holds, and apply them all to its scanned Manifest.

    The next run of the same build goes on with the Manifest that this writes. A later decision about a photo
    replaces an earlier one. Raises CatflapError where none fits, and keeps what was there.
    """
    scanned, kept = load_manifest(folder / "manifest"), folder / DECISIONS
    labels = every_label(scanned.path / TABLE)
    given = read_decisions(decisions, labels)
    merged = merge(read_decisions(kept, labels), given) if kept.is_file() else given
    trial = folder / f".{DECISIONS}"
    try:
        write_json(trial, to_json(merged))
        review = apply_review(scanned, trial, folder / REVIEWED, progress=progress)
        trial.replace(kept)
    finally:
        trial.unlink(missing_ok=True)
    return replace(review, other=False)


def reviewed(folder: Path, scanned: Manifest, *, progress: Progress = silent) -> tuple[Manifest, bool]:
    """The Manifest of a build with the decisions that its folder holds, and whether it was there already.

    Without decisions the scanned Manifest itself.
    """
    kept = folder / DECISIONS
    if not kept.is_file():
        return scanned, True
    decided = read_decisions(kept, every_label(scanned.path / TABLE))
    try:
        there = load_manifest(folder / REVIEWED)
        if there.made_from == review_fingerprint(scanned, decided):
            return there, True
    except BadArtifact:
        pass
    try:
        return apply_review(scanned, kept, folder / REVIEWED, progress=progress).manifest, False
    except CatflapError as error:
        raise CatflapError(error.what, f"Delete {kept} to build without these decisions.") from error


def merge(earlier: Decisions, later: Decisions) -> Decisions:
    """All decisions; of two about a photo the later one, from the label that the photo had at first."""
    by_id = dict(earlier.by_id)
    for id, decision in later.by_id.items():
        before = by_id.get(id)
        by_id[id] = decision if before is None else replace(decision, was=before.was)
    return Decisions(by_id, later.manifest, "")


def to_json(decisions: Decisions) -> dict[str, Any]:
    """Decisions as the file that `read_decisions` reads."""
    rows = [_row(decision) for _, decision in sorted(decisions.by_id.items())]
    return {"catflap": "decisions", "version": 1, "manifest": decisions.manifest, "decisions": rows}


def _row(decision: Decision) -> dict[str, str]:
    known = {"id": decision.id, "was": decision.was}
    if decision.label is None:
        return {**known, "decision": "drop", "reason": decision.reason}
    if decision.label == decision.was:
        return {**known, "decision": "keep"}
    return {**known, "decision": "relabel", "label": decision.label}
