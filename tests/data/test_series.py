"""Photos named like frames of tracks: advised upon where they look alike, and nowhere else."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pytest
from PIL import Image

from catflap.artifacts.manifest import Manifest
from catflap.data.prepare import prepare
from catflap.data.scan import scan
from tests.data.photos import draw, encoded

FRAMES, TRACKS = 5, 12  # of a track, of a label


def tracks(root: Path, scene: float, name: str = "{track:02}_{frame:03}.jpg") -> Path:
    """Photos of two labels; of each the share `scene` is that of its track, the rest its own."""
    for place, label in enumerate(("cat", "dog")):
        (root / label).mkdir(parents=True)
        for number in range(TRACKS * FRAMES):
            track, frame = divmod(number, FRAMES)
            own, shared = draw(1000 * place + number), draw(9000 + 100 * place + track)
            path = root / label / name.format(track=track, frame=frame, number=number)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encoded(Image.blend(own, shared, scene)))
    return root


def scanned(source: Path) -> Manifest:
    return scan(source, source.with_name("m"), workers=1, profile=False)


def advice(source: Path) -> dict[str, object] | None:
    return next((check for check in scanned(source).checks if check["check"] == "series"), None)


@pytest.mark.parametrize(
    "name", ["{track:02}_{frame:03}.jpg", "{track:02}/{frame}.jpg", "t{track}-f{frame}.jpg"]
)
def test_frames_of_tracks_are_found(tmp_path: Path, name: str) -> None:
    found = advice(tracks(tmp_path / "photos", 0.6, name))
    assert found is not None
    assert (found["photos"], found["series"]) == (2 * TRACKS * FRAMES, 2 * TRACKS)
    assert str(found["what"]).startswith("120 photos are named like frames of 24 series, such as ")


@pytest.mark.parametrize(
    ("scene", "name"),
    [
        (0.0, "{track:02}_{frame:03}.jpg"),  # named like tracks, but of different things
        (0.6, "photo_{number:03}.jpg"),  # one series a label
        (0.6, "{number:03}.jpg"),
    ],
)
def test_other_photos_are_left_alone(tmp_path: Path, scene: float, name: str) -> None:
    assert advice(tracks(tmp_path / "photos", scene, name)) is None


def test_stated_groups_need_no_advice(tmp_path: Path) -> None:
    photos = sorted(tracks(tmp_path / "photos", 0.6).glob("*/*.jpg"))
    with (tmp_path / "list.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "group"])
        table.writerows([path, path.parent.name, path.parent.name + path.stem[:2]] for path in photos)
    assert advice(tmp_path / "list.csv") is None


def test_prepare_warns_before_anything_is_learnt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        prepare(scanned(tracks(tmp_path / "photos", 0.6)), tmp_path / "dataset", profile=False)
    assert "list the photos with a column group" in caplog.text
