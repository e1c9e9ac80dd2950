"""What comes in beside uploads: field logs with what was answered, and frames of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from catflap.artifacts.field_log import FieldLog, LogModel, LogRow
from catflap.errors import CatflapError
from catflap.image import encode
from catflap.studio.importing import Importer
from catflap.studio.project import Project
from tests.live.cameras import camera
from tests.tiny import drawn
from tests.training.test_faults import largest_file

BY = LogModel("cat", "a" * 64, "int8", ("cat", "other"))


@pytest.fixture
def importer(project: Project) -> Iterator[Importer]:
    one = Importer(project, lambda: None)
    yield one
    one.close()


def test_a_field_log_brings_photos_with_what_was_answered_and_no_labels(
    project: Project, importer: Importer, tmp_path: Path
) -> None:
    log = FieldLog(tmp_path / "field.log", limit=10**8, note=pytest.fail)
    for number, share in enumerate((0.9, 0.2, 0.6)):
        picture = encode(drawn("cat", number), "JPEG") if number < 2 else None
        for at in range(2):  # the same photo again: its last answer counts
            answer = np.array([share - at / 10, 1 - share + at / 10], np.float32)
            log.add(LogRow(1e9 + at, f"{number:064x}", BY, answer, "unsure", "watch", picture=picture))
    log.close()
    answer = importer.add_source(tmp_path / "field.log", copy=False)
    assert answer["added"] == 2
    assert [one["reason"].partition(":")[0] for one in answer["refused"]] == ["no_picture"]
    rows = project.rows("select label, predicted, predicted_probability, place from photos order by n")
    assert [(row["label"], row["predicted"]) for row in rows] == [(None, "cat"), (None, "other")]
    assert [row["predicted_probability"] for row in rows] == pytest.approx([0.8, 0.9])
    assert all((project.path / row["place"]).is_file() for row in rows)
    assert project.summary()["field"] == 2
    assert importer.add_source(tmp_path / "field.log", copy=False)["known"] == 2


def test_another_database_is_no_field_log(importer: Importer, project: Project, tmp_path: Path) -> None:
    project.rows("select 1")
    with pytest.raises(CatflapError, match=r"damaged|not a field log"):
        importer.add_source(tmp_path / "project" / "project.sqlite", copy=False)


def test_frames_of_a_stream_are_recorded_with_a_label(project: Project, importer: Importer) -> None:
    with camera() as one:
        answer = importer.record(one.url, 3, 0.05, "red")
    assert (answer["added"], answer["refused"]) == (3, [])
    assert [row["label"] for row in project.rows("select label from photos")] == ["red"] * 3


def test_the_photos_of_a_folder_end_a_recording_before_its_count(importer: Importer, tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(encode(drawn("cat", number), "JPEG"))
    assert importer.record(str(tmp_path), 50, 0.1, None)["added"] == 4


def test_a_full_disk_refuses_an_upload_and_keeps_no_part_of_it(importer: Importer, project: Project) -> None:
    photo = encode(drawn("cat", 1), "JPEG")
    with (
        largest_file(len(photo) // 2),
        pytest.raises(CatflapError, match="cannot be written"),
        importer.inbox_file("a.jpg") as path,
    ):
        path.write_bytes(photo)
    assert list((project.path / "inbox").iterdir()) == []
    with importer.inbox_file("a.jpg") as path:
        path.write_bytes(photo)
        with largest_file(len(photo) // 2), pytest.raises(CatflapError, match="cannot be written"):
            importer.take(path, "a.jpg", "cat")
        assert project.summary()["photos"] == 0
        assert [file for file in (project.path / "photos").rglob("*") if file.is_file()] == []
        assert importer.take(path, "a.jpg", "cat")["added"] == 1


@pytest.mark.parametrize("address", ["-", "ftp://camera", "http://127.0.0.1:1/", "no such thing"])
def test_what_cannot_be_recorded_says_why(importer: Importer, address: str) -> None:
    with pytest.raises(CatflapError) as caught:
        importer.record(address, 3, 0.1, None)
    assert caught.value.fix
    assert importer.progress is None
