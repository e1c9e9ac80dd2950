"""Photos to Manifest to Dataset, on real files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catflap.artifacts.dataset import ROLES, load_dataset
from catflap.artifacts.folder import check_place
from catflap.artifacts.manifest import load_manifest
from catflap.data.prepare import prepare, prepare_fingerprint
from catflap.data.scan import scan, scan_fingerprint
from catflap.data.sources import Columns
from catflap.errors import BadArtifact, CatflapError
from catflap.image import Frame
from tests.data.photos import class_folders, draw, encoded, rows, tree


def test_the_line_keeps_every_photo_and_every_byte(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos")
    manifest = scan(source, tmp_path / "m", workers=1)
    assert (manifest.photos, manifest.ok, manifest.labels) == (80, 80, {"cat": 40, "dog": 40})
    dataset = prepare(manifest, tmp_path / "d")
    assert dataset.labels == ("cat", "dog")
    stored = [photos[i] for photos in map(dataset.photos, ROLES) for i in range(len(photos))]
    assert sorted(stored) == sorted(path.read_bytes() for path in source.glob("*/*.jpg"))


def test_an_output_inside_its_input_is_refused_before_any_work(tmp_path: Path) -> None:
    manifest = scan(class_folders(tmp_path / "photos"), tmp_path / "m", workers=1)
    before = tree(tmp_path / "m")
    with pytest.raises(CatflapError, match=r"d would lie inside .*m, which Catflap made"):
        prepare(manifest, tmp_path / "m" / "d")
    assert tree(tmp_path / "m") == before
    with pytest.raises(CatflapError, match="would lie inside"):
        check_place(tmp_path / "m" / "cat.catflap")
    scan(tmp_path / "photos", tmp_path / "photos" / "m", workers=1)


def test_near_duplicates_share_a_role(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos")
    for path in sorted(source.glob("*/*.jpg"))[::2]:
        Image.open(path).resize((120, 90)).save(path.with_suffix(".copy.jpg"), quality=60)
    manifest = scan(source, tmp_path / "m", workers=1)
    assert (manifest.near_duplicates, manifest.near_duplicate_groups) == (40, 40)
    dataset = prepare(manifest, tmp_path / "d")
    groups = [set(dataset.photos(role).groups.tolist()) for role in ROLES]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 80


@pytest.mark.parametrize("quality", [None, 60], ids=["same bytes", "saved again"])
def test_a_copy_joins_the_groups_that_it_is_stated_in(quality: int | None, tmp_path: Path) -> None:
    """Two videos of each animal, with one photo in both."""
    lines = ["path,label,video"]
    for animal in range(24):
        for video in "ab":
            for number in range(2):
                path = tmp_path / f"{animal:02}{video}{number}.jpg"
                shared = tmp_path / f"{animal:02}a0.jpg" if (video, number) == ("b", 0) else None
                if shared and quality:
                    Image.open(shared).save(path, quality=quality)
                else:
                    new = encoded(draw(10 * animal + 5 * (video == "b") + number))
                    path.write_bytes(shared.read_bytes() if shared else new)
                lines.append(f"{path},{('cat', 'dog')[animal % 2]},{animal}{video}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    columns = Columns(group="video")
    manifest = scan(tmp_path / "list.csv", tmp_path / "m", columns=columns, workers=1, profile=False)
    ok = [row for row in rows(manifest, "uri", "group", "status") if row["status"] == "ok"]
    assert len(ok) == (96 if quality else 72)
    joined = {(Path(row["uri"]).name[:2], row["group"]) for row in ok}
    assert len(joined) == len({group for _, group in joined}) == 24


def test_of_copies_in_several_stated_roles_the_one_in_test_stays(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 15)
    roles = ("train", "validation", "calibration", "test", "")
    lines = ["path,label,split"]
    for number, path in enumerate(sorted(source.glob("*/*.jpg"))):
        copy = path.with_suffix(".copy.jpg")
        copy.write_bytes(path.read_bytes())
        stated = roles[number % 5], roles[(number % 5 + 1 + number // 5 % 4) % 5]
        lines += [f"{one},{path.parent.name},{role}" for one, role in zip((path, copy), stated, strict=True)]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    manifest = scan(tmp_path / "list.csv", tmp_path / "m", workers=1, profile=False)
    of: dict[str, dict[str, str]] = {}
    for row in rows(manifest, "id", "status", "role"):
        of.setdefault(row["id"], {})[row["status"]] = row["role"]
    order = ("test", "calibration", "validation", "train", "")
    assert len({(both["ok"], both["dropped"]) for both in of.values()}) == 10
    assert all(order.index(both["ok"]) < order.index(both["dropped"]) for both in of.values())


def test_of_the_same_bytes_under_three_labels_each_names_one_under_another(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 2, ("cat", "dog", "fox"))
    places = [source / label / f"same-{number}.jpg" for label in ("cat", "dog", "fox") for number in range(3)]
    for place in places:
        place.write_bytes(encoded(draw(7)))
    manifest = scan(source, tmp_path / "m", workers=1, profile=False)
    same = [row for row in rows(manifest, "uri", "status", "reason") if "same-" in row["uri"]]
    assert [row["status"] for row in same] == ["quarantined"] * 9
    for row in same:
        other, label = ("dog", "'dog'") if "/cat/" in row["uri"] else ("cat", "'cat'")
        assert row["reason"].endswith(f"/{other}/same-0.jpg, which is under {label}")


def test_same_inputs_are_same_bytes(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 15)
    for name in ("one", "two"):
        manifest = scan(source, tmp_path / name / "m", workers=1 if name == "one" else 2)
        prepare(manifest, tmp_path / name / "d")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_fingerprints_tell_what_was_made_and_when_to_make_it_again(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 15)
    manifest = scan(source, tmp_path / "m", workers=1)
    assert manifest.made_from == scan_fingerprint(source)
    dataset = prepare(manifest, tmp_path / "d")
    assert dataset.made_from == prepare_fingerprint(manifest)
    assert dataset.ancestors == {"manifest": manifest.sha256}
    others = [
        prepare_fingerprint(manifest, seed=1),
        prepare_fingerprint(manifest, frame=Frame(64, 64)),
        scan_fingerprint(source, labels={"cat": "tom"}),
    ]
    (source / "cat" / "000.jpg").touch()
    assert not {manifest.made_from, dataset.made_from} & {*others, scan_fingerprint(source)}


def test_artifacts_that_are_damaged_say_so(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 12)
    prepare(scan(source, tmp_path / "m", workers=1), tmp_path / "d")
    for folder, load in ((tmp_path / "m", load_manifest), (tmp_path / "d", load_dataset)):
        marker = next(folder.glob("*.json"))
        fields = json.loads(marker.read_text())
        del fields["sha256"]
        marker.write_text(json.dumps(fields))
        with pytest.raises(BadArtifact):
            load(folder)


def test_a_dataset_that_is_prepared_anew_while_it_is_in_use_is_told(tmp_path: Path) -> None:
    manifest = scan(class_folders(tmp_path / "photos", 30), tmp_path / "m", workers=1)
    dataset = prepare(manifest, tmp_path / "d", pixels=True)
    photos, taken = dataset.photos("train"), dataset.photos("train").take(np.arange(3))
    first = photos[0]
    new = prepare(manifest, tmp_path / "d", seed=1, pixels=True)
    for _ in range(2):
        for read in (
            lambda: photos[0],
            lambda: taken[2],
            dataset.train_pixels,
            lambda: dataset.photos("test"),
        ):
            with pytest.raises(BadArtifact, match=r"prepared again while it was in use\. Start again\."):
                read()
        assert [new.photos(role)[0] for role in ROLES], "and is in memory now"
        assert new.train_pixels() is not None
    prepare(manifest, tmp_path / "d", pixels=True)
    assert photos[0] == first, "it is the same again"
    assert len(dataset.photos("test")) == dataset.roles["test"]


def test_a_dataset_of_other_photos_of_the_same_sizes_is_told(tmp_path: Path) -> None:
    """Every offset and length fits; only what is there tells."""
    for name in ("one", "two"):
        for place, label in enumerate(("cat", "dog")):
            (tmp_path / name / label).mkdir(parents=True)
            for number in range(20):
                noise = np.random.default_rng([name == "one", place, number]).integers(0, 256, (64, 64, 3))
                Image.fromarray(noise.astype(np.uint8)).save(tmp_path / name / label / f"{number:02}.bmp")
    dataset = prepare(scan(tmp_path / "one", tmp_path / "m1", workers=1), tmp_path / "d")
    photos = dataset.photos("train")
    prepare(scan(tmp_path / "two", tmp_path / "m2", workers=1), tmp_path / "d")
    with pytest.raises(BadArtifact, match="was prepared again"):
        photos[0]


def test_photos_that_changed_after_the_scan_are_not_packed(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 12)
    manifest = scan(source, tmp_path / "m", workers=1)
    (source / "cat" / "003.jpg").write_bytes((source / "dog" / "003.jpg").read_bytes())
    with pytest.raises(CatflapError, match="changed since it was scanned"):
        prepare(manifest, tmp_path / "d")
    (source / "cat" / "003.jpg").unlink()
    with pytest.raises(CatflapError, match="when it was scanned"):
        prepare(manifest, tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.slow
def test_the_commands_answer_as_the_design_says(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 15)
    (source / "cat" / "bad.jpg").write_bytes(b"")
    scanned = catflap("scan", str(source), "-o", str(tmp_path / "m"), "--json")
    assert {name: scanned[name] for name in ("photos", "ok", "quarantined", "near_duplicates")} == {
        "photos": 31,
        "ok": 30,
        "quarantined": 1,
        "near_duplicates": 0,
    }
    assert scanned["near_duplicate_groups"] == 0
    assert scanned["labels"] == {"cat": 15, "dog": 15}
    prepared = catflap("prepare", str(tmp_path / "m"), "-o", str(tmp_path / "d"), "--size", "64", "--json")
    assert sum(prepared["roles"].values()) == 30
    assert prepared["shards"] == 4
    assert prepared["bytes"] == sum(path.stat().st_size for path in source.glob("*/*.jpg"))
    assert prepared["frame"]["width"] == 64
    wide = catflap("prepare", str(tmp_path / "m"), "-o", str(tmp_path / "w"), "--size", "96x64", "--json")
    assert (wide["frame"]["width"], wide["frame"]["height"]) == (96, 64)


@pytest.mark.slow
def test_roles_of_real_digits_are_sane(tmp_path: Path) -> None:
    """Tiny drawn pictures are alike, but not so alike that one group swallows them."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = tmp_path / "digits" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15.9375).astype(np.uint8)).save(folder / f"{number:04d}.png")
    manifest = scan(tmp_path / "digits", tmp_path / "m", profile=False)
    assert manifest.ok == 1797
    groups = np.unique(manifest.rows(["group"])["group"].to_numpy(), return_counts=True)[1]
    assert groups.max() < 20
    roles = prepare(manifest, tmp_path / "d", profile=False).roles
    assert 0.59 <= roles["train"] / 1797 <= 0.61


def catflap(*arguments: str) -> dict:  # type: ignore[type-arg]
    code = "import sys; from catflap.cli.main import run; sys.exit(run())"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer: dict = json.loads(done.stdout)  # type: ignore[type-arg]
    return answer


@pytest.mark.parametrize("out", ["m.manifest", "cat/m.manifest"])
def test_a_scan_does_not_scan_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(class_folders(tmp_path / "photos", 4))
    first, again = (scan(".", Path(out), workers=1) for _ in range(2))
    assert (again.made_from, again.sha256) == (first.made_from, first.sha256)
    assert (again.photos, again.quarantined) == (8, 0)
    assert "empty_label" not in {check["check"] for check in again.checks}


def test_the_artefacts_of_a_build_are_no_photos_but_those_of_the_field_are(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 12)
    before, work = scan_fingerprint(source), source / "cat.build"
    work.mkdir()
    prepare(scan(source, work / "manifest", workers=1), work / "dataset")
    assert scan_fingerprint(source) == before
    (source / "dog" / "manifest.json").write_text('{"name": "somebody\'s"}')
    (source / "cat" / "field-photos.json").write_text('{"catflap": "field-photos", "version": 1}')
    assert scan(source, tmp_path / "m", workers=1).labels == {"cat": 12, "dog": 12}


@pytest.mark.parametrize("seed", [-1, 1 << 63])
def test_a_seed_that_is_none_is_told_before_any_work(tmp_path: Path, seed: int) -> None:
    manifest = scan(class_folders(tmp_path / "photos", 12), tmp_path / "m", workers=1)
    with pytest.raises(CatflapError, match=f"The seed {seed} is not possible"):
        prepare(manifest, tmp_path / "d", seed=seed)
    assert not list(tmp_path.glob("*d.*"))


def test_a_file_where_a_folder_belongs_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.catflap").write_bytes(b"PK")
    with pytest.raises(BadArtifact, match=r"x\.catflap is not a manifest: manifest\.json is missing"):
        load_manifest(tmp_path / "x.catflap")


def test_a_disk_without_room_is_told_before_anything_is_packed(
    tmp_path: Path, mount_small: Callable[[str], Path]
) -> None:
    manifest = scan(class_folders(tmp_path / "photos", 20), tmp_path / "m", workers=1)
    small = mount_small("1m")
    packed: list[int] = []

    def stop(step: str, done: int, total: int) -> None:
        if step == "profile":
            raise CatflapError("It stops when all is packed.", "Start it again.")
        packed.append(done)

    def refused(**settings: Any) -> None:
        with pytest.raises(CatflapError, match="MB more, and its disk has"):
            prepare(manifest, small / "d", progress=stop, **settings)
        assert not packed

    refused(pixels=True)
    filler = small / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small).free - 50_000))
    refused()
    filler.unlink()
    with pytest.raises(CatflapError, match="It stops"):
        prepare(manifest, small / "d", progress=stop)
    filler.write_bytes(bytes(shutil.disk_usage(small).free - 50_000))
    assert prepare(manifest, small / "d", profile=False).roles["train"] == 28
