"""`catflap watch` as a process: events, outages, signals."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import time
import urllib.request
from hashlib import md5
from pathlib import Path

import pytest

from catflap.cli.main import main
from catflap.live.frame_sources import Splitter
from tests.live.cameras import CATFLAP, camera, eventually, jpeg, watching, write_video

QUICK = ("--dwell", "0.1", "--smoothing", "0.1")


def test_a_video_becomes_events_and_no_frame_is_dropped(red: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", ["blue"] * 10 + ["red"] * 15 + ["blue"] + ["red"] * 5)
    with watching(red, video, "--every-frame") as watcher:
        assert watcher.end() == 0
    kinds = [event["event"] for event in watcher.events]
    assert kinds.count("frame") == 31
    assert kinds[0] == "started"
    assert kinds[-1] == "ended"
    decided = [event for event in watcher.events if event["event"] == "decision"]
    assert [event["decision"] for event in decided] == ["not_cat", "cat", "unsure"]
    assert decided[1]["previous"] == "not_cat"
    assert 11 < decided[1]["frame"] < 20
    assert decided[1]["frame_time"] == pytest.approx((decided[1]["frame"] - 1) / 10, abs=0.02)
    assert decided[1]["frame_age_ms"] >= decided[1]["ms"] > 0
    assert decided[2]["why"] == "ended"
    summary = watcher.events[-1]
    assert (summary["frames"], summary["judged"], summary["dropped"]) == (31, 31, 0)
    assert summary["decisions"] == 3
    assert watcher.stderr == ""


def test_a_region_is_all_that_is_judged(red: Path, tmp_path: Path) -> None:
    import numpy as np

    from catflap.image import encode
    from tests.live.cameras import flat

    half = np.concatenate([flat("red")[:, :80], flat("blue")[:, :80]], axis=1)
    for number in range(6):
        (tmp_path / f"{number}.jpg").write_bytes(encode(half, "JPEG", quality=95))
    for region, decision in (("0,0,0.4,1", "cat"), ("0.6,0,1,1", "not_cat")):
        with watching(red, tmp_path, "--region", region) as watcher:
            assert watcher.await_event("decision")["decision"] == decision
            assert watcher.end() == 0


@pytest.mark.slow
def test_at_an_operating_point_the_decisions_of_the_frames_are_averaged(tmp_path: Path) -> None:
    import numpy as np

    from catflap.image import encode
    from tests.serving.bundles import make_bundle

    bundle = make_bundle(tmp_path / "cat.catflap", points={0.001: 0.97, 0.1: 0.7})
    reddish = encode(np.full((40, 40, 3), (153, 0, 128), np.uint8), "PNG")  # a cat at 0.92
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(reddish)
    points = {"": "cat", "cat:max_fpr=0.001": "not_cat", "cat:max_fpr=0.1": "cat"}
    for point, decision in points.items():
        words = ("--operating-point", point, "--prior", "cat=0.25") if point else ()
        with watching(bundle, tmp_path, *words, "--every-frame") as watcher:
            reported = watcher.await_event("decision")
            assert (reported["decision"], reported["label"]) == (decision, decision)
            assert reported["probability"] == pytest.approx(1.0 if point else 0.924, abs=0.001)
            assert watcher.end() == 0
        frames = [event for event in watcher.events if event["event"] == "frame"]
        assert {frame["label"] for frame in frames} == {"cat"}
        assert frames[-1]["decision"] == decision


def test_a_stream_freezes_vanishes_and_comes_back(red: Path) -> None:
    with camera() as source, watching(red, source.url, "--stalled", "1", *QUICK) as watcher:
        assert watcher.await_event("started")["live"] is True
        source.mode = "red"
        assert watcher.await_event("decision", decision="cat")["frame_age_ms"] > 0
        source.mode = "frozen"
        assert "1 s" in watcher.await_event("frozen")["why"]
        assert watcher.await_event("decision", decision="unsure")["why"] == "frozen"
        source.mode = "blue"
        watcher.await_event("back")
        watcher.await_event("decision", decision="not_cat")
        source.mode = "gone"
        watcher.await_event("lost")
        watcher.await_event("decision", decision="unsure")
        visits = source.visits
        eventually(lambda: source.visits >= visits + 2)
        source.mode = "red"
        watcher.await_event("back")
        watcher.await_event("decision", decision="cat")
        assert watcher.stop() == 0
        assert watcher.await_event("decision")["decision"] == "unsure"
        summary = watcher.await_event("ended")
        assert summary["why"] == "stopped"
        assert summary["outages"] >= 2
        assert summary["dropped"] >= 0
    assert watcher.stderr == ""


@pytest.mark.slow
def test_a_camera_that_hangs_and_sends_its_last_picture_is_told(red: Path) -> None:
    words = ("--still", "1", "--stalled", "30", *QUICK)
    with camera() as source, watching(red, source.url, *words) as watcher:
        source.mode = "red"
        watcher.await_event("decision", decision="cat")
        source.hung = True
        assert "same picture for 1 s" in watcher.await_event("frozen")["why"]
        assert watcher.await_event("decision", decision="unsure")["why"] == "frozen"
        sent = source.sent
        eventually(lambda: source.sent > sent + 60)
        source.mode, source.hung = "blue", False
        watcher.await_event("back")
        assert watcher.await_event("decision")["decision"] == "not_cat"
        assert watcher.stop() == 0
        assert watcher.await_event("ended")["outages"] == 1, "and it was reported once"


def test_one_bad_frame_of_a_stream_decides_nothing(red: Path) -> None:
    with camera() as source, watching(red, source.url, "--every-frame") as watcher:
        source.mode = "blue"
        watcher.await_event("decision", decision="not_cat")
        source.flash = "red"
        for _ in range(3):
            assert watcher.await_event("frame", label="cat")["decision"] == "not_cat"
        assert watcher.await_event("frame", label="not_cat")["decision"] == "not_cat"


@pytest.mark.slow
def test_a_slow_judge_drops_frames_and_never_sees_old_ones(tmp_path: Path) -> None:
    from tests.serving.bundles import make_bundle

    slow = make_bundle(tmp_path / "slow.catflap", effort=10)
    with camera(fps=60) as source, watching(slow, source.url, "--every-frame", "--threads", "1") as watcher:
        source.mode = "red"
        for _ in range(12):
            watcher.await_event("frame")
        watcher.stop()
        summary = watcher.await_event("ended")
    assert summary["dropped"] > summary["judged"]


@pytest.mark.slow
def test_no_more_frames_are_judged_than_are_wanted(red: Path) -> None:
    with camera(fps=100) as source, watching(red, source.url, "--max-fps", "4", "--every-frame") as watcher:
        for _ in range(6):
            watcher.await_event("frame")
        watcher.stop()
        summary = watcher.await_event("ended")
    assert summary["judged"] <= 4 * summary["seconds"] + 1
    assert summary["dropped"] > summary["judged"]


def test_frames_come_through_a_pipe(red: Path) -> None:
    with watching(red, "-", "--every-frame", stdin=subprocess.PIPE) as watcher:
        assert watcher.process.stdin
        watcher.await_event("started")
        for _ in range(5):
            watcher.process.stdin.write(jpeg("red"))
            watcher.process.stdin.flush()
            assert watcher.await_event("frame")["label"] == "cat"
        watcher.process.stdin.close()
        assert watcher.end() == 0
        assert watcher.await_event("ended")["judged"] == 5


@pytest.mark.slow
def test_a_pipe_that_says_nothing_can_be_interrupted(red: Path) -> None:
    with watching(red, "-", stdin=subprocess.PIPE) as watcher:
        watcher.await_event("started")
        assert watcher.stop() == 0
        watcher.await_event("ended")
        assert watcher.process.stdin
        watcher.process.stdin.close()
    assert watcher.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_well_and_says_so(number: signal.Signals, red: Path) -> None:
    with camera() as source, watching(red, source.url) as watcher:
        watcher.await_event("started")
        assert watcher.stop(number) == 0
        assert watcher.await_event("ended")["why"] == "stopped"


@pytest.mark.slow
def test_sigterm_ends_a_watch_whose_camera_stalls(red: Path) -> None:
    """The reader waits for the camera for 20 minutes; the end does not."""
    with camera() as source, watching(red, source.url, "--stalled", "600", "--every-frame") as watcher:
        watcher.await_event("frame")
        source.mode = "frozen"
        time.sleep(1)  # until the reader waits for what does not come
        assert watcher.stop(signal.SIGTERM) == 0
        assert watcher.await_event("ended")["why"] == "stopped"
    assert watcher.stderr == ""


def test_damaged_frames_are_told_once_and_the_watch_goes_on(red: Path, tmp_path: Path) -> None:
    good = jpeg("red")
    names = {"a": good, "b": good[:300], "c": b"<html>", "d": good, "e": b""}
    for name, data in names.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    with watching(red, tmp_path) as watcher:
        assert watcher.end() == 0
    bad = [Path(event["path"]).name for event in watcher.events if event["event"] == "unreadable"]
    assert bad == ["b.jpg", "e.jpg"]
    assert watcher.events[-1]["unreadable"] == 3


def test_damaged_jpegs_in_a_stream_do_not_end_it(red: Path) -> None:
    good = jpeg("red")
    middle = len(good) // 2
    scan = good.index(b"\xff\xda") + 14
    hostile = (
        good[:middle] + good[middle + 40 :],
        good[:scan] + bytes(50) + b"\xff\xd9",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xc0\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00\xff\xd9",
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(1000),
    )
    with watching(red, "-", "--every-frame", stdin=subprocess.PIPE) as watcher:
        assert watcher.process.stdin
        watcher.await_event("started")
        for bad in hostile:
            watcher.process.stdin.write(bad)
            watcher.process.stdin.write(good)
            watcher.process.stdin.flush()
            watcher.await_event("frame", label="cat")
        watcher.process.stdin.close()
        assert watcher.end() == 0
        assert watcher.await_event("ended")["judged"] >= len(hostile)


def test_the_preview_shows_frames_in_a_browser(red: Path) -> None:
    with camera() as source, watching(red, source.url, "--preview", "0") as watcher:
        port = watcher.await_event("started")["preview"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
            assert b'src="stream"' in page.read()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/stream", timeout=60) as stream:
            assert "multipart/x-mixed-replace" in stream.headers["Content-Type"]
            splitter, found = Splitter(1 << 20), 0
            while found < 3:
                found += len(splitter.feed(stream.read1(65536)))
        assert watcher.stop() == 0


@pytest.mark.parametrize("scheme", [pytest.param("Basic", marks=pytest.mark.slow), "Digest"])
def test_a_password_in_the_address_is_used_and_not_shown(red: Path, scheme: str) -> None:
    with camera() as source:
        source.challenge = f'{scheme} realm="camera", nonce="abc", qop="auth"'
        url = source.url.replace("http://", "http://me:se%3Acret@")
        with watching(red, url) as watcher:
            started = watcher.await_event("started")
            assert started["source"] == source.url
            watcher.stop()
        sent = source.asked[1]
        assert sent
        if scheme == "Basic":
            assert sent == "Basic bWU6c2U6Y3JldA=="
        else:
            fields = dict(re.findall(r'(\w+)="?([^",]+)"?', sent))
            first, second = (md5(text.encode()).hexdigest() for text in ("me:camera:se:cret", "GET:/video"))
            parts = (first, "abc", fields["nc"], fields["cnonce"], "auth", second)
            assert fields["response"] == md5(":".join(parts).encode()).hexdigest(), "RFC 7616"
        assert "cret" not in str(watcher.events) + watcher.stderr


@pytest.mark.parametrize(
    ("words", "wording"),
    [
        (["nowhere"], "There is no source"),
        (["VIDEO", "--region", "1,2,3"], "four numbers"),
        (["VIDEO", "--region", "0.5,0,0.4,1"], "not inside"),
        (["VIDEO", "--enter", "0.3"], "--enter is 0.3"),
        (["VIDEO", "--on", "dog", "true"], "never decides 'dog'"),
        (["VIDEO", "--on", "cat", "'"], "cannot be parsed"),
        (["VIDEO", "--webhook", "ftp://x"], "not a valid URL"),
        (["VIDEO", "--mqtt", "mqtt://host"], "no host or no topic"),
        (["VIDEO", "--on", "cat", "a", "--on", "not_cat", "b", "--on", "cat", "c"], "'cat' has 2 commands"),
        (["VIDEO", "--preview", "http"], "has no port"),
        (["VIDEO", "--preview", "²"], "has no port"),
        (["VIDEO", "--preview", "9" * 5000], "has no port"),
        (["VIDEO", "--preview", "ü..x:0"], "Cannot listen"),
        (["99999999999"], "There is no source"),
        (["VIDEO", "--stalled", "0"], "stalled is 0"),
        (["VIDEO", "--still", "0"], "still is 0"),
        (["VIDEO", "--prior", "cat"], "LABEL=SHARE"),
        (["VIDEO", "--fps", "2"], "--fps has no effect on "),
        (["VIDEO", "--max-fps", "2"], "--max-fps has no effect on "),
        (["FOLDER", "--max-fps", "2"], "--max-fps has no effect on "),
        (["FOLDER", "--still", "30"], "--still has no effect on "),
        (["987", "--fps", "2"], "--fps has no effect on camera 987."),
        (["rtsp://127.0.0.1:1/x", "--fps", "2"], "--fps has no effect on rtsp://127.0.0.1:1/x."),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_fix(
    red: Path, words: list[str], wording: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "a.avi", ["red"] * 2)
    words = [{"VIDEO": str(video), "FOLDER": str(tmp_path)}.get(word, word) for word in words]
    assert main(["watch", str(red), *words]) == 2
    message = capsys.readouterr().err
    assert wording in message
    assert "\n  fix: " in message
    assert "bug" not in message


def test_a_watch_logs_frames_now_and_then_and_those_that_decided(red: Path, tmp_path: Path) -> None:
    from catflap.artifacts.field_log import read_field_log

    video = write_video(tmp_path / "a.avi", ["blue"] * 20 + ["red"] * 25)
    log = tmp_path / "field.log"
    with watching(red, video, "--log", log, "--log-every", "1", "--log-photos") as watcher:
        assert watcher.end() == 0
    rows = list(read_field_log(log, pictures=True))
    assert sum(row.regular for row in rows) == 5, "at 0, 1, 2, 3 and 4 s"
    assert [row.decision for row in rows if not row.regular] == ["not_cat", "cat"]
    assert all(row.picture and row.verb == "watch" for row in rows)


def test_photos_of_a_folder_are_found_again_from_elsewhere(red: Path, tmp_path: Path) -> None:
    from catflap.artifacts.field_log import read_field_log

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(jpeg("grey"))
    words = [CATFLAP, "watch", red, "photos", "--log", tmp_path / "field.log"]
    subprocess.run(words, cwd=tmp_path, capture_output=True, check=True)
    assert [row.path for row in read_field_log(tmp_path / "field.log")] == [str(tmp_path / "photos/a.jpg")]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    words = [CATFLAP, "review", "queue", "../field.log", "-o", "queue", "--json"]
    answer = subprocess.run(words, cwd=elsewhere, capture_output=True, check=True)
    queue = json.loads(answer.stdout)
    assert (queue["photos"], queue["gone"]) == (1, 0)


def test_a_frame_is_saved_as_what_its_name_says(red: Path, tmp_path: Path) -> None:
    from catflap.image import encode, inspect
    from tests.live.cameras import flat

    (tmp_path / "photos").mkdir()
    for number in range(6):
        (tmp_path / f"photos/{number}.png").write_bytes(encode(flat("red"), "PNG"))
    with watching(red, tmp_path / "photos", "--save", tmp_path / "saved") as watcher:
        assert watcher.end() == 0
    (saved,) = (tmp_path / "saved").iterdir()
    assert saved.suffix == ".jpg"
    assert inspect(saved.read_bytes()).format == "JPEG"


@pytest.mark.slow
def test_any_other_video_over_http_is_a_live_source_too(red: Path, tmp_path: Path) -> None:
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    write_video(tmp_path / "film.mp4", ["red"] * 40)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/film.mp4"
        with watching(red, url, "--every-frame") as watcher:
            assert watcher.await_event("started")["live"] is True
            assert watcher.await_event("frame")["label"] == "cat"
            watcher.await_event("lost")
            watcher.await_event("back")
            assert watcher.stop() == 0
    finally:
        server.shutdown()
        server.server_close()
