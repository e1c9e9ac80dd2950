"""Decisions applied: what becomes of each photo, and of decisions that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from catflap.artifacts.manifest import Manifest, load_manifest
from catflap.artifacts.schema import digest_file
from catflap.curation.audit import Audit, audit
from catflap.curation.review import Review, apply_review
from catflap.data.prepare import prepare
from catflap.errors import CatflapError
from tests.curation.conftest import HOSTILE, Collection
from tests.tiny import FRAME

Decided = dict[str, Any]


def decide(folder: Path, manifest: Manifest, *decisions: Decided) -> Path:
    path = folder / "decisions.json"
    fields = {"catflap": "decisions", "version": 1, "manifest": manifest.sha256, "decisions": list(decisions)}
    path.write_text(json.dumps(fields), "utf-8")
    return path


def rows(manifest: Manifest) -> dict[str, Decided]:
    return {Path(row["uri"]).name: row for row in manifest.rows().to_pylist()}


@pytest.fixture(scope="module")
def corrections(collection: Collection) -> list[Decided]:
    """What a careful person would decide on the planted faults."""
    ids = collection.ids()
    now = {row["id"]: row["label"] for row in collection.manifest.rows().to_pylist()}

    def relabel(name: str, label: str) -> Decided:
        return {"id": ids[name], "was": now[ids[name]], "decision": "relabel", "label": label}

    return [
        *(relabel(name, label) for name, label in collection.flipped.items()),
        relabel(collection.wrong_copy, "cat"),
        relabel(collection.twin[1], "cat"),
        {"id": ids[collection.twin[0]], "was": "cat", "decision": "keep"},
        {"id": ids[collection.odd], "was": "cat", "decision": "drop", "reason": "no photo; a page\n of text"},
        {"id": ids[collection.twice[0]], "was": "cat", "decision": "keep"},
    ]


@pytest.fixture(scope="module")
def reviewed(collection: Collection, corrections: list[Decided]) -> Review:
    return apply_review(
        collection.manifest,
        decide(collection.root, collection.manifest, *corrections),
        collection.root / "reviewed",
    )


def test_every_decision_is_carried_out(reviewed: Review, collection: Collection) -> None:
    found = reviewed.to_json()
    assert [found[name] for name in ("kept", "relabelled", "dropped", "restored")] == [1, 6, 1, 1]
    assert [found[name] for name in ("unknown", "unusable", "stale", "other_manifest")] == [[], [], [], False]
    table = rows(reviewed.manifest)
    for name, label in collection.flipped.items():
        assert (table[name]["label"], table[name]["status"]) == (label, "ok")
        assert table[name]["reason"].startswith("review: relabelled, was ") or name == "cat03.jpg"


def test_dropped_photos_stay_with_the_reason(reviewed: Review, collection: Collection) -> None:
    row = rows(reviewed.manifest)[collection.odd]
    assert (row["status"], row["group"]) == ("dropped", -1)
    assert row["reason"] == "review: no photo, a page of text"
    assert reviewed.manifest.reasons["review"] == 1
    assert reviewed.manifest.photos == collection.manifest.photos


def test_one_file_of_two_labels_is_used_again(reviewed: Review, collection: Collection) -> None:
    table = rows(reviewed.manifest)
    right, wrong = (table[name] for name in collection.twice)
    assert (right["status"], right["label"], right["reason"]) == ("ok", "cat", "review: one of two labels")
    assert (wrong["status"], wrong["label"]) == ("dropped", "cat")
    assert wrong["reason"] == f"exact_duplicate: the same bytes as {right['uri']}"
    assert right["group"] >= 0
    assert sum(row["group"] == right["group"] for row in table.values()) == 1


def test_a_solved_conflict_is_remarked_as_a_plain_copy(reviewed: Review, collection: Collection) -> None:
    assert "near_duplicate_two_labels" in collection.manifest.remarks
    assert "near_duplicate_two_labels" not in reviewed.manifest.remarks
    assert "near_duplicate_two_labels" not in {check["check"] for check in reviewed.manifest.checks}
    assert reviewed.manifest.near_duplicates == collection.manifest.near_duplicates
    assert reviewed.manifest.near_duplicate_groups == collection.manifest.near_duplicate_groups


def test_the_counts_are_counted_anew(reviewed: Review) -> None:
    manifest, table = reviewed.manifest, rows(reviewed.manifest)
    fine = [row["label"] for row in table.values() if row["status"] == "ok"]
    assert manifest.labels == {label: fine.count(label) for label in sorted(set(fine))}
    assert (manifest.ok, manifest.quarantined) == (len(fine), 0)
    assert manifest.ok + manifest.dropped == manifest.photos == len(table)


def test_the_new_manifest_names_the_old_one(reviewed: Review, collection: Collection) -> None:
    decisions = digest_file(collection.root / "decisions.json")
    assert reviewed.manifest.ancestors == {"manifest": collection.manifest.sha256, "decisions": decisions}
    assert reviewed.manifest.sha256 != collection.manifest.sha256
    assert collection.manifest == load_manifest(collection.manifest.path)


@pytest.mark.slow
def test_the_next_dataset_and_the_next_audit_honour_it(reviewed: Review, collection: Collection) -> None:
    dataset = prepare(reviewed.manifest, collection.root / "next", frame=FRAME, profile=False)
    ids, table = collection.ids(), rows(reviewed.manifest)
    learnt = {
        str(id): dataset.labels[label]
        for role in dataset.roles
        for id, label in zip(dataset.photos(role).ids, dataset.photos(role).labels, strict=True)
    }
    assert ids[collection.odd] not in learnt
    assert learnt == {row["id"]: row["label"] for row in table.values() if row["status"] == "ok"}
    again = audit(dataset, collection.root / "audited_again")
    decided = {*collection.flipped, collection.wrong_copy, *collection.twin, *collection.twice}
    assert {Path(one.uri).name for one in again.suspects} & decided == set()


def test_the_same_decisions_twice_change_nothing_more(
    reviewed: Review, collection: Collection, tmp_path: Path
) -> None:
    again = apply_review(reviewed.manifest, collection.root / "decisions.json", tmp_path / "again")
    assert again.manifest.sha256 == reviewed.manifest.sha256
    assert again.other
    assert again.outcome.left == 0


def test_the_audited_manifest_serves_as_well(
    audited: Audit, reviewed: Review, collection: Collection, tmp_path: Path
) -> None:
    found = apply_review(audited.manifest, collection.root / "decisions.json", tmp_path / "reviewed")
    assert not found.other
    assert found.manifest.rows().equals(reviewed.manifest.rows())


def test_what_does_not_fit_is_reported_and_not_done(collection: Collection, tmp_path: Path) -> None:
    ids = collection.ids()
    missing = "0" * 64
    path = decide(
        tmp_path, collection.manifest,
        {"id": missing, "was": "cat", "decision": "keep"},
        {"id": ids["cat01.jpg"], "was": "other", "decision": "relabel", "label": HOSTILE},
        {"id": ids["cat02.jpg"], "was": "cat", "decision": "keep"},
        {"id": ids[collection.twice[0]], "was": "other", "decision": "keep"},
    )  # fmt: skip
    found = apply_review(collection.manifest, path, tmp_path / "reviewed").outcome
    assert found.unknown == [missing]
    assert found.stale == [
        {"id": ids["cat01.jpg"], "was": "other", "label": "cat"},
        {"id": ids[collection.twice[0]], "was": "other", "label": "cat"},
    ]
    assert (found.kept, found.relabelled, found.left) == (1, 0, 3)
    assert rows(load_manifest(tmp_path / "reviewed"))["cat01.jpg"]["label"] == "cat"


def test_when_nothing_fits_nothing_is_written(collection: Collection, tmp_path: Path) -> None:
    path = decide(tmp_path, collection.manifest, {"id": "0" * 64, "was": "cat", "decision": "keep"})
    with pytest.raises(CatflapError, match="None of the 1 decisions"):
        apply_review(collection.manifest, path, tmp_path / "reviewed")
    assert not (tmp_path / "reviewed").exists()
    with pytest.raises(CatflapError, match="is the manifest to review"):
        apply_review(collection.manifest, path, collection.manifest.path)


def test_a_photo_that_is_used_again_joins_what_shows_the_same(tmp_path: Path) -> None:
    """Or its copy could be in train and itself in test."""
    from PIL import Image

    from catflap.data.scan import scan
    from tests.tiny import draw_photos

    source = draw_photos(tmp_path / "photos", count=12)
    (source / "cat" / "03.jpg").rename(source / "cat" / "first.jpg")
    (source / "other" / "again.jpg").write_bytes((source / "cat" / "first.jpg").read_bytes())
    for name, turn in (("small", None), ("mirrored", Image.Transpose.FLIP_LEFT_RIGHT)):
        image = Image.open(source / "cat" / "first.jpg").resize((200, 150))
        (image.transpose(turn) if turn is not None else image).save(
            source / "cat" / f"{name}.jpg", quality=80
        )
    manifest = scan(source, tmp_path / "manifest", workers=1, profile=False)
    id = rows(manifest)["again.jpg"]["id"]
    path = decide(tmp_path, manifest, {"id": id, "was": "cat", "decision": "keep"})
    table = rows(apply_review(manifest, path, tmp_path / "reviewed").manifest)
    groups = {table[name]["group"] for name in ("first.jpg", "small.jpg", "mirrored.jpg")}
    assert len(groups) == 1
    assert sum(row["group"] in groups for row in table.values()) == 3


@pytest.mark.parametrize("dropped", [False, True])
def test_a_photo_that_is_used_again_keeps_the_role_and_groups_of_its_copies(
    tmp_path: Path, dropped: bool
) -> None:
    """Or a burst could be in train and in test; also where a dropped copy is what states its group."""
    from catflap.data.scan import scan
    from tests.tiny import draw_photos

    source = draw_photos(tmp_path / "photos", count=6)
    (source / "other" / "again.jpg").write_bytes((source / "cat" / "03.jpg").read_bytes())
    (source / "cat" / "copy.jpg").write_bytes((source / "cat" / "05.jpg").read_bytes())
    burst = "cat/copy.jpg" if dropped else "cat/05.jpg"
    stated = {"other/again.jpg": ("test", "burst"), "cat/03.jpg": ("train", "video"), burst: ("", "burst")}
    stated |= {"cat/04.jpg": ("", "video"), "cat/02.jpg": ("", "elsewhere")}
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.jpg"))
    lines = [",".join([name, name.split("/")[0], *stated.get(name, ("", ""))]) for name in names]
    (source / "photos.csv").write_text("\n".join(["path,label,role,group", *lines]))
    manifest = scan(source / "photos.csv", tmp_path / "manifest", workers=1, profile=False)
    id = rows(manifest)["again.jpg"]["id"]
    path = decide(tmp_path, manifest, {"id": id, "was": "cat", "decision": "keep"})
    table = {
        row["uri"]: row for row in apply_review(manifest, path, tmp_path / "out").manifest.rows().to_pylist()
    }
    table = {uri.removeprefix(f"{source}/"): row for uri, row in table.items()}
    again = table["other/again.jpg"]
    assert (again["status"], again["label"], again["role"]) == ("ok", "cat", "test")
    assert table["cat/03.jpg"]["status"] == "dropped"
    joined = {uri for uri, row in table.items() if row["group"] == again["group"]}
    assert joined == {"other/again.jpg", "cat/04.jpg", "cat/05.jpg"}


def test_two_photos_that_are_used_again_and_show_the_same_join_each_other_only(tmp_path: Path) -> None:
    from PIL import Image

    from catflap.data.scan import scan
    from tests.tiny import draw_photos

    source = draw_photos(tmp_path / "photos", count=6)
    Image.open(source / "cat" / "03.jpg").resize((200, 150)).save(source / "cat" / "small.jpg", quality=80)
    for name in ("03.jpg", "small.jpg"):
        (source / "other" / f"00_{name}").write_bytes((source / "cat" / name).read_bytes())
    manifest = scan(source, tmp_path / "manifest", workers=1, profile=False)
    ids = {rows(manifest)[f"00_{name}"]["id"] for name in ("03.jpg", "small.jpg")}
    path = decide(tmp_path, manifest, *({"id": id, "was": "cat", "decision": "keep"} for id in sorted(ids)))
    found = apply_review(manifest, path, tmp_path / "out").manifest.rows().to_pylist()
    (group,) = {row["group"] for row in found if row["id"] in ids and row["status"] == "ok"}
    assert {row["id"] for row in found if row["group"] == group} == ids
