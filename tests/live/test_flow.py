"""What a watched frame costs, and that nobody who is slow holds it up."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from catflap.image import Frame
from catflap.live.frame_sources import find_source
from catflap.live.frames import SourceLost
from tests.live.cameras import CATFLAP, camera, eventually, jpeg

COUNT = """
import collections, json, os, sys, threading
import catflap
from catflap.live.hysteresis import Rules
from catflap.live.watch import watch
from catflap.live.watch_settings import WatchSettings

ours = os.path.dirname(catflap.__file__) + os.sep
windows, frames = [collections.Counter() for _ in range(10)], 0  # of ten frames each

def profile(frame, what, _):
    global frames
    file = frame.f_code.co_filename
    if what != "call" or not file.startswith(ours):
        return
    if (file.endswith("watch.py"), frame.f_code.co_name) == (True, "frame"):
        frames += 1
        if frames == 130:
            os.kill(os.getpid(), 2)
    if 20 < frames <= 120:  # what begins and ends is not of a frame
        windows[(frames - 21) // 10][file] += 1

threading.setprofile(profile)
sys.setprofile(profile)
watch(WatchSettings(sys.argv[1], sys.argv[2], threads=1, rules=Rules()))
sys.setprofile(None)
calls = min(windows, key=collections.Counter.total)  # on a busy machine others have frames that are dropped
usual = {file: count for file, count in calls.items() if count >= 5}
print(json.dumps({file[len(ours):].replace(os.sep, "/"): count / 10 for file, count in usual.items()}))
"""


@pytest.mark.slow
def test_a_watched_frame_takes_few_of_our_calls_in_few_files(red: Path) -> None:
    """From the camera's bytes to the decision, over all threads."""
    with camera(fps=30) as source:
        source.mode = "red"
        answer = subprocess.run(
            [sys.executable, "-c", COUNT, red, source.url], capture_output=True, text=True, check=True
        )
    calls = json.loads(answer.stdout)
    assert len(calls) <= 8, calls
    ours = sum(count for file, count in calls.items() if file.startswith("live/"))
    assert ours <= 18, calls  # and the photo itself takes at most 12, which a test of the runtime counts


@pytest.mark.slow
def test_a_reader_of_stdout_that_hangs_holds_up_no_decision_and_no_end(red: Path, tmp_path: Path) -> None:
    door = tmp_path / "door"
    opens, shuts = (f"sh -c 'echo {word} >> {door}'" for word in ("open", "shut"))
    words = ["--every-frame", "--json", "--on", "cat", opens, "--on", "unsure", shuts]
    with camera(fps=200) as source:
        command = [CATFLAP, "watch", red, source.url, *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, pipesize=4096)
        assert process.stdout
        try:
            source.mode = "grey"
            eventually(lambda: source.sent > 400)  # far more events than a pipe holds, and nobody reads
            source.mode = "red"
            eventually(door.exists)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.stdout.close()
    assert door.read_text() == "open\nshut\n"


@pytest.mark.slow
def test_a_camera_that_drips_without_a_whole_frame_is_lost() -> None:
    """Each byte is in time for the socket; the frame never comes."""
    server = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def drip() -> None:
        one = server.accept()[0]
        with suppress(OSError), one:
            one.recv(65536)
            one.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=x\r\n\r\n")
            one.sendall(jpeg("red") + jpeg("blue")[:-2])
            while not over.wait(0.02):
                one.sendall(b"\x00")

    thread = threading.Thread(target=drip)
    thread.start()
    url = f"http://127.0.0.1:{server.getsockname()[1]}/"
    opened = find_source(url, Frame(), timeout=1.5, fps=1.0).open()  # in which the first frame must come
    try:
        assert opened.read() is not None
        with pytest.raises(SourceLost, match=r"no whole frame within 1\.5 s"):
            opened.read()
    finally:
        over.set()
        opened.close()
        thread.join(60)
        server.close()


def test_a_camera_whose_answer_drips_is_lost() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def drip() -> None:
        one = server.accept()[0]
        with suppress(OSError), one:
            one.recv(65536)
            one.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not over.wait(0.02):
                one.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    url = f"http://127.0.0.1:{server.getsockname()[1]}/"
    try:
        with pytest.raises(SourceLost, match=r"no answer within 0\.5 s"):
            find_source(url, Frame(), timeout=0.5, fps=1.0).open()
    finally:
        over.set()
        thread.join(60)
        server.close()


def test_a_wall_clock_that_jumps_changes_nothing_but_the_times_that_are_told(
    red: Path, tmp_path: Path
) -> None:
    """As on a Raspberry Pi without a clock, when the network comes; every wait is on the monotonic clock."""
    site = tmp_path / "sitecustomize.py"
    site.write_text(
        "import time\n"
        "true, calls = time.time, [0]\n"
        "def jumping():\n"
        "    calls[0] += 1\n"
        "    return true() - (calls[0] % 2) * 1e9\n"
        "time.time = jumping\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    words = [
        "--json",
        "--save",
        tmp_path / "frames",
        "--clips",
        tmp_path / "clips",
        "--log",
        tmp_path / "log",
    ]
    with camera() as source:
        process = subprocess.Popen(
            [CATFLAP, "watch", red, source.url, *words],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert process.stdout
        source.mode = "red"
        lines = [process.stdout.readline()]
        while b'"decision": "cat"' not in lines[-1]:
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
        assert process.wait(60) == 0
        process.stdout.close()
    assert b'"why": "stopped"' in rest
    assert len(list((tmp_path / "frames").iterdir())) == len(list((tmp_path / "clips").iterdir())) == 1


def test_a_watch_needs_nothing_that_windows_lacks(red: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "for name in ('fcntl', 'resource', 'pwd', 'termios'):\n"
        "    sys.modules[name] = None\n"
        "for name in ('setpriority', 'killpg', 'fork', 'geteuid'):\n"
        "    delattr(os, name)\n"
        "del signal.SIGHUP, signal.SIGKILL\n"
    )
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(8):
        (photos / f"{number}.jpg").write_bytes(jpeg("red"))
    words = ["--save", tmp_path / "frames", "--clips", tmp_path / "clips", "--log", tmp_path / "field.log"]
    words += ["--on", "unsure", f"{sys.executable} -c ''", "--preview", "0", "--json"]
    answer = subprocess.run(
        [CATFLAP, "watch", red, photos, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    summary = json.loads(answer.stdout.splitlines()[-1])
    assert summary["sinks"]["save"] == summary["sinks"]["clips"] == {"delivered": 1, "lost": 0}
