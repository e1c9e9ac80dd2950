"""Saved frames and clips of decisions: what is on them, how long they are, and what they may cost."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic, time
from typing import Any

import cv2
import numpy as np
import pytest

from catflap.errors import CatflapError
from catflap.image import Pixels, encode
from catflap.live.archive import CAPACITY, CLIP_LONGEST, CLIP_RATE, Archive, CappedFolder, file_name
from catflap.live.frames import Shot, Stop
from catflap.live.opencv import VideoFile, clip_jpeg
from catflap.live.watch_settings import WatchSettings
from catflap.runtime.classifier import Classifier
from tests.live.cameras import camera, flat, jpeg, watching, write_video


def frames_of(path: str | Path) -> tuple[list[Pixels], float]:
    """The frames of a video, RGB, and how many there are a second."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1][:, :, ::-1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


def frames_of_bytes(data: bytes) -> tuple[list[Pixels], float]:
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(data)
        file.flush()
        return frames_of(file.name)


def is_red(pixels: Pixels) -> bool:
    return bool(pixels[:, :, 0].mean() > pixels[:, :, 2].mean())


def shot_of(number: int, clock: float) -> Shot:
    return Shot(lambda: b"", None, number, clock, monotonic(), time())


def archive_of(red: Path, note: Callable[[str], Any], *, lossless: bool = True, **settings: Any) -> Archive:
    classifier = Classifier(red, threads=1)
    return Archive(WatchSettings(red, "0", **settings), classifier, None, note, Stop(), lossless=lossless)


def test_a_clip_shows_the_time_before_a_decision_and_after_it(red: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", ["blue"] * 40 + ["red"] * 30)
    words = ("--clips", tmp_path / "clips", "--clip-seconds", "1", "--save", tmp_path / "frames")
    with watching(red, video, *words) as watcher:
        assert watcher.end() == 0
    blue, cat, over = [event for event in watcher.events if event["event"] == "decision"]
    assert "clip" not in over, "the end of the source is not an event to film"
    assert sorted(tmp_path.glob("clips/*")) == sorted(Path(event["clip"]) for event in (blue, cat))
    assert sorted(tmp_path.glob("frames/*")) == sorted(Path(event["saved"]) for event in (blue, cat))
    frames, rate = frames_of(cat["clip"])
    assert rate == CLIP_RATE == 10
    assert len(frames) == 21, "a second before, the frame that decided, a second after"
    turned = [is_red(frame) for frame in frames]
    decided_after = cat["frame"] - 40
    assert turned == [False] * (11 - decided_after) + [True] * (10 + decided_after)
    assert len(frames_of(blue["clip"])[0]) == blue["frame"] + 10, "there was nothing before the first frame"
    summary = watcher.events[-1]
    assert summary["clips"] == summary["saved"] == 2
    assert summary["sinks"] == {name: {"delivered": 2, "lost": 0} for name in ("save", "clips")}
    assert watcher.stderr == ""


def test_the_last_seconds_before_a_camera_is_lost_are_in_a_clip(red: Path, tmp_path: Path) -> None:
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


@pytest.mark.slow
def test_frames_and_clips_in_one_folder_share_its_limit(red: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", (["blue"] * 30 + ["red"] * 30) * 4)
    words = ("--clips", tmp_path / "all", "--save", tmp_path / "all", "--clip-seconds", "0.5")
    with watching(red, video, *words, "--save-mb", "0.02") as watcher:
        assert watcher.end() == 0
    assert {path.suffix for path in (tmp_path / "all").iterdir()} == {".mp4", ".jpg"}
    assert sum(path.stat().st_size for path in (tmp_path / "all").iterdir()) <= 20_000
    assert watcher.events[-1]["clips"] == watcher.events[-1]["saved"] == 8, "the oldest made room"


def test_decisions_that_follow_each_other_prolong_a_clip_but_not_for_ever(red: Path, tmp_path: Path) -> None:
    archive = archive_of(red, pytest.fail, clips=tmp_path, clip_seconds=2.0)
    photo = flat("red", 32, 32)
    paths = set()
    for number in range(900):
        shot = shot_of(number, number / 10)
        archive.see(shot, photo)
        paths.add(archive.decided(shot, photo, "cat")["clip"])
    archive.close()
    assert len(paths) == archive.clips.delivered == 2
    assert len(frames_of(min(paths))[0]) == CLIP_LONGEST * CLIP_RATE + 1


def test_clips_that_cannot_be_made_are_noted_once_and_when_they_can_be_again(
    red: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    for number, place in enumerate((tmp_path / "absent", tmp_path)):
        monkeypatch.setattr(tempfile, "tempdir", str(place))  # where OpenCV writes
        archive = archive_of(red, notes.append, clips=tmp_path / "clips", clip_seconds=0.5)
        for frame in range(3):  # each decides, and each is a clip of its own
            shot = shot_of(100 * number + frame, float(frame))
            archive.see(shot, flat("red", 32, 32))
            path = Path(archive.decided(shot, None, "cat")["clip"])
            archive.finish_clip()
        archive.close()
        assert path.is_file() == (place == tmp_path)
        good = 3 * (place == tmp_path)
        assert (archive.clips.delivered, archive.clips.lost) == (good, 3 - good)
    assert len(notes) == 1, notes
    assert "No such file" in notes[0]


def test_a_clip_runs_in_true_time_when_frames_come_slowly_or_fast() -> None:
    for pause, count in ((0.25, 5), (0.02, 51), (0.1, 11)):
        video = VideoFile(10)
        for number in range(count):
            video.add(5 + number * pause, jpeg("red" if number < count // 2 else "blue"))
        frames, _ = frames_of_bytes(video.finish())
        assert len(frames) == 11, "a second, with both its ends"
        turned = int(np.ceil((count // 2) * pause * 10 - 1e-6))
        assert [is_red(frame) for frame in frames] == [True] * turned + [False] * (11 - turned)


def test_a_frame_that_comes_long_after_a_clip_should_have_ended_is_not_in_it(
    red: Path, tmp_path: Path
) -> None:
    archive = archive_of(red, pytest.fail, clips=tmp_path, clip_seconds=1.0)
    for clock in (0.0, 0.5, 3600.0):
        archive.see(shot_of(1, clock), flat("red", 32, 32))
        if clock < 1:
            path = archive.decided(shot_of(1, clock), None, "cat")["clip"]
    archive.close()
    assert archive.clips.delivered == 1
    assert len(frames_of(path)[0]) == 6


def test_clips_that_a_hanging_disk_does_not_take_are_counted_and_fill_no_memory(
    red: Path, tmp_path: Path
) -> None:
    released = threading.Event()

    def record(*_: object, **__: object) -> None:
        assert released.wait(60)

    settings = WatchSettings(red, "0", clips=tmp_path, clip_seconds=0.5)
    classifier, recorder = Classifier(red, threads=1), record
    archive = Archive(settings, classifier, recorder, pytest.fail, Stop(), lossless=False)  # type: ignore[arg-type]
    archive.log(jpeg("red"), classifier(jpeg("red")), "", True)
    promised = 0
    for number in range(500):
        shot = shot_of(number, float(number))
        archive.see(shot, jpeg("red"))
        promised += "clip" in archive.decided(shot, None, "cat")
    assert promised < 100
    assert archive.clips.lost >= 400
    released.set()
    archive.close()


def test_large_frames_become_small_and_an_unreadable_one_is_left_out() -> None:
    large = np.random.default_rng(0).integers(0, 256, (721, 1281, 3), np.uint8)
    for photo in (large, encode(large, "JPEG")):
        video = VideoFile(10)
        video.add(0.0, clip_jpeg(photo) or b"")
        frames, _ = frames_of_bytes(video.finish())
        assert frames[0].shape == (360, 640, 3)
    assert clip_jpeg(b"no photo") is None
    assert clip_jpeg(jpeg("red")[:200]) is None
    with pytest.raises(CatflapError, match="cannot write a video"):
        VideoFile(10).finish()


def test_a_disk_that_hangs_holds_up_no_frame_and_what_is_lost_is_counted(red: Path, tmp_path: Path) -> None:
    begun, released = threading.Event(), threading.Event()

    def record(*_: object, **__: object) -> None:
        begun.set()
        assert released.wait(60)

    settings = WatchSettings(red, "0", save=tmp_path)
    classifier = Classifier(red, threads=1)
    recorder: Any = record
    archive = Archive(settings, classifier, recorder, pytest.fail, Stop(), lossless=False)
    archive.log(jpeg("red"), classifier(jpeg("red")), "", True)
    assert begun.wait(60)
    for number in range(100):
        archive.decided(shot_of(number, number / 10), jpeg("red"), "cat")
    assert archive.saved.lost == 100 - CAPACITY
    released.set()
    archive.close()
    assert (archive.saved.delivered, archive.logged.delivered) == (CAPACITY, 1)


def names_in(folder: Path, but: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path != but)


def test_a_folder_keeps_the_newest_within_its_limit(tmp_path: Path) -> None:
    data = jpeg("red")
    other = tmp_path / "holiday.jpg"
    other.write_bytes(b"somebody's photo")
    folder = CappedFolder(tmp_path, 3 * len(data), pytest.fail)
    names = [file_name(Shot(bytes, None, n, 0.0, 0.0, 1e9 + n), "cat / ../x", "jpg") for n in range(10)]
    assert [folder.put(name, data) for name in names] == [""] * 10
    assert names_in(tmp_path, other) == names[-3:]
    assert folder.bytes == 3 * len(data)
    again = CappedFolder(tmp_path, 2 * len(data), pytest.fail)
    again.put(file_name(Shot(bytes, None, 11, 0.0, 0.0, 2e9), "cat", "jpg"), data)
    assert len(list(tmp_path.glob("*-cat*.jpg"))) == 2, "what an earlier watch saved counts too"
    assert "--save-mb" in again.put("x", bytes(3 * len(data)))
    assert other.read_bytes() == b"somebody's photo"


def test_a_full_disk_is_noted_once_and_the_watch_goes_on(
    red: Path, mount_small: Callable[[str], Path]
) -> None:
    notes: list[str] = []
    archive = archive_of(red, notes.append, save=mount_small("16k"))
    for number in range(6):
        archive.decided(shot_of(number, number / 10), b"\xff\xd8" + bytes(6000), "cat")
    archive.close()
    assert archive.saved.delivered >= 1
    assert archive.saved.lost == 6 - archive.saved.delivered > 0
    assert len(notes) == 1
    assert "No space left" in notes[0]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CatflapError, match="cannot be saved"):
        CappedFolder(tmp_path / "file" / "x", 1000, pytest.fail)
