"""A camera that answers each request with one photo: it is asked again and again."""

from __future__ import annotations

import signal
from pathlib import Path
from time import monotonic

import pytest

from catflap.image import Frame, encode
from catflap.live.frame_sources import find_source
from catflap.live.frames import SourceLost
from tests.live.cameras import Camera, camera, flat, jpeg, watching
from tests.matrix import mostly_slow

QUICK = ("--fps", "20", "--dwell", "0.1", "--smoothing", "0.1")


@pytest.mark.slow
@pytest.mark.parametrize("single", ["sized", pytest.param("unsized", marks=pytest.mark.slow)])
def test_its_photos_are_judged_it_vanishes_and_comes_back(red: Path, single: str) -> None:
    with camera() as source:
        source.single, source.mode = single, "red"
        with watching(red, source.url, *QUICK) as watcher:
            assert watcher.await_event("started")["live"] is True
            assert watcher.await_event("decision")["decision"] == "cat"
            source.mode = "blue"
            assert watcher.await_event("decision", previous="cat")["decision"] in ("not_cat", "unsure")
            source.mode = "gone"
            assert "Service Unavailable" in watcher.await_event("lost")["why"]
            assert watcher.await_event("decision")["why"] == "lost"
            source.mode = "red"
            watcher.await_event("back")
            watcher.await_event("decision", decision="cat")
            assert watcher.stop() == 0
            assert watcher.await_event("ended")["outages"] == 1
        assert watcher.stderr == ""


@pytest.mark.parametrize("bad", mostly_slow(["half", "busy", "503"]))
def test_one_bad_photo_is_unreadable_and_opens_no_door(red: Path, tmp_path: Path, bad: str) -> None:
    door = tmp_path / "door"
    with camera() as source:
        source.single, source.mode, source.bad = "sized", "red", bad
        with watching(red, source.url, *QUICK, "--on", "unsure", f"touch {door}") as watcher:
            watcher.await_event("decision", decision="cat")
            for _ in range(3):
                assert "gave no photo" in watcher.await_event("unreadable")["what"]
            assert not door.exists()
            assert watcher.stop() == 0
            summary = watcher.await_event("ended")
        assert summary["outages"] == 0
        assert summary["decisions"] == 2, "cat, and unsure at the end"


@pytest.mark.parametrize("kind", mostly_slow(["application/octet-stream", "image/pjpeg", "text/plain"]))
def test_a_photo_is_known_by_its_first_bytes(red: Path, kind: str) -> None:
    with camera() as source:
        source.single, source.mode, source.kind = "sized", "red", kind
        with watching(red, source.url, *QUICK) as watcher:
            watcher.await_event("decision", decision="cat")
            assert watcher.stop() == 0
            assert watcher.await_event("ended")["outages"] == 0


def test_a_photo_that_is_no_jpeg_is_refused_at_the_start(red: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with camera() as source:
        source.single, source.kind = "sized", "image/png"
        monkeypatch.setattr(Camera, "frame", lambda _: encode(flat("red"), "PNG"))
        with watching(red, source.url) as watcher:
            assert watcher.end() == 2
        assert "image/png" in str(watcher.events)


@pytest.mark.slow
def test_it_is_asked_no_more_often_than_is_wanted(red: Path) -> None:
    with camera() as source:
        source.single, source.mode = "sized", "red"
        with watching(red, source.url, "--fps", "5", "--every-frame") as watcher:
            for _ in range(8):
                watcher.await_event("frame")
            assert watcher.stop() == 0
            summary = watcher.await_event("ended")
        assert source.visits <= 5 * summary["seconds"] + 2  # the first comes before the watch begins
        assert summary["outages"] == 0


@pytest.mark.parametrize("bad", mostly_slow(["", "503"]))
def test_the_same_photo_again_and_again_is_frozen(red: Path, bad: str) -> None:
    with camera() as source:
        source.single, source.mode, source.hung, source.bad = "sized", "red", True, bad
        with watching(red, source.url, *QUICK, "--still", "1") as watcher:
            assert "same picture for 1 s" in watcher.await_event("frozen")["why"]
            assert watcher.stop() == 0


@pytest.mark.slow
def test_a_signal_ends_it_between_two_photos(red: Path) -> None:
    with camera() as source:
        source.single, source.mode = "sized", "red"
        with watching(red, source.url, "--fps", "0.01", "--every-frame") as watcher:
            watcher.await_event("frame")
            begun = monotonic()
            assert watcher.stop(signal.SIGTERM) == 0
            assert monotonic() - begun < 20
            assert watcher.await_event("ended")["why"] == "stopped"


@pytest.mark.parametrize("scheme", mostly_slow(["Basic", "Digest"]))
def test_each_request_has_the_password_and_no_event_shows_it(red: Path, scheme: str) -> None:
    with camera() as source:
        source.single, source.mode = "sized", "red"
        source.challenge = f'{scheme} realm="camera", nonce="abc", qop="auth"'
        url = source.url.replace("http://", "http://me:secret@")
        with watching(red, url, *QUICK, "--every-frame") as watcher:
            assert watcher.await_event("started")["source"] == source.url
            for _ in range(12):
                watcher.await_event("frame")
            assert watcher.stop() == 0
            assert watcher.await_event("ended")["outages"] == 0
        assert str(source.asked[-1]).startswith(scheme)
        assert "secret" not in str(watcher.events) + watcher.stderr


def test_a_stream_that_calls_itself_a_photo_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with camera() as source:
        source.single, source.mode = "unsized", "red"
        monkeypatch.setattr(Camera, "frame", lambda _: jpeg("red") * 3)
        opened = find_source(source.url, Frame(), timeout=5.0, fps=20.0).open()
        assert [opened.read() is not None for _ in range(3)] == [True] * 3
        with pytest.raises(SourceLost, match="the stream ended"):
            opened.read()
        opened.close()
        assert source.visits == 1
