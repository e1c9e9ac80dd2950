"""Films of decisions: what is on them, how long they are, and what they may cost."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import monotonic, time

import cv2
import numpy as np
import pytest

from catflap.errors import CatflapError
from catflap.image import Photo, Pixels, encode
from catflap.live.clips import LONGEST, RATE, Clips, on_the_beat
from catflap.live.frames import Picture, Shot
from catflap.live.opencv import film, small_jpeg
from catflap.live.sinks import CappedFolder
from tests.live.cameras import camera, flat, jpeg, watching, write_video


def frames_of(path: str | Path) -> tuple[list[Pixels], float]:
    """The frames of a film, RGB, and how many there are a second."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1][:, :, ::-1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


def is_red(pixels: Pixels) -> bool:
    return bool(pixels[:, :, 0].mean() > pixels[:, :, 2].mean())


def show(clips: Clips, number: int, clock: float, photo: Photo) -> None:
    clips.see(Shot(Picture(lambda: photo), number, clock, monotonic(), time()), photo)


def test_a_watch_films_what_was_before_a_decision_and_after(red: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", ["blue"] * 40 + ["red"] * 30)
    with watching(red, video, "--clips", tmp_path / "clips", "--clip-seconds", "1") as watcher:
        assert watcher.end() == 0
    blue, cat, over = [event for event in watcher.events if event["event"] == "decision"]
    assert "clip" not in over, "the end of the source is no event to film"
    assert sorted(tmp_path.glob("clips/*")) == sorted(Path(event["clip"]) for event in (blue, cat))
    frames, rate = frames_of(cat["clip"])
    assert rate == RATE == 10
    assert len(frames) == 21, "a second before, the frame that decided, a second after"
    turned = [is_red(frame) for frame in frames]
    decided_after = cat["frame"] - 40
    assert turned == [False] * (11 - decided_after) + [True] * (10 + decided_after)
    assert len(frames_of(blue["clip"])[0]) == blue["frame"] + 10, "there was nothing before the first frame"
    assert watcher.events[-1]["clips"] == 2
    assert watcher.stderr == ""


def test_the_last_seconds_before_a_camera_is_lost_are_filmed(red: Path, tmp_path: Path) -> None:
    words = ("--clips", tmp_path, "--dwell", "0.1", "--clip-seconds", "1")
    with camera() as source, watching(red, source.url, *words) as watcher:
        source.mode = "red"
        watcher.await_event("decision", decision="cat")
        source.mode = "gone"
        event = watcher.await_event("decision", decision="unsure")
        assert event["why"] == "lost"
        assert watcher.stop() == 0
        assert watcher.await_event("ended")["clips"] >= 1
    frames, _ = frames_of(event["clip"])
    assert is_red(frames[-1])


def test_frames_and_films_in_one_folder_share_its_limit(red: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", (["blue"] * 30 + ["red"] * 30) * 4)
    words = ("--clips", tmp_path / "all", "--save", tmp_path / "all", "--clip-seconds", "0.5")
    with watching(red, video, *words, "--save-mb", "0.02") as watcher:
        assert watcher.end() == 0
    sizes = {path.suffix: path.stat().st_size for path in (tmp_path / "all").iterdir()}
    assert set(sizes) == {".mp4", ".jpg"}
    assert sum(path.stat().st_size for path in (tmp_path / "all").iterdir()) <= 20_000
    assert watcher.events[-1]["clips"] == watcher.events[-1]["saved"] == 8, "the oldest made room"


def test_decisions_that_follow_each_other_prolong_a_film_but_not_for_ever(tmp_path: Path) -> None:
    clips = Clips(CappedFolder(tmp_path, 10**9, pytest.fail), 2.0, pytest.fail)
    photo = flat("red", 32, 32)
    paths = set()
    for number in range(900):
        show(clips, number, number / 10, photo)
        paths.add(clips.decided("cat"))
    clips.close()
    assert len(paths) == clips.written == 2
    first, _ = frames_of(min(str(path) for path in paths))
    assert len(first) == LONGEST * RATE + 1


def test_films_that_cannot_be_made_are_told_once_and_when_they_can_be_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    clips = Clips(CappedFolder(tmp_path / "clips", 10**9, pytest.fail), 1.0, notes.append)
    for number, place in enumerate((tmp_path / "absent", tmp_path / "absent", tmp_path)):
        monkeypatch.setattr(tempfile, "tempdir", str(place))  # where OpenCV writes
        show(clips, number, float(number), flat("red", 32, 32))
        path = clips.decided("cat")
        clips.close()
        assert path is not None
        assert Path(path).is_file() == (place == tmp_path)
    assert clips.written == 1
    assert len(notes) == 2, notes
    assert "No such file" in notes[0]
    assert notes[1] == "Clips are made again."


def test_a_film_runs_in_true_time_when_frames_come_slowly_or_fast(tmp_path: Path) -> None:
    assert list(on_the_beat([(5.0, b"a"), (5.25, b"b"), (5.5, b"c")], 10)) == [
        b"a", b"a", b"a", b"b", b"b", b"c",
    ]  # fmt: skip
    assert list(on_the_beat([(1.0, b"a")], 10)) == [b"a"]
    clips = Clips(CappedFolder(tmp_path, 10**9, pytest.fail), 1.0, pytest.fail)
    for number in range(101):
        show(clips, number, number / 50, jpeg("red"))
    path = clips.decided("cat")
    clips.close()
    assert len(frames_of(str(path))[0]) == 11, "of 50 frames a second ten are kept"


def test_large_frames_are_filmed_small_and_an_unreadable_one_is_left_out() -> None:
    large = np.random.default_rng(0).integers(0, 256, (721, 1281, 3), np.uint8)
    for photo in (large, encode(large, "JPEG")):
        frames, _ = frames_of_bytes(film([small_jpeg(photo) or b""], RATE))
        assert frames[0].shape == (360, 640, 3)
    assert small_jpeg(b"no photo") is None
    assert small_jpeg(jpeg("red")[:200]) is None
    with pytest.raises(CatflapError, match="cannot write a film"):
        film([], RATE)


def frames_of_bytes(data: bytes) -> tuple[list[Pixels], float]:
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(data)
        file.flush()
        return frames_of(file.name)
