"""Videos, folders and pipes: every frame, in order, with its time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from catflap.errors import BadPhoto, CatflapError
from catflap.image import Frame
from catflap.live.frame_sources import find_source
from catflap.live.frames import Shot, Source, Stop, all_frames, open_first
from tests.live.cameras import flat, jpeg, write_video


def find(word: object, fps: float = 1.0) -> Source:
    return find_source(str(word), Frame(), timeout=2.0, fps=fps)


def shots_of(source: Source) -> list[Shot]:
    return list(all_frames(open_first(source), Stop()))


@pytest.mark.parametrize("name", ["video.avi", "video.mp4"])
def test_a_video_gives_every_frame_with_its_time(name: str, tmp_path: Path) -> None:
    source = find(write_video(tmp_path / name, ["red"] * 7 + ["blue"] * 8, fps=10))
    assert not source.live
    shots = shots_of(source)
    assert [shot.number for shot in shots] == list(range(1, 16))
    assert [shot.clock for shot in shots] == pytest.approx([number / 10 for number in range(15)], abs=0.02)
    for shot, colour in ((shots[0], "red"), (shots[-1], "blue")):
        pixels = shot.load()
        assert isinstance(pixels, np.ndarray)
        assert pixels.shape == (120, 160, 3)
        assert np.abs(pixels.astype(int) - flat(colour)).max() < 30, "red, green, blue in that order"


def test_a_video_whose_name_looks_like_a_protocol_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.avi", ["red"] * 3)
    monkeypatch.chdir(tmp_path)
    path.rename(tmp_path / "rtsp:a.avi")
    assert len(shots_of(find("rtsp:a.avi"))) == 3


def test_a_video_that_is_cut_off_gives_what_is_there(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", ["red"] * 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 1 <= len(shots_of(find(path))) < 40


def test_a_folder_gives_its_photos_in_order(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.jpg", "sub/c.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg("red"))
    shots = shots_of(find(tmp_path, fps=2.0))
    assert [Path(shot.path or "").name for shot in shots] == ["a.jpg", "b.jpg", "c.png"]
    assert [shot.clock for shot in shots] == [0, 0.5, 1.0]
    assert shots[0].load() == jpeg("red")


def test_a_folder_without_photos_says_so(tmp_path: Path) -> None:
    (shot,) = shots_of(find(tmp_path))
    with pytest.raises(BadPhoto, match="no photos"):
        shot.load()


def test_a_file_on_stdin_waits_and_a_pipe_does_not(tmp_path: Path) -> None:
    path = tmp_path / "frames.mjpeg"
    path.write_bytes(jpeg("red") * 5)
    command = [sys.executable, "-c", ON_STDIN]
    with open(path, "rb") as file:
        answer = subprocess.run(command, stdin=file, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "0.4"]
    piped = subprocess.run(command, input=path.read_bytes(), capture_output=True, check=True)
    assert piped.stdout.split() == [b"True", b"0.0"]


ON_STDIN = """
from catflap.image import Frame
from catflap.live.frames import Stop
from catflap.live.frames import all_frames
from catflap.live.frame_sources import find_source
source = find_source("-", Frame(), timeout=2.0, fps=10.0)
print(source.live, [round(shot.clock, 3) for shot in all_frames(source.open(), Stop())][-1])
"""


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("nowhere.mp4", "There is no source"),
        ("ftp://camera/x", "cannot be reached with ftp"),
        ("rtsp://", "cannot be reached with rtsp"),
        ("http://[::1/x", "not a valid URL"),
        ("http://camera:99999/", "not a valid URL"),
        ("a\x00b", "There is no source"),
        ("²", "There is no source"),
        ("", "There is no source"),
    ],
)
def test_what_is_no_source_is_refused(word: str, message: str) -> None:
    with pytest.raises(CatflapError, match=message):
        find(word)


def test_one_photo_is_for_predict(tmp_path: Path) -> None:
    (tmp_path / "a.JPG").write_bytes(jpeg("red"))
    with pytest.raises(CatflapError, match="one photo"):
        find(tmp_path / "a.JPG")


@pytest.mark.parametrize("content", [b"", b"no video at all", b"\x00\x00\x00\x18ftypmp42" + bytes(5000)])
def test_a_file_that_is_no_video_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(CatflapError, match="cannot be opened"):
        shots_of(find(tmp_path / "a.mp4"))


@pytest.mark.parametrize(
    "word", ["99", "/dev/null", "rtsp://user:secret@127.0.0.1:9/x", "http://u:secret@127.0.0.1:9/"]
)
def test_what_cannot_be_opened_is_told_without_its_password(word: str) -> None:
    with pytest.raises(CatflapError, match="cannot be watched") as caught:
        open_first(find(word))
    assert "secret" not in str(caught.value)
