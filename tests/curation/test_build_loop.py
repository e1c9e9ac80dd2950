"""The loop of a build: audit what it left, decide, apply, and build again with the cleaned labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from catflap.artifacts.build_folder import AUDIT, DECISIONS, REVIEWED, build_folder, part_of_build
from catflap.artifacts.manifest import load_manifest
from catflap.curation.kept_decisions import review_build, reviewed
from catflap.curation.review import apply_review
from catflap.data.sources import source_of
from catflap.errors import CatflapError
from tests.tiny import Exported


@pytest.fixture
def built(drawn_bundle: Exported, tmp_path: Path) -> Path:
    """A Bundle and the folder of its build with the scanned Manifest."""
    shutil.copy(drawn_bundle.path, tmp_path / "mine.catflap")
    shutil.copytree(drawn_bundle.path.with_name("manifest"), tmp_path / "mine.build" / "manifest")
    return tmp_path / "mine.catflap"


def decide(path: Path, manifest: str, decisions: list[dict[str, str]]) -> Path:
    fields = {"catflap": "decisions", "version": 1, "manifest": manifest, "decisions": decisions}
    path.write_text(json.dumps(fields))
    return path


def ids_of(manifest_path: Path, label: str) -> list[str]:
    rows = load_manifest(manifest_path).rows(["id", "label"]).to_pylist()
    return [row["id"] for row in rows if row["label"] == label]


def test_the_bundle_and_its_folder_name_the_same_build(built: Path) -> None:
    folder = built.with_suffix(".build")
    assert build_folder(built) == build_folder(folder) == folder
    assert part_of_build(built, "dataset") == folder / "dataset"
    assert part_of_build(Path("photos.dataset"), "dataset") == Path("photos.dataset")
    assert build_folder(built.with_name("other.catflap")) is None
    assert source_of(str(built)) == load_manifest(folder / "manifest").source
    assert source_of("photos") == "photos"


def test_decisions_are_kept_and_later_ones_count(built: Path, tmp_path: Path) -> None:
    folder = built.with_suffix(".build")
    scanned = load_manifest(folder / "manifest")
    assert reviewed(folder, scanned) == (scanned, True)
    cat, second = ids_of(scanned.path, "cat")[:2]
    first = [
        {"id": cat, "was": "cat", "decision": "relabel", "label": "other"},
        {"id": second, "was": "cat", "decision": "drop", "reason": "blurred"},
    ]
    review = review_build(folder, decide(tmp_path / "one.json", scanned.sha256, first))
    assert (review.outcome.relabelled, review.outcome.dropped) == (1, 1)
    clean, was_there = reviewed(folder, scanned)
    assert (was_there, clean.labels) == (True, {"cat": 28, "other": 31})
    assert (folder / DECISIONS).is_file()
    assert folder / REVIEWED == clean.path
    back = [{"id": cat, "was": "other", "decision": "relabel", "label": "cat"}]
    review = review_build(folder, decide(tmp_path / "two.json", clean.sha256, back))
    assert review.manifest.labels == {"cat": 29, "other": 30}, "taken back, and the other one kept"
    assert (review.outcome.left, review.other) == (0, False)


def test_new_photos_are_reviewed_by_what_was_decided(built: Path, tmp_path: Path) -> None:
    folder = built.with_suffix(".build")
    scanned = load_manifest(folder / "manifest")
    cat, second = ids_of(scanned.path, "cat")[:2]
    drop = [{"id": cat, "was": "cat", "decision": "drop", "reason": "blurred"}]
    review_build(folder, decide(tmp_path / "one.json", scanned.sha256, drop))
    other = [{"id": second, "was": "cat", "decision": "drop", "reason": "dark"}]
    apply_review(scanned, decide(tmp_path / "two.json", scanned.sha256, other), tmp_path / "again")
    clean, was_there = reviewed(folder, load_manifest(tmp_path / "again"))  # as if scanned again
    assert (was_there, clean.labels["cat"]) == (False, 28)


def test_decisions_that_do_not_fit_change_nothing(built: Path, tmp_path: Path) -> None:
    folder = built.with_suffix(".build")
    strange = decide(tmp_path / "x.json", "0" * 64, [{"id": "1" * 64, "was": "cat", "decision": "keep"}])
    with pytest.raises(CatflapError, match="None of the 1 decisions"):
        review_build(folder, strange)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest"]
    shutil.copy(strange, folder / DECISIONS)
    with pytest.raises(CatflapError, match=r"Delete .*decisions\.json"):
        reviewed(folder, load_manifest(folder / "manifest"))
    assert not (folder / AUDIT).exists()
