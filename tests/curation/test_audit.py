"""An audit of planted faults: what it suspects, in which order, and what it leaves alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.audit import measure, plant
from catflap.artifacts.dataset import Dataset
from catflap.artifacts.manifest import load_manifest
from catflap.curation.audit import Audit, audit, choose_photos
from catflap.curation.suspects import SUSPECTS, Suspect, source_manifest
from catflap.data.prepare import prepare_fingerprint
from catflap.errors import CatflapError
from catflap.image import Frame
from tests.curation.conftest import HOSTILE, Collection


def by_name(audited: Audit) -> dict[str, Suspect]:
    return {Path(one.uri).name: one for one in audited.suspects}


def test_every_flipped_label_is_suspected_with_the_right_label(
    audited: Audit, collection: Collection
) -> None:
    suspects = by_name(audited)
    assert {name: suspects[name].suggested for name in collection.flipped} == collection.flipped
    assert {suspects[name].kind for name in collection.flipped} <= {"label_error", "two_labels"}


def test_what_is_planted_comes_before_what_is_not(audited: Audit, collection: Collection) -> None:
    planted = {
        *collection.flipped,
        collection.wrong_copy,
        *collection.twin,
        *collection.twice,
        collection.odd,
    }
    names = [Path(one.uri).name for one in audited.suspects]
    assert set(names[: len(collection.flipped) + 3]) <= planted


def test_a_picture_under_two_labels_is_suspected_on_both_sides(
    audited: Audit, collection: Collection
) -> None:
    suspects = by_name(audited)
    right, wrong = (suspects[name] for name in collection.twin)
    assert (wrong.kind, wrong.label, wrong.suggested) == ("two_labels", "other", "cat")
    assert (right.kind, right.label, right.suggested) == ("two_labels", "cat", "other")
    assert right.score < 0.5 < wrong.score


def test_bytes_under_two_labels_are_one_suspect(audited: Audit, collection: Collection) -> None:
    id = collection.ids()[collection.twice[0]]
    (found,) = [one for one in audited.suspects if one.id == id]
    assert (found.kind, {found.label, found.suggested}, found.score) == ("two_labels", {"cat", HOSTILE}, 1.0)


def test_each_photo_is_suspected_once(audited: Audit) -> None:
    ids = [one.id for one in audited.suspects]
    assert len(set(ids)) == len(ids)


def test_the_rows_are_those_of_the_manifest(audited: Audit, collection: Collection) -> None:
    assert audited.manifest.rows().equals(collection.manifest.rows())
    assert audited.manifest.sha256 == collection.manifest.sha256
    assert prepare_fingerprint(audited.manifest) == prepare_fingerprint(collection.manifest)
    expected = {"manifest": collection.manifest.sha256, "dataset": collection.dataset.sha256}
    assert load_manifest(audited.manifest.path).ancestors == expected


def test_the_file_of_suspects_is_the_answer(audited: Audit) -> None:
    lines = (audited.manifest.path / SUSPECTS).read_text("utf-8").split("\n")
    assert [json.loads(line) for line in lines if line] == [one.to_json() for one in audited.suspects]


def test_the_commonest_confusions_are_estimated(audited: Audit) -> None:
    assert (audited.confusions[0]["label"], audited.confusions[0]["shows"]) == ("other", "cat")
    assert 3 <= audited.confusions[0]["photos"] <= 5  # cat03, its copy, cat11, and perhaps the twin


def test_a_manifest_that_is_no_longer_there_must_be_named(collection: Collection, tmp_path: Path) -> None:
    moved = replace(collection.dataset, manifest="../gone")
    with pytest.raises(CatflapError) as error:
        audit(moved, tmp_path / "audited")
    assert "--manifest" in error.value.fix
    assert source_manifest(moved, collection.manifest) == collection.manifest


def test_the_page_keeps_places_for_outliers() -> None:
    suspects = [Suspect(str(number), "", "cat", "dog", 0.9, "label_error") for number in range(10)]
    suspects += [Suspect(f"o{number}", "", "cat", None, 0.6, "outlier") for number in range(10)]
    chosen = [one.id for one in choose_photos(suspects, 8)]
    assert chosen == ["0", "1", "2", "3", "4", "5", "o0", "o1"]
    assert [one.id for one in choose_photos(suspects, 14)] == [*map(str, range(10)), "o0", "o1", "o2", "o3"]
    assert choose_photos(suspects, 0) == []


def test_another_manifest_is_refused(collection: Collection, drawn_dataset: Dataset, tmp_path: Path) -> None:
    other = load_manifest(drawn_dataset.path.with_name("manifest"))
    with pytest.raises(CatflapError, match="was not prepared from"):
        audit(collection.dataset, tmp_path / "audited", manifest=other)


def test_the_manifest_itself_is_never_written_over(collection: Collection) -> None:
    before = {path: path.read_bytes() for path in collection.manifest.path.iterdir()}
    with pytest.raises(CatflapError, match="is the manifest to audit"):
        audit(collection.dataset, collection.manifest.path)
    with pytest.raises(CatflapError, match="is not a manifest"):
        audit(collection.dataset, collection.dataset.path)
    assert {path: path.read_bytes() for path in collection.manifest.path.iterdir()} == before


@pytest.mark.slow
def test_45_of_50_flipped_labels_are_among_the_first_100_suspects(photos_root: Path, tmp_path: Path) -> None:
    """Of a fifth of the photos at a small frame; benchmarks/audit.py takes all, at the usual one."""
    photos = sorted(path for path in photos_root.glob("*/*") if path.is_file())
    planted = plant(photos[::5], 50, 0, tmp_path, Frame(160, 160))
    assert measure(planted, tmp_path)["found_in_first"]["100"] >= 45


@pytest.mark.slow
def test_a_collection_without_faults_has_few_suspects(drawn_dataset: Dataset, tmp_path: Path) -> None:
    found = audit(drawn_dataset, tmp_path / "audited")
    assert len(found.suspects) <= 3
    assert all(one.kind != "label_error" for one in found.suspects)
