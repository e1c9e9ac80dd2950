"""The project file: decisions, undo, one writer, damage, a newer version."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from catflap.data.scan import scan
from catflap.errors import CatflapError
from catflap.studio.importing import Importer
from catflap.studio.project import ASIDE, FILE, VERSION, NewPhoto, Project, open_project
from tests.tiny import draw_photos


def rows(count: int) -> list[NewPhoto]:
    row: dict[str, Any] = {"bytes": 1, "width": 9, "height": 9, "phash": None, "thumb": None, "reason": ""}
    return [NewPhoto(f"{n}.jpg", f"{n}.jpg", None, {**row, "id": f"{n:064x}"}) for n in range(count)]


def labels_of(project: Project) -> list[str | None]:
    return [row["label"] for row in project.rows("select label from photos order by n")]


@pytest.fixture
def project(project: Project) -> Project:
    project.add_photos(rows(4))
    return project


def test_undo_goes_back_to_the_beginning_and_redo_to_the_end(project: Project) -> None:
    project.decide([1, 2], "cat")
    project.decide([2, 3], "dog")
    project.decide([1], ASIDE)
    assert labels_of(project) == ["", "dog", "dog", None]
    assert [project.undo() for _ in range(4)] == [[1], [2, 3], [1, 2], []]
    assert labels_of(project) == [None] * 4
    assert [project.undo(redo=True) for _ in range(4)] == [[1, 2], [2, 3], [1], []]
    assert labels_of(project) == ["", "dog", "dog", None]


def test_a_decision_after_an_undo_ends_what_could_be_redone(project: Project) -> None:
    project.decide([1], "cat")
    project.undo()
    project.decide([2], "dog")
    assert project.undo(redo=True) == []
    assert project.undo() == [2]
    assert project.undo() == []


def test_a_decision_that_is_sent_twice_counts_once(project: Project) -> None:
    assert project.decide([1], "cat", key="a") == 1
    project.decide([1], "dog", key="b")
    assert project.decide([1], "cat", key="a") == 0
    assert labels_of(project)[0] == "dog"


def test_a_stack_is_decided_as_one(project: Project) -> None:
    project.set_stacks([(2, 1), (3, 1)])
    assert project.decide([3], "cat") == 3
    assert labels_of(project) == ["cat", "cat", "cat", None]
    assert project.summary()["labels"] == [{"name": "cat", "photos": 3, "stacks": 1}]


def test_a_full_disk_is_one_error_and_what_was_answered_is_kept(project: Project) -> None:
    project.decide([1], "cat")
    pages = project.rows("pragma page_count")[0][0]
    project.rows(f"pragma max_page_count = {pages}")  # the disk takes no more
    with pytest.raises(CatflapError, match=r"cannot be written.*full") as caught:
        project.add_photos(rows(2000)[4:])
    assert "Make room" in caught.value.fix
    assert project.summary()["photos"] == 4
    project.rows("pragma max_page_count = 1000000")
    assert project.undo() == [1]
    assert len(project.add_photos(rows(2000)[4:])) == 1996


@pytest.mark.parametrize("name", ["unsure", "a\nb", "CAT", "x" * 501])
def test_a_label_that_no_classifier_may_have_is_refused(project: Project, name: str) -> None:
    project.add_label("cat")
    with pytest.raises(CatflapError):
        project.decide([1], name)
    assert labels_of(project)[0] is None


def test_a_second_studio_is_refused_and_told_where_the_first_is(project: Project) -> None:
    project.note_address("http://127.0.0.1:1234")
    with pytest.raises(CatflapError, match=r"at http://127\.0\.0\.1:1234"):
        open_project(project.path)


def test_a_newer_project_is_refused_untouched(tmp_path: Path) -> None:
    open_project(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute(f"pragma user_version = {VERSION + 1}")
    database.close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(CatflapError, match="newer Catflap"):
        open_project(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_damaged_project_is_refused_and_its_backup_opens(tmp_path: Path) -> None:
    project = open_project(tmp_path)
    project.add_photos(rows(3))
    project.decide([1], "cat")
    project.close()
    open_project(tmp_path).close()  # keeps the backup
    (tmp_path / FILE).write_bytes(b"SQLite format 3\0" + b"damage" * 1000)
    with pytest.raises(CatflapError, match="photos are safe") as refused:
        open_project(tmp_path)
    assert "backup.sqlite" in refused.value.fix
    (tmp_path / "backup.sqlite").replace(tmp_path / FILE)
    project = open_project(tmp_path)
    assert labels_of(project) == ["cat", None, None]
    project.close()


def test_a_folder_with_other_files_is_no_project(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CatflapError, match=r"notes\.txt"):
        open_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_import_judges_as_scan_does_and_its_list_scans_to_the_same_photos(tmp_path: Path) -> None:
    photos = draw_photos(tmp_path / "photos", count=4)
    (photos / "cat" / "00.jpg").write_bytes((photos / "cat" / "01.jpg").read_bytes()[:500])
    (photos / "cat" / "notes.jpg").write_text("<html>")
    before = {path: path.read_bytes() for path in photos.rglob("*.jpg")}
    manifest = scan(photos, tmp_path / "manifest", workers=1)
    project = open_project(tmp_path / "project")
    importer = Importer(project, lambda: None)
    answer = importer.add_source(photos, copy=True)
    again = importer.add_source(photos, copy=False)
    importer.close()

    table = manifest.rows(["id", "label", "status", "reason"]).to_pylist()
    assert sorted(one["reason"] for one in answer["refused"]) == sorted(
        row["reason"] for row in table if row["status"] == "quarantined"
    )
    assert (answer["added"], again["known"]) == (7, 7)
    project.write_list(tmp_path / "photos.csv")
    listed = scan(tmp_path / "photos.csv", tmp_path / "listed", workers=1).rows(["id", "label"]).to_pylist()
    known = sorted((row["id"], row["label"]) for row in table if row["status"] == "ok")
    assert sorted((row["id"], row["label"]) for row in listed) == known
    assert {path: path.read_bytes() for path in photos.rglob("*.jpg")} == before
    project.close()
