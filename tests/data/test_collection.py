"""Findings about a collection as a whole, and collections that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from catflap.data.prepare import prepare
from catflap.data.scan import scan
from catflap.errors import CatflapError
from tests.data.photos import class_folders, draw, encoded, rows


def checks(source: Path) -> dict[str, dict[str, Any]]:
    manifest = scan(source, source.parent / "m", workers=1, profile=False)
    return {check["check"]: check for check in manifest.checks}


def test_an_even_collection_has_no_findings(tmp_path: Path) -> None:
    assert checks(class_folders(tmp_path / "photos")) == {}


def test_a_rare_label_is_found(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 60)
    for path in sorted((source / "dog").iterdir())[4:]:
        path.unlink()
    assert checks(source)["class_imbalance"]["ratio"] == 15


def test_a_label_without_photos_is_found(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 5)
    (source / "bird").mkdir()
    assert checks(source)["empty_label"]["labels"] == ["bird"]


def test_folders_that_count_as_one_label_are_found(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos" / "animals", 5)
    source = class_folders(tmp_path / "photos", 5, ("plants", "stones")).rename(tmp_path / "nested")
    (source / "stones").rename(source / "plants" / "stones")
    (source / "plants" / "notes").mkdir()
    (source / "plants" / "notes" / "about.txt").touch()
    found = checks(source)["merged_folders"]
    assert found["folders"] == {"animals": ["cat", "dog"]}, "one folder, or one without photos, is none"
    assert "'animals' ('cat', 'dog') count as one label" in found["what"]


@pytest.mark.parametrize("clue", ["format", "size", "mode", "weight"])
def test_a_shortcut_is_found(clue: str, tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 0)
    for number in range(40):
        for label in ("cat", "dog"):
            special = label == "cat" and number % 4 > 0
            image = draw(number + 1000 * (label == "cat"))
            image = image.resize((64, 64)) if special and clue == "size" else image
            image = image.convert("L") if special and clue == "mode" else image
            format = "PNG" if special and clue == "format" else "JPEG"
            options = {"quality": 98 if special and clue == "weight" else 60} if format == "JPEG" else {}
            name = f"{number}.{'png' if format == 'PNG' else 'jpg'}"
            (source / label / name).write_bytes(encoded(image, format, **options))
    found = scan(source, tmp_path / "m", workers=1, profile=False).checks
    shortcuts = {check["clue"]: check["accuracy"] for check in found if check["check"] == "shortcut"}
    assert shortcuts[clue] == pytest.approx(70 / 80, abs=0.1)


def test_one_picture_under_two_labels_is_found(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 20)
    for number in range(5):
        copy = Image.open(source / "cat" / f"{number:03d}.jpg").resize((90, 70))
        (source / "dog" / f"copy{number}.jpg").write_bytes(encoded(copy))
    assert checks(source)["near_duplicate_two_labels"]["photos"] == 5


def test_stated_roles_that_leak_are_found_and_mended(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos" / "train", 20).parent
    for label in ("cat", "dog"):
        (source / "test" / label).mkdir(parents=True)
        for number in range(10):
            image = draw(5000 + number + 100 * (label == "cat"))
            if number < 3:
                image = Image.open(source / "train" / label / f"{number:03d}.jpg").resize((100, 80))
            (source / "test" / label / f"{number}.jpg").write_bytes(encoded(image))
    manifest = scan(source, tmp_path / "m", workers=1, profile=False)
    assert [check["groups"] for check in manifest.checks if check["check"] == "stated_roles_leak"] == [6]
    dataset = prepare(manifest, tmp_path / "d", profile=False)
    assert dataset.roles["test"] == 20
    assert dataset.left_out == 6
    assert sum(dataset.roles.values()) == 54


@pytest.mark.parametrize("names", [("Cat", "cat"), ("not cat", "notcat"), ("café", "cafe\u0301 ")])
def test_labels_that_differ_in_case_or_spaces_are_refused(names: tuple[str, str], tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 2, (*names, "dog"))
    with pytest.raises(CatflapError, match="differ only in") as error:
        scan(source, tmp_path / "m", workers=1)
    assert all(repr(name) in error.value.what for name in names)


def test_one_label_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatflapError, match="only the label 'cat'"):
        scan(class_folders(tmp_path / "photos", 2, ("cat",)), tmp_path / "m", workers=1)


def test_too_few_photos_say_how_many_are_needed(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 20)
    for path in sorted((source / "cat").iterdir())[9:]:
        path.unlink()
    for number in range(5):  # copies do not help
        (source / "cat" / f"copy{number}.png").write_bytes(
            encoded(Image.open(source / "cat" / "000.jpg").resize((80 + number, 60)), "PNG")
        )
    manifest = scan(source, tmp_path / "m", workers=1)
    with pytest.raises(CatflapError, match=r"needs 10 photos.*'cat' has 14 photos, 9 without copies"):
        prepare(manifest, tmp_path / "d")


def test_many_rare_labels_are_prepared_together(tmp_path: Path) -> None:
    names = tuple(f"kind{number:02}" for number in range(21))
    manifest = scan(class_folders(tmp_path / "photos", 3, names), tmp_path / "m", workers=1)
    dataset = prepare(manifest, tmp_path / "d", profile=False)
    assert set(dataset.photos("train").labels) == set(range(21))
    assert all(dataset.roles.values())


def test_many_photos_in_few_groups_are_a_rare_label(tmp_path: Path) -> None:
    """12 photos of 3 tracks cannot fill four roles, however many they are."""
    names = tuple(f"kind{number:02}" for number in range(21))
    photos = sorted(class_folders(tmp_path / "photos", 12, names).glob("*/*.jpg"))
    lines = [f"{path},{path.parent.name},{path.parent.name}-{int(path.stem) // 4}" for path in photos]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,group", *lines]))
    manifest = scan(tmp_path / "list.csv", tmp_path / "m", workers=1, profile=False)
    dataset = prepare(manifest, tmp_path / "d", profile=False)
    assert set(dataset.photos("train").labels) == set(range(21))
    assert all(dataset.roles.values())


def test_a_label_of_one_photo_is_learnt_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = class_folders(tmp_path / "photos", 12, ("ape", "bee", "cat"))
    for path in sorted((source / "ape").iterdir())[1:]:
        path.unlink()
    dataset = prepare(scan(source, tmp_path / "m", workers=1), tmp_path / "d", profile=False)
    assert (dataset.photos("train").labels == 0).sum() == 1
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "1 of 3 labels" in warning
    assert "'ape' has 1 photo" in warning


@pytest.mark.parametrize(
    ("short", "more"),
    [
        (("ape", "bee", "cat", "eel", "fox"), "and 2 more labels have too few"),
        (("ape", "bee", "cat", "eel"), "and 1 more label has too few"),
    ],
)
def test_labels_with_too_few_photos_are_told_at_once(
    tmp_path: Path, short: tuple[str, ...], more: str
) -> None:
    source = class_folders(tmp_path / "photos", 12, (*short, "dog"))
    for label in short:
        for path in sorted((source / label).iterdir())[1:]:
            path.unlink()
    manifest = scan(source, tmp_path / "m", workers=1)
    with pytest.raises(CatflapError) as error:
        prepare(manifest, tmp_path / "d")
    reported = error.value.what
    assert all(f"{label!r} has 1 photo" in reported for label in ("ape", "bee", "cat"))
    assert more in reported
    assert "dog" not in reported


def test_links_that_go_round_in_circles(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 5)
    (source / "cat" / "again").symlink_to(source / "cat")
    (source / "dog" / "self.jpg").symlink_to("self.jpg")
    manifest = scan(source, tmp_path / "m", workers=1)
    assert manifest.ok == 10
    assert manifest.reasons == {"symlink_loop": 1, "unreadable": 1}


def test_a_folder_that_is_linked_is_read(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "elsewhere", 5)
    (tmp_path / "photos").mkdir()
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).symlink_to(source / label)
    assert scan(tmp_path / "photos", tmp_path / "m", workers=1).ok == 10


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 5)
    odd = os.fsencode(source / "cat") + b"/b\xe9b\xe9.jpg"
    Path(os.fsdecode(odd)).write_bytes(encoded(draw(9)))
    manifest = scan(source, tmp_path / "m", workers=1)
    assert (manifest.ok, manifest.reasons) == (10, {"name_not_utf8": 1})
    assert any(row["uri"].endswith("b\\xe9b\\xe9.jpg") for row in rows(manifest, "uri"))


def test_a_folder_that_cannot_be_opened(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 5)
    (source / "cat" / "locked").mkdir(mode=0)
    if os.access(source / "cat" / "locked", os.R_OK):
        pytest.skip("this user can read every folder")
    manifest = scan(source, tmp_path / "m", workers=1)
    assert manifest.reasons == {"unreadable_folder": 1}


def test_files_that_systems_leave_are_passed_over(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", 5)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._000.jpg"):
        (source / "cat" / name).write_bytes(b"left here")
    (source / "__MACOSX").mkdir()
    (source / "loose.jpg").write_bytes(encoded(draw(3)))
    (source / "README.txt").write_text("not a photo")
    manifest = scan(source, tmp_path / "m", workers=1)
    assert (manifest.ok, manifest.reasons) == (10, {"no_label": 1})


def test_no_file_vanishes_without_being_named(tmp_path: Path) -> None:
    """Beside, above and under the class folders: each file is a row or counted by its extension."""
    source = class_folders(tmp_path / "photos" / "inner", 3)
    photo = (source / "cat" / "000.jpg").read_bytes()
    for path in ("loose.jpg", "clip.mov", "inner/notes.txt", "inner/cat/clip.mov", "inner/cat/.hidden.jpg"):
        (tmp_path / "photos" / path).write_bytes(photo if path.endswith("jpg") else b"no photo")
    for name in (".DS_Store", "Thumbs.db", "._000.jpg"):
        (source / "dog" / name).write_bytes(b"of a system")
    manifest = scan(tmp_path / "photos", tmp_path / "m", workers=1)
    assert manifest.skipped == {".mov": 1, ".txt": 1, "hidden": 1}
    assert manifest.reasons == {"no_label": 1, "unknown_format": 1}
    assert manifest.ok == 6
    reported = {check["check"]: check["what"] for check in manifest.checks}
    assert reported["not_decoded"] == "1 files are in no supported format: 1 .mov."
    assert reported["skipped_files"] == "3 files were not listed as photos: 1 .mov, 1 .txt, 1 hidden."


def test_photos_directly_in_a_role_folder_are_rows(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos" / "train", 3).parent
    class_folders(source / "test", 3)
    (source / "train" / "loose.jpg").write_bytes((source / "train" / "cat" / "000.jpg").read_bytes())
    assert scan(source, tmp_path / "m", workers=1).reasons == {"no_label": 1, "exact_duplicate": 6}
